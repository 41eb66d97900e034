"""Training and evaluation in real run folders: seeds, resuming, what is refused, what is written."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dynlm.cli.app import main
from dynlm.errors import UserError
from dynlm.fewshot import train as training
from dynlm.fewshot.evaluate import evaluate, examples, judge
from dynlm.fewshot.learners.learner import Learned
from dynlm.fewshot.open import open_learner, open_tasks
from dynlm.fewshot.options import (
    EvaluateConfig,
    FewShotConfig,
    FewShotRunConfig,
    LearnerConfig,
    TaskConfig,
    TrainConfig,
)
from dynlm.fewshot.results import interval, read_scores
from dynlm.fewshot.run_folder import load_learned, load_run_config, run_path
from dynlm.fewshot.tasks.episodes import seeded
from dynlm.fewshot.train import MetaOptimiser, rate_at, train
from dynlm.run.folder import load_tensors
from tests.tiny import listing
from tests.train.test_resuming import stopped_after


def config(runs: Path, name: str = "one", kind: str = "maml", **options: dict[str, object]) -> FewShotConfig:
    return FewShotConfig(
        FewShotRunConfig(name, str(runs)),
        TaskConfig("cubic"),
        LearnerConfig(kind, **{"hidden": [8], "inner_steps": 2, **options.get("learner", {})}),  # type: ignore[arg-type]
        TrainConfig(**{"steps": 12, "tasks": 3, "log_every": 4, "checkpoint_every": 4, **options.get("train", {})}),  # type: ignore[arg-type]
        EvaluateConfig(**{"episodes": 20, "shown_tasks": 2, "shown_steps": 4, **options.get("evaluate", {})}),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("average", [0.0, 0.9])
def test_a_resumed_training_is_the_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, average: float) -> None:
    whole = config(tmp_path, "whole", train={"average": average})
    broken = config(tmp_path, "broken", train={"average": average})
    train(whole, quiet=True)
    sample, calls = type(open_tasks(whole.task)).sample, []

    def interrupted(self, *arguments):  # type: ignore[no-untyped-def]
        calls.append(arguments)
        if len(calls) == 8:  # one before training, and the seventh step
            raise KeyboardInterrupt
        return sample(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(open_tasks(whole.task)), "sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(broken, quiet=True)
    assert [path.name for path in (tmp_path / "broken" / "checkpoints").iterdir()] == ["step-00000004.safetensors"]
    train(broken, quiet=True)
    one, other = (load_tensors(tmp_path / name / "learner.safetensors")[0] for name in ("whole", "broken"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list((tmp_path / "broken" / "checkpoints").iterdir())


@pytest.mark.parametrize("kind", ["maml", "reptile"])
def test_a_training_stopped_by_signals_goes_on_bit_for_bit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def words(name: str) -> list[str]:
        options = {"run.folder": tmp_path, "run.name": name, "task.source": "cubic", "learner.kind": kind}
        options |= {"learner.inner_steps": 2, "learner.hidden": [8], "train.steps": 12, "train.tasks": 3}
        options |= {"train.log_every": 5, "train.average": 0.9, "train.clip": 0.5}
        return ["fewshot", "train", *(f"--{key}={value}" for key, value in options.items())]

    def learned(name: str) -> tuple[dict[str, bytes], list[tuple[float, ...]]]:
        tensors = load_tensors(tmp_path / name / "learner.safetensors")[0]
        log = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        losses = [(line["step"], line["loss"], line["score"], line["norm"]) for line in log]
        return {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}, losses

    assert main(words("whole")) == 0
    for steps, number in ((3, signal.SIGTERM), (4, signal.SIGINT), (5, signal.SIGTERM)):
        capsys.readouterr()
        assert stopped_after(steps, number, *words("parts")) == 128 + number
        said = capsys.readouterr().err
        assert "dynlm: stopped; the same command goes on from" in said and "checkpoints/step-" in said
        assert not (tmp_path / "parts" / "learner.json").exists()
    assert main(words("parts")) == 0
    assert learned("parts") == learned("whole")
    assert not list((tmp_path / "parts" / "checkpoints").iterdir())


def test_the_seed_decides_and_training_is_not_done_twice(tmp_path: Path) -> None:
    cards = [train(config(tmp_path, name), quiet=True) for name in ("one", "two")]
    assert cards[0]["fingerprint"] == cards[1]["fingerprint"]
    before = listing(tmp_path / "one")
    assert train(config(tmp_path, "one"), quiet=True)["fingerprint"] == cards[0]["fingerprint"]
    assert listing(tmp_path / "one") == before
    other = config(tmp_path, "three")
    other.run.seed = 1
    assert train(other, quiet=True)["fingerprint"] != cards[0]["fingerprint"]


def test_a_run_begins_where_another_ended(tmp_path: Path) -> None:
    """Reptile's Adam has a count without an axis among its buffers: it too is kept, and gone on from."""
    options = {"inner_optimizer": "adam", "inner_rate": 0.001}
    first = config(tmp_path, "first", "reptile", learner=options)
    train(first, quiet=True)
    start = str(run_path(first))
    train(config(tmp_path, "same", "reptile", learner=options, train={"start": start, "steps": 0}), quiet=True)
    ends = [load_tensors(tmp_path / name / "learner.safetensors")[0] for name in ("first", "same")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
    assert float(ends[0]["buffer.count"]) == 24
    train(config(tmp_path, "more", "reptile", learner=options, train={"start": start}), quiet=True)
    assert float(load_tensors(tmp_path / "more" / "learner.safetensors")[0]["buffer.count"]) == 48
    with pytest.raises(UserError, match="no trained learner"):
        train(config(tmp_path, "none", train={"start": str(tmp_path / "nowhere")}), quiet=True)


def test_another_runs_folder_is_refused(tmp_path: Path) -> None:
    train(config(tmp_path), quiet=True)
    with pytest.raises(UserError, match=r"made with train.tasks 3, not 4"):
        train(config(tmp_path, train={"tasks": 4}), quiet=True)
    train(config(tmp_path, evaluate={"episodes": 30}), quiet=True)  # how it is judged is another matter


def test_a_diverging_training_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(config(tmp_path, learner={"inner_rate": 1e6, "inner_steps": 5}), quiet=True)


def test_nothing_is_written_where_the_tasks_do_not_fit(tmp_path: Path) -> None:
    wrong = FewShotConfig(FewShotRunConfig("wrong", str(tmp_path)), TaskConfig(shots=15, queries=15))
    with pytest.raises(UserError, match="fewer than 15 for support"):
        train(wrong, quiet=True)
    assert not list(tmp_path.iterdir())


def test_evaluation_writes_what_it_says(tmp_path: Path) -> None:
    options = config(tmp_path)
    train(options, quiet=True)
    folder = run_path(options)
    path, scores = evaluate(folder, options, quiet=True)
    again = read_scores(path)
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


def test_batches_of_episodes_change_nothing_but_rounding(tmp_path: Path) -> None:
    options = config(tmp_path)
    learner, tasks = open_learner(options), open_tasks(options.task)
    learned = learner.initial(seeded(0))
    episodes = tasks.sample("test", options.task.episode(False), 4, seeded(3))

    def errors(part) -> list[float]:  # type: ignore[no-untyped-def]
        *_, adapted = learner.adapt(learned, part.support, 3, [seeded(0)] * part.tasks)
        return learner.scores(learner.predict(learned, adapted, part.query.inputs), part.query.targets).tolist()

    with torch.no_grad():
        assert errors(episodes) == pytest.approx([errors(episodes.task(task))[0] for task in range(4)], rel=1e-4)


@pytest.mark.parametrize("kind", ["maml", "random"])
def test_test_episodes_do_not_depend_on_how_many_are_at_once(tmp_path: Path, kind: str) -> None:
    every = []
    for at_once in (1, 7, 25, 50):
        options = config(tmp_path, kind=kind, evaluate={"episodes": 50, "at_once": at_once})
        learner, tasks = open_learner(options), open_tasks(options.task)
        every.append(judge(learner, learner.initial(seeded(0)), tasks, options).values_EJ)
    for values_EJ in every[1:]:
        np.testing.assert_allclose(values_EJ, every[0], rtol=1e-4)


def test_scores_are_kept_where_what_is_only_shown_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = config(tmp_path)
    train(options, quiet=True)

    def fails(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr("dynlm.fewshot.evaluate.examples", fails)
    with pytest.raises(MemoryError):
        evaluate(run_path(options), options, quiet=True)
    assert len(list((run_path(options) / "scores").glob("*.json"))) == 1


def test_a_run_that_another_process_trains_is_refused(tmp_path: Path) -> None:
    options = config(tmp_path)
    program = "import sys; from dynlm.runtime.files import exclusive\n"
    program += "with exclusive(sys.argv[1], 'it'): print(1, flush=True); input()"
    command = [sys.executable, "-c", program, str(run_path(options))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(UserError, match="this run is in use by another process"):
            train(options, quiet=True)
        assert not run_path(options).exists()
        other.communicate(b"\n")
    assert train(options, quiet=True)["steps"] == 12


def test_all_learners_are_given_the_same_test_episodes(tmp_path: Path) -> None:
    shown = []
    for kind in ("maml", "random"):
        options = config(tmp_path, kind, kind)
        learner = open_learner(options)
        learned = Learned({}, {}) if kind == "random" else learner.initial(seeded(0))
        shown.append(examples(learner, learned, open_tasks(options.task), options))
    assert shown[0] is not None and shown[1] is not None
    assert [task["true"] for task in shown[0]["tasks"]] == [task["true"] for task in shown[1]["tasks"]]
    assert [task["support"] for task in shown[0]["tasks"]] == [task["support"] for task in shown[1]["tasks"]]


def test_guessing_scores_one_in_five() -> None:
    """An accuracy is what it is called: an untrained head that says the same of all is right on one class in five."""
    options = FewShotConfig(
        task=TaskConfig(queries=3), learner=LearnerConfig("maml", inner_rate=0.0, filters=4, layers=2),
        evaluate=EvaluateConfig(episodes=20, steps=1, shown_tasks=1),
    )  # fmt: skip
    learner, tasks = open_learner(options), open_tasks(options.task)
    learned = learner.initial(seeded(0))
    learned.meta["head.weight"].zero_()
    scores = judge(learner, learned, tasks, options)
    assert scores.is_accuracy and scores.at() == (pytest.approx(0.2), pytest.approx(0))
    shown = examples(learner, learned, tasks, options)
    assert shown is not None and set(shown["tasks"][0]["answers"]) == {0}


def test_what_does_not_fit_is_refused_on_loading(tmp_path: Path) -> None:
    options = config(tmp_path)
    train(options, quiet=True)
    folder = run_path(options)
    assert load_run_config(folder) == options
    with pytest.raises(UserError, match=r"meta.linear.0.weight is \(1, 8\), these options need \(1, 9\)"):
        load_learned(folder, open_learner(config(tmp_path, learner={"hidden": [9]})))
    weights = folder / "learner.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-4])
    with pytest.raises(UserError, match="cut short"):
        load_learned(folder, open_learner(options))
    weights.unlink()
    with pytest.raises(UserError, match="no such file"):
        load_learned(folder, open_learner(options))
    with pytest.raises(UserError, match="no trained learner"):
        load_learned(tmp_path / "none", open_learner(options))


def test_rates_go_down_as_said() -> None:
    linear, cosine = TrainConfig(optimizer="sgd", rate=2.0, final_rate=0.0), TrainConfig(rate=2.0, final_rate=0.1)
    assert [rate_at(p, linear) for p in (0, 0.25, 1)] == [2.0, 1.5, 0.0]
    assert [rate_at(p, cosine) for p in (0, 0.5, 1)] == pytest.approx([2.0, 1.1, 0.2])


def test_the_average_is_of_all_steps_at_first() -> None:
    weight = torch.zeros(1, requires_grad=True)
    optimiser = MetaOptimiser({"w": weight}, TrainConfig(optimizer="sgd", rate=1.0, average=0.9))
    for _ in range(4):
        optimiser.step({"w": torch.tensor([-1.0])}, 1.0)
    assert weight.item() == 4.0 and optimiser.result()["w"].item() == pytest.approx(2.5)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_transposed_gradient_is_taken_in_its_own_order(optimizer: str) -> None:
    """As a convolution's gradient may be; torch's fused Adam goes by the order of its memory."""
    gradient, stepped = torch.arange(1.0, 13).reshape(4, 3).T, []
    for one in (gradient, gradient.contiguous()):
        weight = torch.zeros(3, 4, requires_grad=True)
        optimiser = MetaOptimiser({"w": weight}, TrainConfig(optimizer=optimizer))
        optimiser.step({"w": one}, 1.0)
        optimiser.step({"w": one.square()}, 1.0)
        stepped.append(weight.detach())
    assert torch.equal(*stepped)


def test_interval_of_known_numbers() -> None:
    assert interval(np.array([0.0, 1.0, 0.0, 1.0])) == (0.5, pytest.approx(1.96 * 0.57735 / 2, rel=1e-3))
    assert training.EPISODES != training.INNER
