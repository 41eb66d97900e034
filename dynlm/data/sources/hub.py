"""Data sets of the Hugging Face hub: WikiText by its short names, any other as owner/name, streamed."""

from __future__ import annotations

import contextlib
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
    import datasets  # Takes a second or more, and only this source needs it.

    if not datasets.config.HF_HUB_OFFLINE and not _answers(datasets.config.HF_ENDPOINT):
        datasets.config.HF_HUB_OFFLINE = True  # Use the local cache; the client would retry for half a minute.
    name = f"{corpus.source} {corpus.subset}" if corpus.subset else corpus.source
    with _hub_errors(name):
        found = dict(datasets.load_dataset(corpus.source, corpus.subset, streaming=streaming))
    # Of several names for a split the first counts.
    theirs = {ours: split for split, ours in reversed(SPLIT_NAMES.items()) if split in found}
    if not theirs and len(found) == 1:
        theirs = {"train": next(iter(found))}
    if not theirs:
        raise UserError(f"none of its splits ({', '.join(found)}) is named train, validation or test", name)

    def opener(split: str) -> Articles:
        return lambda: record_articles(_records(found[split], name, split), corpus)

    return Source(name, {ours: opener(split) for ours, split in theirs.items()})


def _records(rows: Iterable[Any], name: str, split: str) -> Iterator[Record]:
    with _hub_errors(name):  # A stream is fetched and decoded while it is read.
        for number, row in enumerate(rows, 1):
            yield f"{name} {split}:{number}", row


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn any error into a UserError: the HTTP client, the hub's client and many readers raise anything."""
    try:
        yield
    except Exception as error:
        first_line = (str(error).strip().splitlines() or [""])[0][:200]
        do = "check --corpus.subset" if isinstance(error, ValueError) else _WITHOUT_HUB
        raise UserError(f"cannot be read from the hub ({type(error).__name__}: {first_line})", name, do) from error


def _answers(endpoint: str) -> bool:
    """Return whether the hub's address answers, through the proxy if one is set, be it with an error page."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_SECONDS_TO_ANSWER):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError) as error:
        return "CERTIFICATE" in str(error)  # The hub's client brings certificates of its own.
