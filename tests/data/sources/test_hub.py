"""Data sets of the hub, faked or read from disk, without a network."""

import datasets
import pytest

from dynlm.data.articles import iter_articles, load_articles, open_source, source_name
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.hub import _answers
from dynlm.errors import UserError

CLOSED = "http://127.0.0.1:9"


@pytest.fixture
def hub(monkeypatch):
    """A fake hub that serves ``splits`` and records the last request."""

    class Hub:
        splits: object = None
        request: tuple[object, ...] = ()

        def load(self, path, subset, streaming):
            self.request = (path, subset, streaming)
            return self.splits

    served = Hub()
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", served.load)
    return served


def texts(*rows: str) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"text": list(rows)})


def test_wikitext_rows_are_the_lines_of_the_standard_files(hub):
    rows = texts("", " = A = \n", "", " text . \n", "", " = B = \n", "", " more . \n")
    hub.splits = datasets.DatasetDict({"test": rows, "train": rows, "validation": texts("", " = C = \n", "")})
    config = CorpusOptions(source="wikitext-2-raw")
    articles = load_articles(config, "train+meta")
    assert [article.title for article in articles] == ["A", "B"]
    assert "".join(a.text for a in articles) == " \n = A = \n \n text . \n \n = B = \n \n more . \n"
    assert articles[1].where == "Salesforce/wikitext wikitext-2-raw-v1 train:6"
    assert [article.title for article in iter_articles(config, "valid")] == ["C"]
    assert hub.request == ("Salesforce/wikitext", "wikitext-2-raw-v1", False)
    assert set(open_source(config).splits) == {"train", "meta", "valid", "test", "train+meta"}


def test_any_data_set_is_streamed_and_split(hub):
    rows = datasets.Dataset.from_dict({"name": list("ABCDEF"), "body": [f"text {i}" for i in range(6)]})
    hub.splits = datasets.IterableDatasetDict({"train": rows.to_iterable_dataset()})
    config = CorpusOptions("someone/some", subset="en", text_field="body", title_field="name", hold_out_every=3)
    read = {split: list(iter_articles(config, split)) for split in ("train+meta", "test", "valid")}
    assert {split: [a.title for a in articles] for split, articles in read.items()} == {
        "train+meta": ["A", "D"],
        "test": ["B", "E"],
        "valid": ["C", "F"],
    }
    assert read["valid"][0].where == "someone/some en train:3"
    assert hub.request == ("someone/some", "en", True)
    assert source_name(config) == "someone/some en"


def test_a_local_data_set_is_read_by_the_real_library(tmp_path, monkeypatch):
    (tmp_path / "someone" / "some").mkdir(parents=True)
    (tmp_path / "someone" / "some" / "train.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n{"text": "three"}\n')
    monkeypatch.chdir(tmp_path)  # The library prefers a local folder of that name.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    config = CorpusOptions("someone/some", hold_out_every=3)
    assert [article.text for article in load_articles(config, "valid")] == ["three"]


def test_a_single_split_of_any_name_is_train(hub):
    hub.splits = {"full": texts("one")}
    assert load_articles(CorpusOptions("a/b"), "train")[0].text == "one"
    hub.splits = {"easy": texts("one"), "hard": texts("two")}
    with pytest.raises(UserError, match="easy, hard"):
        open_source(CorpusOptions("a/b"))


def test_a_missing_text_field_is_rejected_with_its_row(hub):
    hub.splits = {"train": texts("one")}
    with pytest.raises(UserError, match=r"a/b train:1: no field 'body' among text; choose --corpus.text_field"):
        load_articles(CorpusOptions("a/b", text_field="body"), "train")


def test_a_failing_stream_is_a_user_error(hub):
    def broken():
        yield {"text": "one"}
        raise TimeoutError("the line\nis dead")

    hub.splits = {"train": broken()}
    articles = iter_articles(CorpusOptions("a/b"), "train")
    assert next(articles).text == "one"
    with pytest.raises(UserError, match=r"a/b: cannot be read from the hub \(TimeoutError: the line\)"):
        next(articles)


@pytest.mark.parametrize("source", ["no-such-owner/no-such-set", "wikitext-103"])
def test_an_unreachable_hub_is_reported_soon_with_alternatives(source, monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", CLOSED)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(UserError) as caught:
        open_source(CorpusOptions(source))
    assert datasets.config.HF_HUB_OFFLINE, "or else the client retries for half a minute"
    message = str(caught.value)
    assert "--corpus.path" in message
    assert "--corpus.source stdlib" in message
    assert "\n" not in message


def test_an_unknown_subset_is_rejected(monkeypatch):
    def refuse(path, subset, streaming):
        raise ValueError(f"BuilderConfig {subset!r} not found. Available: ['en', 'de']")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"Available: \['en', 'de'\].*--corpus.subset"):
        open_source(CorpusOptions("a/b", subset="xx"))


def test_a_closed_port_does_not_answer():
    assert not _answers(CLOSED)
    assert not _answers("nonsense")
