"""Figures of navigation, made from files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dynlm.errors import UserError
from dynlm.fewshot.report.summary import summarise
from dynlm.fewshot.report.trajectories import trajectories
from dynlm.fewshot.results import EpisodeScores, write_scores
from dynlm.report.fewshot_results import load_fewshot

GOAL = [0.3, -0.4]
STEM = "navigation-6-steps-2-episodes"


def navigation_run(folder: Path, name: str, goal: list[float] = GOAL, adapts: str = "by steps") -> Path:
    """Write scores and examples of a run that was never trained."""
    protocol: dict[str, Any] = {"label": name, "run": name, "learner": name, "metric": "return", "split": "test"}
    protocol |= {"task": "navigation", "size": "6-steps-2-episodes", "episodes": 5, "adapts": adapts, "unit": "episode"}
    steps = [0, 1, 2]
    scores = EpisodeScores(protocol, steps, np.arange(15.0).reshape(5, 3), np.full(5, -0.5))
    write_scores(folder / name / "scores" / "a.json", scores)
    acted = []
    for step in steps:
        # Without a step it stays; with steps it walks to the goal, and its episode ends there.
        share = np.clip(np.arange(6) / 3, 0, 1) * (step > 0)
        valid = [True] * 4 + [step == 0] * 2
        positions = share[:, None] * np.asarray(goal)
        rewards = [-1.0 if inside else 0.0 for inside in valid]
        acted.append({"step": step, "observations": positions.tolist(), "rewards": rewards, "valid": valid})
    content = {"kind": "trajectories", "protocol": protocol, "horizon": 6}
    content["tasks"] = [{"parameters": {"goals": goal}, "acted": acted}]
    (folder / name / "examples").mkdir(parents=True)
    (folder / name / "examples" / "a.json").write_text(json.dumps(content))
    return folder / name


def test_a_trajectory_ends_with_its_episode(tmp_path: Path) -> None:
    example = json.loads((navigation_run(tmp_path, "maml") / "examples" / "a.json").read_text())
    (first, stays, lost), (second, walks, won), _ = trajectories(example, 0)
    assert (first, second, len(stays), len(walks), lost, won) == (0, 1, 6, 4, -6, -4)
    assert walks[-1].tolist() == GOAL


def test_trajectories_are_drawn_from_files_and_included_in_the_report(tmp_path: Path) -> None:
    runs = [navigation_run(tmp_path, name) for name in ("random", "maml", "reptile")]
    runs.append(navigation_run(tmp_path, "oracle", adapts="while acting"))
    _, written = summarise(runs, tmp_path / "out")
    names = {path.name for path in written}
    assert {
        f"{STEM}-trajectories.gif",
        f"{STEM}-strip.png",
        f"{STEM}-strip.svg",
    } <= names
    with Image.open(tmp_path / "out" / f"{STEM}-trajectories.gif") as animation:
        assert animation.n_frames == 4  # Pillow joins frames that are equal: nothing moves after the fourth.
        three = animation.size
    pictures = load_fewshot(tmp_path / "out").pictures
    assert f"{STEM}-trajectories.gif" in json.dumps(json.loads((tmp_path / "out" / "fewshot.json").read_text()))
    assert len(pictures) == 3  # regret of the oracle, the animation and the stills
    before = (tmp_path / "out" / f"{STEM}-strip.svg").read_bytes()
    summarise(runs, tmp_path / "out")
    assert before == (tmp_path / "out" / f"{STEM}-strip.svg").read_bytes()
    summarise(runs[:1], tmp_path / "one")
    with Image.open(tmp_path / "one" / f"{STEM}-trajectories.gif") as animation:
        assert animation.size[0] < three[0]


def test_different_goals_are_not_compared(tmp_path: Path) -> None:
    runs = [navigation_run(tmp_path, "maml"), navigation_run(tmp_path, "reptile", [0.1, 0.1])]
    with pytest.raises(UserError, match="maml and reptile show different goals"):
        summarise(runs, tmp_path / "out")
