"""A scoring that is killed or stopped resumes with the same command and gives the same file."""

from __future__ import annotations

import dataclasses
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dynlm.evaluation import protocol
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.run.provenance import made_with
from dynlm.runtime import cost
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints
from dynlm.runtime.signals import Stopped
from dynlm.train.config import Config
from tests.tiny import Run, listing, scored, with_memory

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ("article", "position", "segment", "token", "words", "nats", "distance", "reset_share")
CASES = [
    {"rule": "none"},
    {"rule": "rms", "no_regret": True},
    {"rule": "meta", "cache": "fixed", "cache_window": 30, "cache_inverse_temperature": [0.6], "cache_share": 0.2},
    {"rule": "rms", "reset": "article", "lanes": 2},
]


class Killed(BaseException):
    """Ends a scoring as a kill does."""


def often(config: Config) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, checkpoint_seconds=0.0))


def left_over(folder: Path) -> list[str]:
    """Return the names of checkpoints and staging files that a killed process left."""
    hidden = [path for path in folder.rglob("*") if path.name.startswith(".") and path.suffix != ".lock"]
    return [path.name for path in hidden if path.is_file() or any(path.iterdir())]


def assert_same_scores(one: Scores, other: Scores) -> None:
    for name in COLUMNS:
        mine, its = getattr(one, name), getattr(other, name)
        assert (mine is None) == (its is None)
        assert mine is None or (mine.dtype == its.dtype and mine.tobytes() == its.tobytes()), name
    assert one.surface == other.surface
    assert {**one.protocol, "date": None, "cost": None} == {**other.protocol, "date": None, "cost": None}


@pytest.mark.parametrize("options", CASES, ids=lambda options: "-".join(map(str, options.values())))
def test_a_scoring_killed_after_any_segment_resumes_to_the_same_file(
    options: dict[str, object], tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_memory(tuned_copy.config, track=True, **options)
    path, _ = scored(tuned_copy.folder, config)
    whole = read_scores(path)
    path.unlink()
    save, dice, resumed_at = Checkpoints.save, random.Random(0), list[int]()
    resume, dates = Checkpointer.resume, itertools.count()

    def resume_and_note(self: Checkpointer) -> Path | None:
        path = resume(self)
        resumed_at.append(0 if path is None else int(path.stem.rpartition("-")[2]))
        return path

    monkeypatch.setattr(Checkpointer, "resume", resume_and_note)
    # Each start has a date of its own.
    monkeypatch.setattr(protocol, "made_with", lambda *_: {**made_with(), "date": str(next(dates))})

    def save_or_die(self: Checkpoints, *state: Any) -> Path:
        if dice.random() < 0.15:
            raise Killed
        path = save(self, *state)
        if dice.random() < 0.15:
            raise Killed
        return path

    monkeypatch.setattr(Checkpoints, "save", save_or_die)
    deaths = 0
    while not path.exists():
        try:
            scored(tuned_copy.folder, often(config))
        except Killed:
            deaths += 1
            assert deaths < 200, f"every start began anew: {resumed_at}"
    assert deaths >= 3
    assert resumed_at[0] == 0 and max(resumed_at) > 0 and resumed_at == sorted(resumed_at)
    assert_same_scores(read_scores(path), whole)
    assert left_over(tuned_copy.folder) == []


def test_the_seconds_of_all_sittings_add_up(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that ticks when it is read, each segment takes a second, and so does finding the end."""
    ticks = itertools.count()
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    config, save, saved = with_memory(tuned_copy.config, rule="rms"), Checkpoints.save, list[Any]()
    path, whole = scored(tuned_copy.folder, config)
    assert whole.protocol["cost"]["seconds"] == len(np.unique(whole.segment)) + 1
    path.unlink()

    def save_and_die(self: Checkpoints, number: int, tensors: Any, state: dict[str, Any]) -> Path:
        saved.append(state["cost"])
        path = save(self, number, tensors, {**state, "cost": {**state["cost"], "peak_memory": 10**15}})
        if len(saved) in (2, 5):
            raise Killed
        return path

    monkeypatch.setattr(Checkpoints, "save", save_and_die)
    for _ in range(2):
        with pytest.raises(Killed):
            scored(tuned_copy.folder, often(config))
    resumed = scored(tuned_copy.folder, often(config))[1]
    assert [each["seconds"] for each in saved[:6]] == [1, 2, 3, 4, 5, 6]
    assert resumed.protocol["cost"] == {"seconds": whole.protocol["cost"]["seconds"], "peak_memory": 10**15}


def process(run: Run, *options: str) -> subprocess.Popen[str]:
    command = [
        sys.executable,
        "-m",
        "dynlm",
        "score",
        str(run.folder),
        "--memory.rule",
        "meta",
        "--memory.track",
        "true",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [*command, "--run.checkpoint_seconds", "0", "--json", *options],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_checkpoint(folder: Path, running: subprocess.Popen[str], other_than: set[str]) -> set[str]:
    while running.poll() is None:
        found = {path.name for path in (folder / "scores").glob(".*.safetensors")}
        if found - other_than:
            return found
        time.sleep(0.002)
    return other_than


def test_a_process_killed_at_random_moments_resumes_to_the_same_file(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", track=True)
    path, _ = scored(tuned_copy.folder, config)
    whole = read_scores(path)
    path.unlink()
    dice, seen, kills = random.Random(), set[str](), 0
    while not path.exists():
        running = process(tuned_copy)
        seen = wait_for_checkpoint(tuned_copy.folder, running, seen)
        time.sleep(dice.random() * 0.1)
        if kills < 3:
            running.kill()
            kills += 1
        _, err = running.communicate(timeout=120)
        assert running.returncode in (0, -signal.SIGKILL), err
    assert kills >= 1
    assert_same_scores(read_scores(path), whole)
    assert left_over(tuned_copy.folder) == []


def test_sigterm_saves_and_ends_cleanly(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="meta", track=True)
    path, _ = scored(tuned_copy.folder, config)
    whole = read_scores(path)
    path.unlink()
    running = process(tuned_copy)
    wait_for_checkpoint(tuned_copy.folder, running, set())
    running.terminate()
    out, err = running.communicate(timeout=120)
    if not path.exists():  # else it was done before it was asked
        assert running.returncode == 128 + signal.SIGTERM
        assert out == "" and err.count("\n") == 1 and "goes on" in err
        assert len(list((tuned_copy.folder / "scores").glob(".*.safetensors"))) in (1, 2)
        scored(tuned_copy.folder, config)
    assert_same_scores(read_scores(path), whole)


def test_a_stop_request_saves_a_checkpoint(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """No checkpoint is due, but the current segment is the last."""
    config = with_memory(tuned_copy.config, rule="rms")
    path, _ = scored(tuned_copy.folder, config)
    whole = read_scores(path)
    path.unlink()
    enter = Checkpointer.__enter__

    def asked(self: Checkpointer) -> Checkpointer:
        enter(self)
        signal.raise_signal(signal.SIGTERM)
        return self

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "__enter__", asked)
        with pytest.raises(Stopped) as stop:
            scored(tuned_copy.folder, config)
    assert stop.value.exit_code == 128 + signal.SIGTERM
    assert Path(str(stop.value.saved)).name == f".{path.stem}-00000020.safetensors"
    scored(tuned_copy.folder, config)
    assert_same_scores(read_scores(path), whole)


def test_a_scoring_by_other_options_begins_anew_and_leaves_the_first(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, whole = scored(tuned_copy.folder, config)
    path.unlink()
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, number: int, *state: Any) -> Path:
        path = save(self, number, *state)
        if number > 100:
            raise Killed
        return path

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", save_and_die)
        with pytest.raises(Killed):
            scored(tuned_copy.folder, often(with_memory(config, lr=0.0)))
    under_way = left_over(tuned_copy.folder)
    assert under_way
    again = scored(tuned_copy.folder, config)[1]
    assert np.array_equal(again.nats, whole.nats)
    assert left_over(tuned_copy.folder) == under_way
    scored(tuned_copy.folder, with_memory(config, lr=0.0))
    assert left_over(tuned_copy.folder) == []


def test_a_short_scoring_writes_no_checkpoint(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Checkpoints, "save", lambda *_: pytest.fail("a checkpoint was written"))
    before = listing(tuned_copy.folder)
    path, _ = scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"))
    assert set(listing(tuned_copy.folder)) - set(before) == {str(path.relative_to(tuned_copy.folder))}


def test_signal_handlers_are_restored_after_a_scoring(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    both, seen = (signal.SIGINT, signal.SIGTERM), list[Any]()
    before = [signal.getsignal(number) for number in both]
    after_step = Checkpointer.after_step

    def note(self: Checkpointer, *step: Any) -> None:
        seen.append([signal.getsignal(number) for number in both])
        after_step(self, *step)

    monkeypatch.setattr(Checkpointer, "after_step", note)
    scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="none"))
    assert seen and before not in seen
    assert [signal.getsignal(number) for number in both] == before
