"""The unit of reading: one article, and where it came from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dynlm.errors import UserError
from dynlm.runtime import text as texts

_LINES_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Article:
    """One text that is read from its beginning to its end.

    ``where`` names the source well enough to find it again: a file and line, a data set's row, a module.
    """

    title: str
    text: str
    where: str


class Lines:
    """The lines of one article, gathered up to the size that an article may have (``text.LARGEST_TEXT`` bytes)."""

    def __init__(self) -> None:
        self._joined: list[str] = []
        self._lines: list[str] = []
        self._bytes = 0
        self.blank = True
        """Whether all lines so far are white space."""

    def append(self, line: str, where: str) -> None:
        """Take one more line. Raises UserError, naming ``where``, where the article gets too long."""
        self._bytes += len(line) if line.isascii() else len(line.encode())
        if self._bytes > texts.LARGEST_TEXT:
            raise too_long(where)
        self.blank = self.blank and not line.strip()
        # Many short lines take far more memory than their text.
        if len(self._lines) == _LINES_AT_ONCE:
            self._joined.append("".join(self._lines))
            self._lines.clear()
        self._lines.append(line)

    def extend(self, lines: Iterable[str], where: str) -> Lines:
        """``append`` each of ``lines``."""
        for line in lines:
            self.append(line, where)
        return self

    @property
    def text(self) -> str:
        return "".join([*self._joined, *self._lines])


def too_long(where: str) -> UserError:
    """The user's error for an article over ``text.LARGEST_TEXT``."""
    limit = f"longer than {texts.LARGEST_TEXT / 2**20:,.0f} MiB, the most that an article may have"
    return UserError(limit, where, "break it into articles")
