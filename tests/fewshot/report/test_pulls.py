"""The heat map of pulls, from evaluation to picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dynlm.cli.main import main
from dynlm.fewshot.report.pulls import pulls_of
from dynlm.fewshot.results import examples_of_runs


def evaluated(folder: Path, kind: str, **task: int) -> Path:
    sizes = {"arms": 4, "pulls": 6, **task}
    words = [f"--task.{name}={value}" for name, value in sizes.items()]
    words += ["--task.source=bandit", f"--learner.kind={kind}", f"--run.folder={folder}", f"--run.name={kind}"]
    assert main(["fewshot", "train", *words]) == 0
    assert main(["fewshot", "evaluate", str(folder / kind), "--evaluate.episodes=10"]) == 0
    return folder / kind


def test_show_draws_how_often_each_arm_is_pulled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [evaluated(tmp_path, kind) for kind in ("gittins", "random-actions", "oracle", "greedy")]
    assert main(["fewshot", "show", *map(str, runs), "--out", str(tmp_path / "out")]) == 0
    name = "bandit-4-arms-6-pulls-pulls"
    assert f"{name}.png" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / f"{name}.png") as picture:
        assert min(picture.size) > 200 and len(picture.convert("RGB").getcolors(1 << 20) or []) > 10
    assert (tmp_path / "out" / f"{name}.svg").exists()
    shown = json.loads((tmp_path / "out" / "fewshot.json").read_text())["pictures"]
    assert [one["alt"] for one in shown if "Pulls over time" in one["title"]] == [
        "How often each arm is pulled over time, by Gittins index, random actions, oracle, greedy."
    ]


def test_shares_of_pulls_are_those_of_the_policy(tmp_path: Path) -> None:
    runs = [evaluated(tmp_path, kind) for kind in ("oracle", "random-actions")]
    ((oracle, random),) = pulls_of(examples_of_runs(runs, "trajectories"))
    for one in (oracle, random):
        for task in one["tasks"]:
            np.testing.assert_allclose(np.sum(task["shares"], 1), 1, atol=1e-3)
            assert np.shape(task["shares"]) == (6, 4) and task["copies"] == 200
    best = int(np.argmax(oracle["tasks"][0]["parameters"]["means"]))
    assert np.asarray(oracle["tasks"][0]["shares"])[:, best].tolist() == [1.0] * 6
    assert np.abs(np.asarray(random["tasks"][0]["shares"]) - 0.25).max() < 0.15


def test_only_bandits_are_drawn_and_other_bandits_apart(tmp_path: Path) -> None:
    small = evaluated(tmp_path / "small", "oracle")
    large = evaluated(tmp_path / "large", "oracle", arms=5)
    assert len(pulls_of(examples_of_runs([small, large], "trajectories"))) == 2
    assert pulls_of([{"tasks": []}, {"tasks": [{"acted": []}]}]) == []
