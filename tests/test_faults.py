"""What days bring to a run: each fault is named in one line with exit code 2, or survived with no token lost."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from dynlm.adapt import loop
from dynlm.cli.main import main
from dynlm.evaluation.compare import compare
from dynlm.evaluation.score_file import read_scores
from dynlm.evaluation.tables import text_table
from dynlm.run.folder import load_model
from dynlm.train.pretrain_loop import PretrainLoop
from tests.tiny import Run, as_yaml, listing, scored, tiny_config, with_memory


def test_a_wild_rate_is_survived_and_told(run_copy: Run) -> None:
    path, scores = scored(run_copy.folder, with_memory(run_copy.config, rule="sgd", lr=1e6, track=True))
    level_1 = scored(run_copy.folder, with_memory(run_copy.config, rule="none"))[1]
    assert len(scores) == len(level_1) and np.isfinite(read_scores(path).nats).all()
    counts = scores.protocol["update_filter"]
    assert sum(counts["refused"].values()) + counts["restored"] > 0
    assert set(counts["first"]) >= set(counts["refused"])
    assert "No token is lost." in text_table(compare([scores]))
    assert all(ratio["max"] >= ratio["mean"] for ratio in scores.protocol["update_to_weight"].values())


def test_token_arrays_that_vanish_while_they_are_read(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / "cache"))
    config = with_memory(run_copy.config, rule="sgd", lr=0.01)
    wanted = scored(run_copy.folder, config)[1].nats
    read_segment = loop.read_segment

    def vanishing(*args):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return read_segment(*args)

    monkeypatch.setattr(loop, "read_segment", vanishing)
    assert np.array_equal(scored(run_copy.folder, config)[1].nats, wanted)


def test_a_run_folder_that_became_read_only(
    run_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = listing(run_copy.folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        assert main(["score", str(run_copy.folder), "--memory.rule", "none", "--split", "valid"]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "cannot write: Read-only file system" in error[0]
    assert listing(run_copy.folder) == before


def test_learning_that_cannot_write_keeps_what_was_there(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["metatrain", str(tuned_copy.folder), "--memory.g", "new", "--metatrain.tokens", "400"]

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    before = listing(tuned_copy.folder / "memory")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        assert main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "cannot write: Read-only file system" in error[0]
    assert listing(tuned_copy.folder / "memory") == before
    assert main(command) == 0
    assert (tuned_copy.folder / "memory" / "new-stream.json").exists()


def test_no_number_in_a_gradient_ends_training_before_its_step(
    tiny_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(name: str) -> list[str]:
        options = {"epochs": 1.0, "checkpoint_every": 1}
        config = tiny_config(tiny_corpus, tmp_path, run={"name": name}, pretrain=options)
        (tmp_path / f"{name}.yaml").write_text(as_yaml(config))
        return ["pretrain", "--config", str(tmp_path / f"{name}.yaml")]

    mean_gradients = PretrainLoop._mean_gradients
    steps = iter(range(1, 1000))

    def broken(loop, tokens):
        if next(steps) == 3:
            loop.params["output.bias"].grad[0] = float("nan")
        return mean_gradients(loop, tokens)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainLoop, "_mean_gradients", broken)
        assert main(command("faulty")) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and "step 3, output.bias" in error[0]
    # What the checkpoint holds is whole: once the fault is gone, training ends as one that never met it.
    assert main(command("faulty")) == main(command("whole")) == 0
    faulty, whole = (load_model(tmp_path / name) for name in ("faulty", "whole"))
    assert faulty.fingerprint == whole.fingerprint


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_jumps_changes_no_loss(run_copy: Run, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_memory(run_copy.config, rule="sgd", lr=0.01)
    wanted = scored(run_copy.folder, config)[1].nats
    read_segment, now, jumped = loop.read_segment, time.time, [0.0]

    def jumping(*args):
        jumped[0] = years * 365 * 86400.0
        return read_segment(*args)

    monkeypatch.setattr(loop, "read_segment", jumping)
    monkeypatch.setattr(time, "time", lambda: now() + jumped[0])
    assert np.array_equal(scored(run_copy.folder, config)[1].nats, wanted)
