"""The unit of reading: one article, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Article:
    """One text that is read from its beginning to its end.

    ``where`` names the source well enough to find it again: a file and line, a data set's row, a module.
    """

    title: str
    text: str
    where: str
