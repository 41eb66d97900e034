"""Runs of policy-gradient learners: resuming, evaluation, figures, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.cli.main import main
from dynlm.fewshot.tasks.navigation import Navigation
from dynlm.runtime.tensors import load_tensors
from tests.cli.commands import Capture, answer, answer_json, refused

SMALL: dict[str, Any] = {"task.source": "navigation", "task.horizon": 5, "task.episodes": 3, "task.queries": 2}
SMALL |= {"learner.hidden": [8], "train.steps": 6, "train.tasks": 3, "train.log_every": 2, "train.checkpoint_every": 2}
SMALL |= {"evaluate.episodes": 4, "evaluate.shown_tasks": 1}


def words(folder: Path, name: str, kind: str, **options: Any) -> list[str]:
    values = {**SMALL, "run.folder": folder, "run.name": name, "learner.kind": kind}
    values |= {key.replace("__", "."): value for key, value in options.items()}
    return ["fewshot", "train", *(f"--{key}={value}" for key, value in values.items())]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("policy-maml", {"learner__inner_steps": 2, "learner__multi_step_loss": "true", "train__average": 0.9}),
        ("policy-maml", {"learner__epochs": 2}),
        ("policy-reptile", {"train__optimizer": "sgd", "train__rate": 1.0}),
        ("guided", {"learner__epochs": 2}),
    ],
)
def test_a_resumed_training_equals_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any]
) -> None:
    assert main(words(tmp_path, "whole", kind, **options)) == 0
    sample, calls = Navigation.sample, []

    def interrupted(self, *arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == 6:  # two calls before training, then the fourth step
            raise KeyboardInterrupt
        return sample(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Navigation, "sample", interrupted)
        assert main(words(tmp_path, "parts", kind, **options)) == 130
    assert [path.name for path in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step-00000002.safetensors"]
    assert main(words(tmp_path, "parts", kind, **options)) == 0
    one, other = (load_tensors(tmp_path / name / "learner.safetensors")[0] for name in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    cards = [json.loads((tmp_path / name / "learner.json").read_text()) for name in ("whole", "parts")]
    assert cards[0]["environment_steps"] == cards[1]["environment_steps"] > 0


def test_training_evaluation_and_figures(tmp_path: Path, capsys: Capture) -> None:
    for kind in ("policy-random", "policy-maml"):
        answer(capsys, *words(tmp_path, kind, kind))
        content = answer_json(capsys, "fewshot", "evaluate", tmp_path / kind)
        assert [step["step"] for step in content["steps"]] == [0, 1, 2, 3]
        assert content["protocol"]["inner_rate"] == 0.5 and content["protocol"]["adapts"] == "by steps"
    assert content["protocol"]["training"]["environment_steps"] > 0
    shown = answer_json(
        capsys, "fewshot", "show", tmp_path / "policy-random", tmp_path / "policy-maml", "--out", tmp_path / "out"
    )
    names = {Path(file).name for file in shown["files"]}
    assert {"navigation-5-steps-3-episodes-trajectories.gif", "navigation-5-steps-3-episodes-strip.png"} <= names
    assert [row[0] for row in shown["tables"][0]["rows"]] != [] and "after 3 steps" in shown["tables"][0]["columns"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "policy-maml", "learner__surrogate": "reinforce"}, "learner.surrogate is 'reinforce'"),
        ({"kind": "policy-maml", "task__horizon": 0}, "task.horizon is 0"),
        ({"kind": "policy-maml", "learner__initial_std": 0}, "learner.initial_std is 0"),
        ({"kind": "policy-reptile", "learner__epochs": 2}, "learner.epochs is set, but learner.kind 'policy-reptile'"),
        ({"kind": "policy-maml", "learner__multi_step_loss": "true"}, "learner.multi_step_loss is set, but"),
        ({"kind": "policy-reptile", "learner__surrogate": "dice"}, "learner.surrogate is set, but learner.kind 'polic"),
        ({"kind": "guided", "task__source": "cubic", "task__horizon": None}, "acts in environments"),
        ({"kind": "maml"}, "learner.kind 'maml' needs labelled examples"),
    ],
)
def test_bad_options_are_refused_before_writing(
    options: dict[str, Any], message: str, tmp_path: Path, capsys: Capture
) -> None:
    given = words(tmp_path, "one", **options)
    if options.get("task__source"):
        given = [word for word in given if not word.startswith(("--task.horizon", "--task.episodes"))]
    assert message in refused(capsys, *given)
    assert not list(tmp_path.iterdir())
