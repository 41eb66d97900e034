"""Splits of a corpus, limits, and the word counts of the literature."""

import json
import os
from pathlib import Path

import pytest

from dynlm.data.articles import describe, iter_articles, load_articles, open_source, source_name, word_count
from dynlm.data.options import CorpusOptions
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


def test_the_limit_applies_to_the_requested_split(folder):
    config = CorpusOptions(path=str(folder), meta_every=4, limit=4)
    assert numbers(config, "train") == [0, 1, 2, 4]
    assert numbers(config, "meta") == [3, 7]
    assert numbers(config, "train+meta") == [0, 1, 2, 3]


def test_describe_matches_hand_counts(folder):
    # "word 0\n" is two words and an end of line; the types are "word", the numbers and the end of line.
    config = CorpusOptions(path=str(folder))
    assert describe(config) == {
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
        describe(config)


def test_less_than_one_process_is_rejected():
    with pytest.raises(UserError, match=r"corpus\.num_proc is 0; choose a value from 1 to 1024"):
        CorpusOptions(num_proc=0)


def test_an_unknown_source_is_rejected_with_suggestions():
    with pytest.raises(UserError, match=r"did you mean 'wikitext-2'\? choose one of stdlib, wiki.*owner/name"):
        open_source(CorpusOptions(source="wikitext2"))


def test_source_names(folder):
    assert source_name(CorpusOptions(path=str(folder))) == str(folder)
    assert source_name(CorpusOptions()).startswith("standard library of Python 3.")


@pytest.mark.skipif(not DATA, reason="DYNLM_DATA, the folder of real data, is not set")
def test_wikitext_2_counts_match_the_literature():
    counts = describe(CorpusOptions(path=str(Path(DATA or "", "wikitext-2"))))
    assert list(counts) == ["train", "valid"]
    assert [counts[split]["articles"] for split in counts] == [600, 60]
    assert [counts[split]["words"] for split in counts] == [2_088_628, 217_646]
    assert counts["train"]["types"] == 33_278
