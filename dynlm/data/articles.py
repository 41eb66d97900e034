"""The corpus as the rest of the program reads it: the articles of a split, from whatever source."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from dynlm.data.article import Article
from dynlm.data.options import HUB_WIKITEXT, CorpusOptions
from dynlm.data.sources.hub import hub_source
from dynlm.data.sources.local import local_source
from dynlm.data.sources.source import Source
from dynlm.data.sources.stdlib import stdlib_source
from dynlm.errors import UserError

SPLITS = ("train", "meta", "valid", "test")
WHOLE_TRAIN = "train+meta"
"""The source's whole training split in its own order."""


def open_source(corpus: CorpusOptions) -> Source:
    """The source that the options name, as far as it can be known without reading its articles.

    Raises UserError where there is no such source, file or data set.
    """
    if corpus.path is not None:
        return local_source(corpus)
    if corpus.source == "stdlib":
        return stdlib_source(corpus.hold_out_every)
    if corpus.source in HUB_WIKITEXT or "/" in corpus.source:
        return hub_source(corpus)
    known = ", ".join(("stdlib", *HUB_WIKITEXT))
    raise UserError(f"corpus.source is {corpus.source!r}", do=f"choose one of {known}, or owner/name of a hub data set")


def source_name(corpus: CorpusOptions) -> str:
    """What the source is called in reports: a path, a data set's name, or the standard library with its version."""
    return open_source(corpus).name


def iter_articles(corpus: CorpusOptions, split: str) -> Iterator[Article]:
    """The articles of a split in order, at most ``corpus.limit``, read as they are asked for.

    ``meta`` are the training articles that the LSTM never sees, every ``corpus.meta_every``-th of the source's own
    training split; ``train`` are the others, and ``train+meta`` is the whole. Raises UserError where the source has no
    such split or no article in it, and on bad input when it is met.
    """
    source = open_source(corpus)
    articles = _of_split(source, corpus, split)
    if (first := next(articles, None)) is not None:
        return chain([first], articles)
    if split == "meta":
        do = f"lower --corpus.meta_every ({corpus.meta_every}) or give more articles"
    else:
        do = f"give more articles, splits of their own, or a lower --corpus.hold_out_every ({corpus.hold_out_every})"
    raise UserError(f"no articles in split {split!r}", source.name, do)


def load_articles(corpus: CorpusOptions, split: str) -> list[Article]:
    """The articles of a split that fits into memory. Raises UserError as ``iter_articles`` does."""
    return list(iter_articles(corpus, split))


def describe(corpus: CorpusOptions) -> dict[str, dict[str, Any]]:
    """For each split with articles: their number, words, types and the longest article, fit for JSON.

    Words are what white space separates, and each end of line is one more, as the literature counts them; it is one of
    the types as well. ``train`` is the whole training split, meta articles included. Raises UserError where the
    source is empty.
    """
    source = open_source(corpus)
    splits = {split: _of_split(source, corpus, WHOLE_TRAIN if split == "train" else split) for split in source.splits}
    counts = {split: _counts(articles) for split, articles in splits.items()}
    if not any(count["articles"] for count in counts.values()):
        raise UserError("no articles in it", source.name, "check --corpus.path and --corpus.format")
    return {split: count for split, count in counts.items() if count["articles"]}


def not_read(corpus: CorpusOptions) -> dict[str, str]:
    """Files of the folder ``corpus.path`` that are not read as part of the corpus, and why."""
    return dict(open_source(corpus).not_read)


def splits_with_articles(corpus: CorpusOptions) -> list[str]:
    """Those of SPLITS that the source has an article of. Raises UserError for bad input among the first ones."""
    source = open_source(corpus)
    owned = [split for split in SPLITS if ("train" if split == "meta" else split) in source.splits]
    return [split for split in owned if next(_of_split(source, corpus, split), None) is not None]


def word_count(text: str) -> int:
    """Words of ``text`` with one for each end of line; a last line without one counts as if it had it."""
    lines = text.count("\n") + (not text.endswith("\n"))
    return len(text.split()) + (lines if text else 0)


def _of_split(source: Source, corpus: CorpusOptions, split: str) -> Iterator[Article]:
    own = "train" if split in ("meta", WHOLE_TRAIN) else split
    if own not in source.splits:
        named = [name for name in SPLITS if ("train" if name == "meta" else name) in source.splits]
        raise UserError(f"no split {split!r}", source.name, f"choose among {', '.join(named)}")
    articles = source.splits[own]()
    if split in ("train", "meta"):
        every = corpus.meta_every
        articles = (article for i, article in enumerate(articles) if (i % every == every - 1) == (split == "meta"))
    return islice(articles, corpus.limit)


def _counts(articles: Iterator[Article]) -> dict[str, Any]:
    number = words = longest = 0
    longest_title = ""
    types: set[str] = set()
    for article in articles:
        count = word_count(article.text)
        number, words = number + 1, words + count
        types.update(article.text.split())
        if count > longest:
            longest, longest_title = count, article.title
    return {
        "articles": number,
        "words": words,
        "types": len(types) + 1,
        "longest": {"title": longest_title, "words": longest},
    }
