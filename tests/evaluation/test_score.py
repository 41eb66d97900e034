"""Scoring: one row for each token in a file of its own, repeatable, and refused in one line where it fails."""

from __future__ import annotations

import dataclasses
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
from dynlm.evaluation.score import ScoreRequest, file_stem
from dynlm.evaluation.score_file import read_scores
from dynlm.run import run as opening
from tests import trainings as gates
from tests.tiny import Run, listing, opened, readable_name, rescored, scored, with_memory

VARIANTS = [("none", "stream"), ("sgd", "stream"), ("rms", "stream"), ("rms", "article"), ("meta", "article")]


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
    assert {**first.protocol, "date": None, "cost": None} == {**again.protocol, "date": None, "cost": None}


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


def test_file_names_tell_readings_apart(tuned_run: Run) -> None:
    memory = tuned_run.config.memory
    stems = {
        file_stem(memory.replace(rule=rule, reset=reset), split, articles)
        for rule in ("none", "sgd", "sgd+decay", "rms", "meta")
        for reset in ("stream", "article")
        for split in ("valid", "test")
        for articles in (None, "1-3")
    }
    assert len(stems) == (1 + 4 * 2) * 2 * 2
    assert not any("+" in stem or "/" in stem for stem in stems)


def test_scorings_that_differ_never_share_a_file(tuned_copy: Run, tmp_path: Path) -> None:
    """Another rate, another text, other articles: each keeps its file, and the first stays as it was."""
    config = with_memory(tuned_copy.config, rule="rms")
    first, scores = scored(tuned_copy.folder, config)
    content = first.read_bytes()
    corpus = shutil.copytree(tuned_copy.corpus, tmp_path / "other")
    (corpus / "valid.txt").write_text((corpus / "valid.txt").read_text().replace("the", "teh"))
    other_text = dataclasses.replace(config, corpus=dataclasses.replace(config.corpus, path=str(corpus)))
    others = [
        scored(tuned_copy.folder, with_memory(config, lr=0.01))[0],
        scored(tuned_copy.folder, other_text)[0],
        scored(tuned_copy.folder, config, "1-2")[0],
    ]
    assert len({first, *others}) == 4
    assert first.read_bytes() == content and np.array_equal(read_scores(first).nats, scores.nats)


def test_the_same_scoring_is_not_computed_again(tuned_copy: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, scores = scored(tuned_copy.folder, config)
    assert scores.path is None
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "evaluate", lambda *_: pytest.fail("read again"))
        # All of its articles by number are the same text.
        for articles in (None, "1-6"):
            again, there = scored(tuned_copy.folder, config, articles)
            assert again == path == there.path and np.array_equal(there.nats, scores.nats)
    content = path.read_bytes()
    path.write_bytes(content[:-9])  # cut short: no scoring is there
    assert scored(tuned_copy.folder, config)[1].path is None
    before = path.stat().st_mtime_ns
    forced, made = scored(tuned_copy.folder, config, force=True)
    assert forced == path and made.path is None and path.stat().st_mtime_ns > before


def test_a_score_file_can_be_named(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="rms")
    path, _ = scored(tuned_copy.folder, config, "1", name="mine")
    assert path == tuned_copy.folder / "scores" / "mine.parquet"
    assert scored(tuned_copy.folder, config, "1", name="mine")[1].path == path
    with pytest.raises(UserError, match="holds another scoring"):
        scored(tuned_copy.folder, config, "2", name="mine")
    scored(tuned_copy.folder, config, "2", name="mine", force=True)
    assert read_scores(path).articles.tolist() == [1]
    for name in ("", ".mine", "../mine", "a/b", "a\nb"):
        with pytest.raises(UserError, match="--name is"):
            ScoreRequest(name=name)
