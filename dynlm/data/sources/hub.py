"""Data sets of the Hugging Face hub as sources: WikiText by its short names, any other as owner/name, streamed."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

from dynlm.data.article import Article
from dynlm.data.options import HUB_WIKITEXT, CorpusOptions
from dynlm.data.sources.records import record_articles
from dynlm.data.sources.source import SPLIT_NAMES, Articles, Source, with_held_out
from dynlm.data.sources.wikitext import wikitext_articles
from dynlm.errors import UserError

_WIKITEXT = "Salesforce/wikitext"
_SECONDS_TO_ANSWER = 5.0
_WITHOUT_HUB = "read local files with --corpus.path, or the embedded corpus with --corpus.source stdlib"


def hub_source(corpus: CorpusOptions) -> Source:
    """The hub data set ``corpus.source``. WikiText is downloaded once and then cached; others are streamed.

    Raises UserError where the hub or the data set cannot be reached or it has no split to train on.
    """
    is_wikitext = corpus.source in HUB_WIKITEXT
    path, subset = (_WIKITEXT, f"{corpus.source}-v1") if is_wikitext else (corpus.source, corpus.subset)
    name = f"{path} {subset}" if subset else path
    found = _load(path, subset, name, streaming=not is_wikitext)

    def opener(split: str) -> Articles:
        rows, where = found[split], f"{name} {split}"
        if is_wikitext:
            return lambda: wikitext_articles(_lines(_rows(rows, name)), where)
        return lambda: _record_articles(rows, name, where, corpus)

    splits: dict[str, Articles] = {}
    for theirs, ours in SPLIT_NAMES.items():
        if theirs in found:
            splits.setdefault(ours, opener(theirs))
    if not splits and len(found) == 1:
        splits = {"train": opener(next(iter(found)))}
    if not splits:
        raise UserError(f"none of its splits ({', '.join(found)}) is named train, validation or test", name)
    return Source(name, with_held_out(splits, corpus.hold_out_every))


def _record_articles(rows: Iterable[Any], name: str, where: str, corpus: CorpusOptions) -> Iterator[Article]:
    return record_articles(((f"{where}:{number}", row) for number, row in enumerate(_rows(rows, name), 1)), corpus)


def _lines(rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """WikiText's lines: the hub keeps them whole but for the empty ones, whose space and line end it drops."""
    return (row["text"] or " \n" for row in rows)


def _load(path: str, subset: str | None, name: str, streaming: bool) -> dict[str, Iterable[Any]]:
    """The data set's splits by the hub's names for them."""
    import datasets  # takes a second or more, and only this source needs it

    if not datasets.config.HF_HUB_OFFLINE and not _answers(datasets.config.HF_ENDPOINT):
        datasets.config.HF_HUB_OFFLINE = True  # the cache still serves; the client would retry for half a minute
    try:
        return dict(datasets.load_dataset(path, subset, streaming=streaming))
    except Exception as error:  # whatever the HTTP client, the hub's client and the readers of many formats raise
        raise _unreadable(name, error) from error


def _rows(rows: Iterable[Any], name: str) -> Iterator[Any]:
    try:
        yield from rows
    except Exception as error:  # as above: a stream is fetched and decoded while it is read
        raise _unreadable(name, error) from error


def _unreadable(name: str, error: Exception) -> UserError:
    first_line = (str(error).strip().splitlines() or [""])[0][:200]
    do = "check --corpus.subset" if isinstance(error, ValueError) else _WITHOUT_HUB
    return UserError(f"cannot be read from the hub ({type(error).__name__}: {first_line})", name, do)


def _answers(endpoint: str) -> bool:
    """Whether anything answers at the hub's address (through the proxy, where one is set), be it an error page."""
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=_SECONDS_TO_ANSWER):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError) as error:
        # Certificates are the client's affair: it brings its own.
        return "CERTIFICATE" in str(error)
