"""Articles: the units of text that are read from beginning to end."""

from __future__ import annotations

import io
from dataclasses import dataclass

from dynlm.errors import UserError
from dynlm.runtime import text as texts


@dataclass(frozen=True, slots=True)
class Article:
    """One text; ``where`` locates it in its source: a file and line, a row of a data set, a module."""

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
