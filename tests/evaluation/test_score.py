"""Scoring: one row for each token, repeatable, and refused in one line where it cannot be done."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation import score as scoring
from dynlm.evaluation.checks.protocol import check_protocol
from dynlm.evaluation.checks.stress import stress_test
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.run import run as opening
from dynlm.train.config import Config
from tests import trainings as gates
from tests.tiny import Run, listing, opened, readable_name, scored, with_memory

VARIANTS = [("none", "stream"), ("sgd", "stream"), ("rms", "stream"), ("rms", "article"), ("meta", "article")]


@pytest.fixture(scope="module")
def valid(tuned_run: Run) -> TokenisedSplit:
    split: TokenisedSplit = opened(tuned_run.folder, tuned_run.config).split("valid")
    return split


def rescored(run: Run, config: Config, split: str = "valid", articles: str | None = None) -> tuple[Path, Scores]:
    return scored(run.folder, config, articles, split=split, force=True)


@pytest.mark.parametrize("rule, reset", VARIANTS)
def test_the_file_has_a_row_for_each_token(rule: str, reset: str, tuned_copy: Run, valid: TokenisedSplit) -> None:
    path, scores = rescored(tuned_copy, with_memory(tuned_copy.config, rule=rule, reset=reset))
    assert path.parent == tuned_copy.folder / "scores"
    assert readable_name(path) == f"valid-{rule}{'' if rule == 'none' else '-' + reset}"
    read = read_scores(path)
    assert read.token.tolist() == valid.ids_N.tolist()
    assert read.words.sum() == valid.words_N.sum()
    assert b"".join(read.surface) == valid.text.tobytes()
    assert read.article.tolist() == [a for a in range(valid.articles) for _ in valid.article(a)]
    assert read.position.tolist() == [p for a in range(valid.articles) for p in range(len(valid.article(a)))]
    assert np.array_equal(read.nats, scores.nats)
    assert {name: read.protocol[name] for name in scores.protocol} == scores.protocol


@pytest.mark.parametrize("rule, reset", VARIANTS)
def test_scoring_twice_gives_the_same(rule: str, reset: str, tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule=rule, reset=reset)
    first = rescored(tuned_copy, config)[1]
    again = rescored(tuned_copy, config)[1]
    assert np.array_equal(first.nats, again.nats)
    assert {**first.protocol, "date": None} == {**again.protocol, "date": None}


def test_a_missing_article_is_refused(tuned_copy: Run) -> None:
    before = listing(tuned_copy.folder)
    for articles in ("7", "0", "3-2", "a-b", "2-b", ""):
        with pytest.raises(UserError, match="articles is"):
            rescored(tuned_copy, tuned_copy.config, articles=articles)
    assert listing(tuned_copy.folder) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB\nGPU 0"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 800 bytes"),
    ],
    ids=["numpy", "gpu", "cpu"],
)
def test_out_of_memory_is_one_line_that_names_the_lanes(
    error: Exception, tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(scoring, "evaluate", fail)
    config = with_memory(tuned_copy.config, rule="rms", reset="article", lanes=4)
    with pytest.raises(UserError, match=r"out of memory with memory\.lanes 4 .*choose fewer lanes") as refused:
        scored(tuned_copy.folder, config)
    assert "\n" not in str(refused.value)


def test_two_equal_scorings_at_once_are_refused(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, _ = scored(tuned_copy.folder, config, "1")
    path.unlink()
    holds = (
        "import sys, time; from dynlm.runtime.files import exclusive\n"
        "with exclusive(sys.argv[1], 'it'): print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holds, str(path)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        try:
            with pytest.raises(UserError, match="this score file is in use by another process"):
                scored(tuned_copy.folder, config, "1")
        finally:
            other.kill()


def test_a_run_that_cannot_be_written_is_refused_before_reading(
    tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "evaluate", lambda *_: pytest.fail("read first"))
    scores = tuned_copy.folder / "scores"
    shutil.rmtree(scores, ignore_errors=True)
    scores.write_text("no folder can be made here")
    with pytest.raises(UserError, match="cannot write"):
        scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"))


@pytest.mark.parametrize(
    "options", [{"rule": "sgd+decay"}, {"rule": "meta", "g": "none"}, {"rule": "rms", "cache": "fixed"}]
)
def test_missing_constants_are_reported_before_tokenising(
    options: dict[str, object], tuned_copy: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "tokenise", lambda *_: pytest.fail("tokenised first"))
    config = with_memory(tuned_copy.config, reset="article", **options)
    message = r"run `dynlm (tune|metatrain) .* --memory\.reset article"
    with pytest.raises(UserError, match=message):
        rescored(tuned_copy, config)
    with pytest.raises(UserError, match=message):
        check_protocol(opened(tuned_copy.folder, config), "valid")
    with pytest.raises(UserError, match=message):
        stress_test(opened(tuned_copy.folder, config), "valid")
    if "cache" not in options:
        with pytest.raises(UserError, match=message):
            gates.tune_cache(tuned_copy.folder, with_memory(config, cache="fixed"))
        with pytest.raises(UserError, match=message):
            gates.train_gate(tuned_copy.folder, with_memory(config, cache="learned"))
