"""What days bring to a run: each fault is named in one line with exit code 2, or survived with no token lost."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from dynlm.cli import main
from dynlm.evaluation.compare import compare
from dynlm.evaluation.score import score
from dynlm.evaluation.scores_file import read_scores
from dynlm.memory import unroll as loop
from tests.tiny import Run, listing, with_memory


def test_a_wild_rate_is_survived_and_told(run_copy: Run) -> None:
    path, scores = score(run_copy.folder, with_memory(run_copy.config, rule="sgd", rate=1e6, track=True), "valid")
    level_1 = score(run_copy.folder, with_memory(run_copy.config, rule="none"), "valid")[1]
    assert len(scores) == len(level_1) and np.isfinite(read_scores(path).nats).all()
    guard = scores.protocol["guard"]
    assert sum(guard["refused"].values()) + guard["restored"] > 0
    assert set(guard["first"]) >= set(guard["refused"])
    assert "No token is lost." in compare([scores]).to_text()
    assert all(ratio["max"] >= ratio["mean"] for ratio in scores.protocol["update_to_weight"].values())


def test_token_arrays_that_vanish_while_they_are_read(
    run_copy: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path / "cache"))
    config = with_memory(run_copy.config, rule="sgd", rate=0.01)
    wanted = score(run_copy.folder, config, "valid")[1].nats
    read_segment = loop.read_segment

    def vanishing(*args):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return read_segment(*args)

    monkeypatch.setattr(loop, "read_segment", vanishing)
    assert np.array_equal(score(run_copy.folder, config, "valid")[1].nats, wanted)


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


@pytest.mark.parametrize("years", [-20, 20])
def test_a_clock_that_jumps_changes_no_loss(run_copy: Run, years: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_memory(run_copy.config, rule="sgd", rate=0.01)
    wanted = score(run_copy.folder, config, "valid")[1].nats
    read_segment, now, jumped = loop.read_segment, time.time, [0.0]

    def jumping(*args):
        jumped[0] = years * 365 * 86400.0
        return read_segment(*args)

    monkeypatch.setattr(loop, "read_segment", jumping)
    monkeypatch.setattr(time, "time", lambda: now() + jumped[0])
    assert np.array_equal(score(run_copy.folder, config, "valid")[1].nats, wanted)
