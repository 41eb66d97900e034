"""Splits of a corpus, limits, and the word counts of the literature."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.articles import (
    derive_splits,
    describe,
    iter_articles,
    load_articles,
    open_source,
    source_name,
    word_count,
)
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.source import Article
from dynlm.errors import UserError

DATA = os.environ.get("DYNLM_DATA")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, count in (("train", 10), ("valid", 3)):
        records = [json.dumps({"title": f"{split} {i}", "text": f"word {i}\n" * (i + 1)}) for i in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(records))
    return tmp_path


def numbers(config: CorpusOptions, split: str) -> list[int]:
    return [int(article.title.split()[1]) for article in iter_articles(config, split)]


def test_meta_articles_are_not_in_train(folder):
    config = CorpusOptions(path=str(folder), meta_every=4)
    assert numbers(config, "meta") == [3, 7]
    assert numbers(config, "train") == [0, 1, 2, 4, 5, 6, 8, 9]
    assert numbers(config, "train+meta") == list(range(10))


def numbered(count: int):
    return lambda: (Article(str(i), "text", "") for i in range(count))


def held_out(own, every: int) -> dict[str, list[int]]:
    """Return the articles of the splits that are derived from ``own``, with those of train and meta as train."""
    splits = derive_splits(own, CorpusOptions(hold_out_every=every))
    splits = {
        "train" if name == "train+meta" else name: splits[name] for name in splits if name not in ("train", "meta")
    }
    read, again = ({name: [int(a.title) for a in articles()] for name, articles in splits.items()} for _ in range(2))
    assert read == again, "each call starts again"
    return read


def test_held_out_splits_are_interleaved():
    assert held_out({"train": numbered(9)}, 4) == {"train": [0, 1, 4, 5, 8], "test": [2, 6], "valid": [3, 7]}


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(3, 20))
def test_held_out_splits_are_a_partition(count, every):
    parts = held_out({"train": numbered(count)}, every)
    assert sorted(i for part in parts.values() for i in part) == list(range(count))
    assert len(parts["valid"]) == count // every


def test_existing_splits_are_kept():
    assert held_out({"train": numbered(9), "valid": numbered(2)}, 3) == {"train": list(range(9)), "valid": [0, 1]}
    assert held_out({"test": numbered(3)}, 3) == {"test": [0, 1, 2]}
    parts = held_out({"train": numbered(5), "test": numbered(1)}, 3)
    assert parts == {"train": [0, 1, 3, 4], "test": [0], "valid": [2]}


def test_the_limit_applies_to_the_requested_split(folder):
    config = CorpusOptions(path=str(folder), meta_every=4, limit=4)
    assert numbers(config, "train") == [0, 1, 2, 4]
    assert numbers(config, "meta") == [3, 7]
    assert numbers(config, "train+meta") == [0, 1, 2, 3]


def test_describe_matches_hand_counts(folder):
    # "word 0\n" is two words and an end of line; the types are "word", the numbers and the end of line.
    config = CorpusOptions(path=str(folder))
    assert describe(open_source(config)) == {
        "train": {"articles": 10, "words": 3 * 55, "types": 12, "longest": {"title": "train 9", "words": 30}},
        "valid": {"articles": 3, "words": 3 * 6, "types": 5, "longest": {"title": "valid 2", "words": 9}},
    }


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 0), ("a b\n", 3), ("a b", 3), (" \n", 1), ("a\n\nb\n", 5), ("a\rb\n", 3), ("a\u2028b\n", 3)],
)
def test_word_count(text, count):
    assert word_count(text) == count


def test_missing_and_empty_splits_are_rejected(folder):
    config = CorpusOptions(path=str(folder))
    for read in (iter_articles, load_articles):
        with pytest.raises(UserError, match="no split 'test'; choose among train, meta, valid"):
            read(config, "test")
        with pytest.raises(UserError, match=r"no articles in split 'meta'; lower --corpus.meta_every"):
            read(config, "meta")
    (folder / "valid.jsonl").write_text("")
    with pytest.raises(UserError, match="no articles in split 'valid'"):
        load_articles(config, "valid")
    (folder / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="no articles in it"):
        describe(open_source(config))


def test_less_than_one_process_is_rejected():
    with pytest.raises(UserError, match=r"corpus\.num_proc is 0; choose a value from 1 to 1024"):
        CorpusOptions(num_proc=0)


def test_an_unknown_source_is_rejected_with_suggestions():
    with pytest.raises(
        UserError, match=r"did you mean 'wikitext-2'\? choose one of code:, docs:, stdlib, wiki.*owner/name"
    ):
        open_source(CorpusOptions(source="wikitext2"))


def test_source_names(folder):
    assert source_name(CorpusOptions(path=str(folder))) == str(folder)
    assert source_name(CorpusOptions()).startswith("standard library of Python 3.")


@pytest.mark.skipif(not DATA, reason="DYNLM_DATA, the folder of real data, is not set")
def test_wikitext_2_counts_match_the_literature():
    counts = describe(open_source(CorpusOptions(path=str(Path(DATA or "", "wikitext-2")))))
    assert list(counts) == ["train", "valid"]
    assert [counts[split]["articles"] for split in counts] == [600, 60]
    assert [counts[split]["words"] for split in counts] == [2_088_628, 217_646]
    assert counts["train"]["types"] == 33_278
