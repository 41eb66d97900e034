"""Training and evaluation in run folders: seeds, resuming, refusals and files."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.fewshot.evaluate import evaluate, examples, score_episodes
from dynlm.fewshot.learners.learner import LEARNERS, Learned
from dynlm.fewshot.learners.maml import Maml
from dynlm.fewshot.options import EvaluateOptions, FewShotOptions, RunOptions, TrainOptions
from dynlm.fewshot.results import interval, load_scores
from dynlm.fewshot.run_folder import load_learned, load_run_options
from dynlm.fewshot.tasks.glyphs import Glyphs
from dynlm.fewshot.tasks.regression import Cubic
from dynlm.fewshot.tasks.source import seeded
from dynlm.fewshot.train import MetaTraining, lr_at, train
from dynlm.runtime.tensors import load_tensors
from tests.fewshot.test_learners import task_of
from tests.tiny import listing
from tests.train.test_resuming import stopped_after


def options_in(runs: Path, name: str = "one", kind: str = "maml", **sections: dict[str, Any]) -> FewShotOptions:
    learner = LEARNERS[kind].Options
    return FewShotOptions(
        RunOptions(name, str(runs)),
        Cubic.Options(),
        learner(**{"hidden": [8], "inner_steps": 2, **sections.get("learner", {})}),
        TrainOptions(**{"steps": 12, "tasks": 3, "log_every": 4, "checkpoint_every": 4, **sections.get("train", {})}),
        EvaluateOptions(**{"episodes": 20, "shown_tasks": 2, "shown_steps": 4, **sections.get("evaluate", {})}),
    )


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_training_equals_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: float) -> None:
    whole = options_in(tmp_path, "whole", train={"average": average})
    broken = options_in(tmp_path, "broken", train={"average": average})
    train(whole, quiet=True)
    sample, calls = Cubic.sample, []

    def interrupted(self, *arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == 8:  # one call before training, then the seventh step
            raise KeyboardInterrupt
        return sample(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Cubic, "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken, quiet=True)
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == ["step-00000004.safetensors"]
    train(broken, quiet=True)
    one, other = (load_tensors(tmp_path / name / "learner.safetensors")[0] for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "broken" / "checkpoints").iterdir())


@pytest.mark.parametrize("kind", ["maml", "reptile"])
def test_a_training_stopped_by_signals_resumes_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def words(name: str) -> list[str]:
        options = {"run.folder": tmp_path, "run.name": name, "task.source": "cubic", "learner.kind": kind}
        options |= {"learner.inner_steps": 2, "learner.hidden": [8], "train.steps": 12, "train.tasks": 3}
        options |= {"train.log_every": 5, "train.average": 0.9, "train.clip": 0.5}
        return ["fewshot", "train", *(f"--{key}={value}" for key, value in options.items())]

    def results(name: str) -> tuple[dict[str, bytes], list[tuple[float, ...]]]:
        tensors = load_tensors(tmp_path / name / "learner.safetensors")[0]
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses = [(line["step"], line["loss"], line["score"], line["norm"]) for line in log]
        return {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}, losses

    assert main(words("whole")) == 0
    for steps, number in ((3, signal.SIGTERM), (4, signal.SIGINT), (5, signal.SIGTERM)):
        capsys.readouterr()
        assert stopped_after(steps, number, *words("parts")) == 128 + number
        error = capsys.readouterr().err
        assert "dynlm: stopped; the same command goes on from" in error and "checkpoints/step-" in error
        assert not (tmp_path / "parts" / "learner.json").exists()
    assert main(words("parts")) == 0
    assert results("parts") == results("whole")
    assert not list((tmp_path / "parts" / "checkpoints").iterdir())


def test_training_depends_on_the_seed_and_is_not_repeated(tmp_path: Path) -> None:
    cards = [train(options_in(tmp_path, name), quiet=True) for name in ("one", "two")]
    assert cards[0]["fingerprint"] == cards[1]["fingerprint"]
    before = listing(tmp_path / "one")
    assert train(options_in(tmp_path, "one"), quiet=True)["fingerprint"] == cards[0]["fingerprint"]
    assert listing(tmp_path / "one") == before
    other = options_in(tmp_path, "three")
    other.run.seed = 1
    assert train(other, quiet=True)["fingerprint"] != cards[0]["fingerprint"]


def test_training_starts_from_another_run(tmp_path: Path) -> None:
    """The buffers of Reptile's Adam, one of which has no axes, are saved and loaded too."""
    options = {"inner_optimizer": "adam", "inner_rate": 0.001}
    first = options_in(tmp_path, "first", "reptile", learner=options)
    train(first, quiet=True)
    start = str(first.run.path)
    train(options_in(tmp_path, "same", "reptile", learner=options, train={"start": start, "steps": 0}), quiet=True)
    ends = [load_tensors(tmp_path / name / "learner.safetensors")[0] for name in ("first", "same")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert float(ends[0]["buffer.count"]) == 24
    train(options_in(tmp_path, "more", "reptile", learner=options, train={"start": start}), quiet=True)
    assert float(load_tensors(tmp_path / "more" / "learner.safetensors")[0]["buffer.count"]) == 48
    with pytest.raises(UserError, match="no trained learner"):
        train(options_in(tmp_path, "none", train={"start": str(tmp_path / "nowhere")}), quiet=True)


def test_a_folder_of_other_options_is_refused(tmp_path: Path) -> None:
    train(options_in(tmp_path), quiet=True)
    with pytest.raises(UserError, match=r"made with train.tasks 3, not 4"):
        train(options_in(tmp_path, train={"tasks": 4}), quiet=True)
    train(options_in(tmp_path, evaluate={"episodes": 30}), quiet=True)  # evaluation may differ


def test_a_diverging_training_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(options_in(tmp_path, learner={"inner_rate": 1e6, "inner_steps": 5}), quiet=True)


def test_nothing_is_written_where_a_split_is_too_small(tmp_path: Path) -> None:
    wrong = FewShotOptions(RunOptions("wrong", str(tmp_path)), Glyphs.Options(shots=15, queries=15))
    with pytest.raises(UserError, match="fewer than 15 for support"):
        train(wrong, quiet=True)
    assert not list(tmp_path.iterdir())


def test_evaluation_writes_scores_and_examples(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    train(options, quiet=True)
    folder = options.run.path
    path, scores = evaluate(folder, options, quiet=True)
    again = load_scores(path)
    assert again.steps == list(range(11)) and again.values_EJ.shape == (20, 11)
    np.testing.assert_allclose(again.values_EJ, scores.values_EJ, atol=1e-6)
    assert again.protocol["training"]["steps"] == 12 and again.protocol["split"] == "test"
    mean, half = again.at(5)
    column = again.values_EJ[:, 5]
    assert mean == pytest.approx(column.mean())
    assert half == pytest.approx(1.96 * column.std(ddof=1) / math.sqrt(20), rel=1e-3)
    shown = json.loads((folder / "examples" / path.name).read_text())
    assert len(shown["tasks"]) == 2 and len(shown["tasks"][0]["fits"]) == 5
    # The true curve is the one that the support points are on.
    x, y = np.asarray(shown["tasks"][0]["support"]).T
    np.testing.assert_allclose(np.interp(x, shown["grid"], shown["tasks"][0]["true"]), y, atol=0.02)


def test_batched_tasks_equal_single_tasks(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    source, learner = options.create()
    learned = learner.initial(seeded(0))
    episodes = source.sample("test", options.task.episode_shape(False), 4, seeded(3))

    def errors(part) -> list[float]:  # type: ignore[no-untyped-def]
        *_, adapted = learner.adapt(learned, part.support, 3, [seeded(0)] * part.tasks)
        outputs = learner.predict(learned, adapted, part.query.inputs)
        return source.problem.scores(outputs, part.query.targets).tolist()

    with torch.no_grad():
        assert errors(episodes) == pytest.approx([errors(task_of(episodes, task))[0] for task in range(4)], rel=1e-4)


@pytest.mark.parametrize("kind", ["maml", "random"])
def test_scores_do_not_depend_on_the_batch_size(tmp_path: Path, kind: str) -> None:
    every = []
    for at_once in (1, 7, 25, 50):
        options = options_in(tmp_path, kind=kind, evaluate={"episodes": 50, "at_once": at_once})
        source, learner = options.create()
        every.append(score_episodes(learner, learner.initial(seeded(0)), source, options).values_EJ)
    for values_EJ in every[1:]:
        np.testing.assert_allclose(values_EJ, every[0], rtol=1e-4)


def test_scores_are_written_where_examples_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = options_in(tmp_path)
    train(options, quiet=True)

    def fails(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("dynlm.fewshot.evaluate.examples", fails)
    with pytest.raises(MemoryError):
        evaluate(options.run.path, options, quiet=True)
    assert len(list((options.run.path / "scores").glob("*.json"))) == 1


def test_a_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    program = "import sys; from dynlm.runtime.files import exclusive\n"
    program += "with exclusive(sys.argv[1], 'it'): print(1, flush=True); input()"
    command = [sys.executable, "-c", program, str(options.run.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(UserError, match="this run is in use by another process"):
            train(options, quiet=True)
        assert not options.run.path.exists()
        other.communicate(b"\n")
    assert train(options, quiet=True)["steps"] == 12


def test_all_learners_get_the_same_test_episodes(tmp_path: Path) -> None:
    shown = []
    for kind in ("maml", "random"):
        options = options_in(tmp_path, kind, kind)
        source, learner = options.create()
        shown.append(examples(learner, learner.initial(seeded(0)), source, options))
    assert [task["true"] for task in shown[0]["tasks"]] == [task["true"] for task in shown[1]["tasks"]]
    assert [task["support"] for task in shown[0]["tasks"]] == [task["support"] for task in shown[1]["tasks"]]


def test_a_constant_answer_is_right_on_one_class_in_five() -> None:
    learner_options = Maml.Options(inner_rate=0.0, filters=4, layers=2)
    evaluation = EvaluateOptions(episodes=20, steps=1, shown_tasks=1)
    options = FewShotOptions(task=Glyphs.Options(queries=3), learner=learner_options, evaluate=evaluation)
    source, learner = options.create()
    learned = learner.initial(seeded(0))
    learned.meta["head.weight"].zero_()
    scores = score_episodes(learner, learned, source, options)
    assert scores.is_accuracy and scores.at() == (pytest.approx(0.2), pytest.approx(0))
    shown = examples(learner, learned, source, options)
    assert set(shown["tasks"][0]["answers"]) == {0}


def test_loading_refuses_tensors_that_do_not_fit(tmp_path: Path) -> None:
    options = options_in(tmp_path)
    train(options, quiet=True)
    folder = options.run.path
    assert load_run_options(folder) == options
    with pytest.raises(UserError, match=r"meta.linear.0.weight is \(1, 8\), these options need \(1, 9\)"):
        load_learned(folder, options_in(tmp_path, learner={"hidden": [9]}).create()[1])
    weights = folder / "learner.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with pytest.raises(UserError, match="cut short"):
        load_learned(folder, options.create()[1])
    weights.unlink()
    with pytest.raises(UserError, match="no such file"):
        load_learned(folder, options.create()[1])
    with pytest.raises(UserError, match="no trained learner"):
        load_learned(tmp_path / "none", options.create()[1])


def test_learning_rates_decay() -> None:
    linear, cosine = TrainOptions(optimizer="sgd", rate=2.0, final_rate=0.0), TrainOptions(rate=2.0, final_rate=0.1)
    assert [lr_at(p, linear) for p in (0, 0.25, 1)] == [2.0, 1.5, 0.0]
    assert [lr_at(p, cosine) for p in (0, 0.5, 1)] == pytest.approx([2.0, 1.1, 0.2])


def training_of(weight: torch.Tensor, **options: Any) -> MetaTraining:
    learned = Learned({"w": weight}, {})
    return MetaTraining(FewShotOptions(train=TrainOptions(**options)), None, None, learned)  # type: ignore[arg-type]


def test_the_average_weighs_first_steps_equally() -> None:
    training = training_of(torch.zeros(1), optimizer="sgd", rate=1.0, average=0.9)
    for _ in range(4):
        training.update({"w": torch.tensor([-1.0])}, 1.0)
    assert training.meta["w"].item() == 4.0 and training.result().meta["w"].item() == pytest.approx(2.5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_transposed_gradient_gives_the_same_step(optimizer: str) -> None:
    """A convolution's gradient may be transposed, and torch's fused Adam reads gradients in memory order."""
    gradient, updated = torch.arange(1.0, 13).reshape(4, 3).T, []
    for one in (gradient, gradient.contiguous()):
        training = training_of(torch.zeros(3, 4), optimizer=optimizer)
        training.update({"w": one}, 1.0)
        training.update({"w": one.square()}, 1.0)
        updated.append(training.meta["w"].detach())
    assert torch.equal(*updated)


def test_interval_of_known_numbers() -> None:
    assert interval(np.array([0.0, 1.0, 0.0, 1.0])) == (0.5, pytest.approx(1.96 * 0.57735 / 2, rel=1e-3))
