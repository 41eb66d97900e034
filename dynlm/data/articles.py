"""Articles of a corpus by split, from any source, and their statistics."""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from dynlm.data.cut import cut_articles
from dynlm.data.options import CorpusOptions
from dynlm.data.sources.hub import open_hub
from dynlm.data.sources.local import open_local
from dynlm.data.sources.mixed import open_mixed
from dynlm.data.sources.source import SOURCES, Article, Articles, Source
from dynlm.errors import UserError
from dynlm.runtime.validation import shortened

WHOLE_TRAIN = "train+meta"
"""The whole training split, in the source's order."""
_HUB = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def open_source(corpus: CorpusOptions) -> Source:
    """Return the source that the options name, with the splits of ``derive_splits``.

    Reads no articles. Raises UserError if there is no such source, file or data set.
    """
    name, colon, _ = corpus.source.partition(":")
    if corpus.path is not None:
        source = open_mixed(corpus) if corpus.format == "mixed" else open_local(corpus)
    elif "/" in name:
        source = open_hub(corpus)
    else:
        source = SOURCES[name + colon](corpus)
    own = {name: _cut(articles, corpus.cut_words) for name, articles in source.splits.items()}
    return replace(source, splits=derive_splits(own, corpus))


def _cut(articles: Articles, words: int) -> Articles:
    return (lambda: cut_articles(articles(), words)) if words else articles


def corpus_named(text: str, like: CorpusOptions, option: str) -> CorpusOptions:
    """Return the options of a corpus that ``option`` names as ``corpus.source`` or ``corpus.path`` would.

    A name of a source is one even if there is such a file. Fields, limits and how splits are derived are those of
    ``like``; the format is detected. Raises UserError for what is no source and no file.
    """
    name, colon, _ = text.partition(":")
    if name + colon in SOURCES.names() or (_HUB.fullmatch(text) and not Path(text).exists()):
        return replace(like, source=text, path=None, format="auto", subset=None)
    if not Path(text).expanduser().exists():
        what, names = f"{option} names {shortened(text)}, which is no source and no file", ", ".join(SOURCES.names())
        raise UserError(what, do=f"name a file, a folder, OWNER/NAME of the hub, or one of {names}")
    return replace(like, path=text, format="auto", subset=None)


def derive_splits(own: Mapping[str, Articles], corpus: CorpusOptions) -> dict[str, Articles]:
    """Return those of train, meta, valid, test and ``train+meta`` that can be taken from a source's ``own`` splits.

    Without a split valid, of each ``hold_out_every`` training articles the last goes to valid and, without a split
    test, the last but one to test: interleaving keeps every part of a sorted source in training. Of the others, each
    ``meta_every``-th is in meta, which the language model never sees. A split has at most ``limit`` articles.
    """

    def part(articles: Articles, every: int, remainders: Container[int]) -> Articles:
        return lambda: (article for i, article in enumerate(articles()) if i % every in remainders)

    splits = dict(own)
    if "train" in own:
        whole, every = own["train"], corpus.hold_out_every
        if "valid" not in own:
            held_out = ["valid"] if "test" in own else ["valid", "test"]
            splits |= {split: part(whole, every, [every - 1 - n]) for n, split in enumerate(held_out)}
            whole = part(whole, every, range(every - len(held_out)))
        last = corpus.meta_every - 1
        splits |= {"train": part(whole, last + 1, range(last)), "meta": part(whole, last + 1, [last])}
        splits[WHOLE_TRAIN] = whole

    def limited(articles: Articles) -> Articles:
        return lambda: islice(articles(), corpus.limit)

    names = ("train", "meta", "valid", "test", WHOLE_TRAIN)
    return {split: limited(splits[split]) for split in names if split in splits}


def source_name(corpus: CorpusOptions) -> str:
    """Return the source's name in reports: a path, a data set's name, or what is documented with its version."""
    return open_source(corpus).name


def iter_articles(corpus: CorpusOptions, split: str) -> Iterator[Article]:
    """Return an iterator over the articles of a split (see ``derive_splits``) in order.

    Raises UserError if the source has no such split or no article in it, and for bad input when it is reached.
    """
    source = open_source(corpus)
    if split not in source.splits:
        names = [name for name in source.splits if name != WHOLE_TRAIN]
        raise UserError(f"no split {split!r}", source.name, f"choose among {', '.join(names)}")
    articles = source.splits[split]()
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


def splits_with_articles(corpus: CorpusOptions) -> list[str]:
    """Return those of train, meta, valid and test that have articles. Raises UserError for bad input in the first."""
    splits = open_source(corpus).splits
    return [name for name in splits if name != WHOLE_TRAIN and next(splits[name](), None) is not None]


def describe(source: Source) -> dict[str, dict[str, Any]]:
    """Return, for each split with articles, the number of articles, words and types, and the longest article.

    Words are counted as by ``word_count``; all ends of line are one type. ``train`` is the whole training split, with
    meta articles. Raises UserError if the source is empty.
    """
    names = {"train": WHOLE_TRAIN, "valid": "valid", "test": "test"}
    counts = {name: _count(source.splits[split]()) for name, split in names.items() if split in source.splits}
    if not any(count["articles"] for count in counts.values()):
        raise UserError("no articles in it", source.name, "check --corpus.path and --corpus.format")
    return {split: count for split, count in counts.items() if count["articles"]}


def word_count(text: str) -> int:
    """Return the words of ``text`` plus one for each line, as in the literature; the last line may lack its end."""
    lines = text.count("\n") + (not text.endswith("\n"))
    return len(text.split()) + (lines if text else 0)


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
