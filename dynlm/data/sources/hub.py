"""Data sets of the Hugging Face hub: WikiText by its short names, any other as owner/name, streamed."""

from __future__ import annotations

import dataclasses
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from dynlm.data.options import CorpusOptions
from dynlm.data.sources.records import Record, record_articles
from dynlm.data.sources.source import SOURCES, SPLIT_NAMES, Articles, Source
from dynlm.errors import UserError

_SECONDS_TO_ANSWER = 5.0
_WITHOUT_HUB = "read local files with --corpus.path, or the embedded corpus with --corpus.source stdlib"


@SOURCES.register("wikitext-2", "wikitext-2-raw", "wikitext-103", "wikitext-103-raw")
def open_wikitext(corpus: CorpusOptions) -> Source:
    """Open WikiText, downloaded once and then cached. Raises UserError as ``open_hub`` does."""
    options = {"source": "Salesforce/wikitext", "subset": f"{corpus.source}-v1", "text_field": "text"}
    return open_hub(dataclasses.replace(corpus, **options), streaming=False)  # type: ignore[arg-type]


def open_hub(corpus: CorpusOptions, streaming: bool = True) -> Source:
    """Open the hub data set ``corpus.source`` (owner/name).

    Raises UserError if the hub or the data set cannot be reached, or if no split is named like train, valid or test.
    """
    name = f"{corpus.source} {corpus.subset}" if corpus.subset else corpus.source
    found = _load(corpus, name, streaming)

    def opener(split: str) -> Articles:
        return lambda: record_articles(_records(found[split], name, split), corpus)

    splits: dict[str, Articles] = {}
    for theirs, ours in SPLIT_NAMES.items():
        if theirs in found:
            splits.setdefault(ours, opener(theirs))
    if not splits and len(found) == 1:
        splits = {"train": opener(next(iter(found)))}
    if not splits:
        raise UserError(f"none of its splits ({', '.join(found)}) is named train, validation or test", name)
    return Source(name, splits)


def _load(corpus: CorpusOptions, name: str, streaming: bool) -> dict[str, Iterable[Any]]:
    """Load the data set's splits, by the hub's names."""
    import datasets  # Takes a second or more, and only this source needs it.

    if not datasets.config.HF_HUB_OFFLINE and not _answers(datasets.config.HF_ENDPOINT):
        datasets.config.HF_HUB_OFFLINE = True  # Use the local cache; the client would retry for half a minute.
    try:
        return dict(datasets.load_dataset(corpus.source, corpus.subset, streaming=streaming))
    except Exception as error:  # The HTTP client, the hub's client and many readers raise anything.
        raise _unreadable(name, error) from error


def _records(rows: Iterable[Any], name: str, split: str) -> Iterator[Record]:
    try:
        for number, row in enumerate(rows, 1):
            yield f"{name} {split}:{number}", row
    except Exception as error:  # As above: a stream is fetched and decoded while it is read.
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UserError:
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    do = "check --corpus.subset" if isinstance(error, ValueError) else _WITHOUT_HUB
    return UserError(f"cannot be read from the hub ({type(error).__name__}: {first_line})", name, do)


def _answers(endpoint: str) -> bool:
    """Return whether the hub's address answers, through the proxy if one is set, be it with an error page."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_SECONDS_TO_ANSWER):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError) as error:
        return "CERTIFICATE" in str(error)  # The hub's client brings certificates of its own.
