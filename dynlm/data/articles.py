"""Articles of a corpus by split, from any source, and their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from dynlm.data.article import Article
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.hub import open_hub
from dynlm.data.sources.local import open_local
from dynlm.data.sources.source import SOURCES, Source, with_held_out
from dynlm.errors import UserError

_OWN_SPLIT = {"train": "train", "meta": "train", "valid": "valid", "test": "test"}
"""The split of the source that each split is taken from."""
WHOLE_TRAIN = "train+meta"
"""The source's whole training split, in its order."""


def open_source(corpus: CorpusOptions) -> Source:
    """Return the source that the options name, with valid and test splits held out from train where it has none.

    Reads no articles. Raises UserError if there is no such source, file or data set.
    """
    if corpus.path is not None:
        source = open_local(corpus)
    elif "/" in corpus.source:
        source = open_hub(corpus)
    else:
        source = SOURCES[corpus.source](corpus)
    return replace(source, splits=with_held_out(source.splits, corpus.hold_out_every))


def source_name(corpus: CorpusOptions) -> str:
    """Return the source's name in reports: a path, a data set's name, or the standard library with its version."""
    return open_source(corpus).name


def iter_articles(corpus: CorpusOptions, split: str) -> Iterator[Article]:
    """Return an iterator over the articles of a split in order, at most ``corpus.limit``.

    ``meta`` are the training articles that the language model never sees, every ``corpus.meta_every``-th of the
    source's training split; ``train`` are the others, and ``train+meta`` all of them. Raises UserError if the source
    has no such split or no article in it, and for bad input when it is reached.
    """
    source = open_source(corpus)
    articles = _articles_of(source, corpus, split)
    if (first := next(articles, None)) is not None:
        return chain([first], articles)
    if split == "meta":
        do = f"lower --corpus.meta_every ({corpus.meta_every}) or give more articles"
    else:
        do = f"give more articles, splits of their own, or a lower --corpus.hold_out_every ({corpus.hold_out_every})"
    raise UserError(f"no articles in split {split!r}", source.name, do)


def load_articles(corpus: CorpusOptions, split: str) -> list[Article]:
    """Return the articles of a split as a list. Raises UserError as ``iter_articles`` does."""
    return list(iter_articles(corpus, split))


def describe(corpus: CorpusOptions) -> dict[str, dict[str, Any]]:
    """Return, for each split with articles, the number of articles, words and types, and the longest article.

    Words are separated by white space, and each end of line counts as one word (and one type), as in the literature.
    ``train`` is the whole training split, with meta articles. Raises UserError if the source is empty.
    """
    source = open_source(corpus)
    counts = {
        split: _count(_articles_of(source, corpus, WHOLE_TRAIN if split == "train" else split))
        for split in source.splits
    }
    if not any(count["articles"] for count in counts.values()):
        raise UserError("no articles in it", source.name, "check --corpus.path and --corpus.format")
    return {split: count for split, count in counts.items() if count["articles"]}


def skipped_files(corpus: CorpusOptions) -> dict[str, str]:
    """Return the files of the folder ``corpus.path`` that are not read, and why."""
    return dict(open_source(corpus).skipped)


def splits_with_articles(corpus: CorpusOptions) -> list[str]:
    """Return those of train, meta, valid and test that have articles. Raises UserError for bad input in the first."""
    source = open_source(corpus)
    return [split for split in _splits_of(source) if next(_articles_of(source, corpus, split), None) is not None]


def word_count(text: str) -> int:
    """Return the words of ``text`` plus one for each line, as in the literature; the last line may lack its end."""
    lines = text.count("\n") + (not text.endswith("\n"))
    return len(text.split()) + (lines if text else 0)


def _splits_of(source: Source) -> list[str]:
    return [split for split, own in _OWN_SPLIT.items() if own in source.splits]


def _articles_of(source: Source, corpus: CorpusOptions, split: str) -> Iterator[Article]:
    own = "train" if split == WHOLE_TRAIN else _OWN_SPLIT.get(split, "")
    if own not in source.splits:
        raise UserError(f"no split {split!r}", source.name, f"choose among {', '.join(_splits_of(source))}")
    articles = source.splits[own]()
    if split in ("train", "meta"):
        every = corpus.meta_every
        articles = (article for i, article in enumerate(articles) if (i % every == every - 1) == (split == "meta"))
    return islice(articles, corpus.limit)


def _count(articles: Iterator[Article]) -> dict[str, Any]:
    number = words = longest = 0
    longest_title = ""
    types: set[str] = set()
    for article in articles:
        count = word_count(article.text)
        number, words = number + 1, words + count
        types.update(article.text.split())
        if count > longest:
            longest, longest_title = count, article.title
    about = {"title": longest_title, "words": longest}
    return {"articles": number, "words": words, "types": len(types) + 1, "longest": about}
