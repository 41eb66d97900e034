"""The file of a scoring: names and keys of readings, and scorings that are not repeated."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from dynlm.data.articles import load_articles
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation import score as scoring
from dynlm.evaluation.score_file import read_scores
from dynlm.evaluation.score_path import Output, file_stem, resume_key, scoring_key
from dynlm.run.folder import TrainedModel
from tests.tiny import Run, scored, with_memory


@pytest.fixture(scope="module")
def valid(tuned_run: Run, trained: TrainedModel) -> TokenisedSplit:
    return tokenise(load_articles(tuned_run.config.corpus, "valid"), trained.tokenizer)


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
            Output(name=name)


def test_keys_tell_scorings_apart_and_the_date_does_not(tuned_copy: Run) -> None:
    protocol = scored(tuned_copy.folder, with_memory(tuned_copy.config, rule="rms"))[1].protocol
    for name in ("model", "tokenizer", "text", "order", "reader", "reset", "segment"):
        assert scoring_key({**protocol, name: "another"}) != scoring_key(protocol), name
        assert resume_key({**protocol, name: "another"}) != resume_key(protocol), name
    options = {**protocol["options"], "memory": {**protocol["options"]["memory"], "lanes": 7}}
    assert scoring_key({**protocol, "options": options}) != scoring_key(protocol)
    later = {**protocol, "date": "2999-01-01T00:00:00+0000"}
    assert scoring_key(later) == scoring_key(protocol) and resume_key(later) == resume_key(protocol)
    newer = {**protocol, "versions": {"torch": "99"}, "commit": "another"}
    assert scoring_key(newer) == scoring_key(protocol) and resume_key(newer) != resume_key(protocol)
