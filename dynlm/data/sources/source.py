"""Articles and their sources: what a corpus source provides, and the registry that finds one by ``corpus.source``.

A source is a function from the options to a ``Source``. This is a complete one, in a file of its own::

    from dynlm.data.sources.source import SOURCES, Article, Source

    @SOURCES.register("haiku")
    def open_haiku(corpus: CorpusOptions) -> Source:
        return Source("haiku", {"train": lambda: (Article(title, text, "haiku") for title, text in POEMS)})

A name that ends in a colon takes an argument: ``docs:`` opens ``docs:torch``.
Other packages register theirs by an entry point of the group ``dynlm.sources``.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.runtime import text as texts
from dynlm.runtime.registry import Registry

SPLIT_NAMES = {
    "train": "train",
    **dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid"),
    "test": "test",
}
"""Names of splits in files, folders and hub data sets, and the split that each stands for."""


@dataclass(frozen=True, slots=True)
class Article:
    """A text that is read from beginning to end; ``where`` locates it: a file and line, a row, a module."""

    title: str
    text: str
    where: str


class ArticleText:
    """The text of one article, built line by line; at most ``text.LARGEST_TEXT`` bytes."""

    def __init__(self) -> None:
        self._text, self._bytes = io.StringIO(newline="\n"), 0
        self.blank = True
        """Whether all lines so far are white space."""

    def append(self, line: str, where: str) -> None:
        """Append a line. Raises UserError, naming ``where``, if the article gets too long."""
        self._bytes += len(line) if line.isascii() else len(line.encode())
        if self._bytes > texts.LARGEST_TEXT:
            raise too_long(where)
        self.blank = self.blank and not line.strip()
        self._text.write(line)

    def __str__(self) -> str:
        return self._text.getvalue()


def too_long(where: str) -> UserError:
    """Return the UserError for an article over ``text.LARGEST_TEXT``."""
    limit = f"longer than {texts.LARGEST_TEXT / 2**20:,.0f} MiB, the most that an article may have"
    return UserError(limit, where, "break it into articles")


Skipped = dict[str, str]
"""What of a source is not read, a file or pages of a file, and why."""
Articles = Callable[[], Iterator[Article]]
"""Starts an iterator over a split from its first article."""


@dataclass(frozen=True)
class Source:
    """A corpus: the articles of its splits (train, valid and test, or some of them).

    ``data.articles`` holds articles of train out where there is no valid or test split.
    """

    name: str
    """Name in reports and messages."""
    splits: Mapping[str, Articles]
    skipped: Skipped = field(default_factory=dict)
    """Files of a folder that are not part of the corpus, and why; a dump adds its pages while it is read."""


SOURCES = Registry[Callable[[CorpusOptions], Source]](
    "corpus.source", "dynlm.data.sources", "dynlm.sources", ", or owner/name of a hub data set"
)
