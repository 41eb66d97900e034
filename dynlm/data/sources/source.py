"""Sources of articles: what a corpus source provides, and the registry that finds one by ``corpus.source``.

A source is a function from the options to a ``Source``. This is a complete one, in a file of its own::

    from dynlm.data.article import Article
    from dynlm.data.sources.source import SOURCES, Source

    @SOURCES.register("haiku")
    def open_haiku(corpus: CorpusOptions) -> Source:
        return Source("haiku", {"train": lambda: (Article(title, text, "haiku") for title, text in POEMS)})

Other packages register theirs by an entry point of the group ``dynlm.sources``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from dynlm.data.article import Article
from dynlm.data.options import CorpusOptions
from dynlm.runtime.registry import Registry

SPLIT_NAMES = {
    "train": "train",
    **dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid"),
    "test": "test",
}
"""Names of splits in files, folders and hub data sets, and the split that each stands for."""

Articles = Callable[[], Iterator[Article]]
"""Starts an iterator over a split from its first article."""


@dataclass(frozen=True)
class Source:
    """A corpus: the articles of its splits (train, valid and test, or some of them).

    Where there is no valid or test split, ``open_source`` holds articles of train out for them.
    """

    name: str
    """Name in reports and messages."""
    splits: Mapping[str, Articles]
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Files of a folder that are not part of the corpus, and why."""


SOURCES = Registry[Callable[[CorpusOptions], Source]](
    "corpus.source", "dynlm.data.sources", "dynlm.sources", ", or owner/name of a hub data set"
)


def with_held_out(splits: Mapping[str, Articles], every: int) -> dict[str, Articles]:
    """Add missing valid and test splits, held out from train: of each ``every`` articles the last goes to valid.

    The last but one goes to test, unless there is a test split. Interleaving keeps every part of a sorted source in
    training. Splits that have valid, or have no train, are returned unchanged.
    """
    if "train" not in splits or "valid" in splits:
        return dict(splits)
    whole = splits["train"]
    held_out = {"valid": every - 1} if "test" in splits else {"valid": every - 1, "test": every - 2}

    def part(keeps: Callable[[int], bool]) -> Articles:
        return lambda: (article for i, article in enumerate(whole()) if keeps(i % every))

    train = part(lambda remainder: remainder not in held_out.values())
    return {**splits, "train": train, **{split: part(own.__eq__) for split, own in held_out.items()}}
