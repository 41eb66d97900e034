"""Long texts cut into articles, at headings where there are some, else at paragraphs, lines, sentences or words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from dynlm.data.sources.source import Article

_BYTES_OF_A_WORD = 12
"""Text without spaces, such as Chinese, counts as a word for so many bytes."""
_CHARACTERS_OF_A_WORD = _BYTES_OF_A_WORD // 4
"""Characters that have at most as many bytes, of which UTF-8 has up to four for each."""


def _heading(depth: int) -> str:
    """Return a pattern for the place before a heading of at most ``depth``: of Markdown or WikiText."""
    underlined = r"|\S[^\n]*\n(?:===+|---+)[ \t\r]*$" if depth > 1 else ""
    return rf"^(?=#{{1,{depth}}} +\S| =(?: =){{0,{depth - 1}}} [^\s=]{underlined})"


_BREAKS = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        *map(_heading, (1, 2, 3, 6)),
        r"\n(?:[ \t\r]*\n)+",
        r"\n",
        r"[.!?]\s+|[\u3002\uff01\uff1f]",
        r"\s+",
    )
]
"""Where a text may be cut: at the end of a match. Each is for parts that those before it leave too long."""


class _Part(NamedTuple):
    text: str
    words: int
    bytes: int

    @classmethod
    def of(cls, text: str) -> _Part:
        return cls(text, len(text.split()), len(text.encode("utf-8", "surrogatepass")))

    @property
    def size(self) -> float:
        return max(self.words, self.bytes / _BYTES_OF_A_WORD)


def size_in_words(text: str) -> float:
    """Return the words of ``text``, runs without white space; text with hardly any counts by its bytes."""
    return _Part.of(text).size


def cut_text(text: str, words: int) -> list[str]:
    """Return pieces of at most ``words`` words (see ``size_in_words``), which joined are ``text``.

    Each has as many neighbouring parts as fit: sections, of a section that is too long its subsections, then
    paragraphs, and so on. Raises ValueError where ``words`` is below 1.
    """
    if words < 1:
        raise ValueError(f"words is {words}")
    return [part.text for part in _cut(_Part.of(text), words, 0)]


def cut_articles(articles: Iterable[Article], words: int) -> Iterator[Article]:
    """Yield ``articles``, those of more than ``words`` words in pieces (``cut_text``) titled "..., part 2".

    Pieces without a word are left out.
    """
    for article in articles:
        pieces = [piece for piece in cut_text(article.text, words) if piece.strip()]
        for number, piece in enumerate(pieces, 1):
            title = f"{article.title}, part {number}" if len(pieces) > 1 else article.title
            yield Article(title, piece, article.where)


def _cut(part: _Part, words: int, level: int) -> list[_Part]:
    """Return the pieces of a part; breaks of levels below ``level`` were tried."""
    if part.size <= words:
        return [part]
    pieces: list[_Part] = []
    group: list[_Part] = []
    held_words = held_bytes = 0
    for inner in map(_Part.of, _broken(part.text, words, level)):
        for piece in [inner] if inner.size <= words else _cut(inner, words, level + 1):
            # A word may have been cut; it then counts twice.
            held_words, held_bytes = held_words + piece.words, held_bytes + piece.bytes
            if max(held_words, held_bytes / _BYTES_OF_A_WORD) > words:
                pieces.append(_joined(group))
                group, held_words, held_bytes = [], piece.words, piece.bytes
            group.append(piece)
    return [*pieces, _joined(group)]


def _broken(text: str, words: int, level: int) -> list[str]:
    if level < len(_BREAKS):
        places = [0, *(found.end() for found in _BREAKS[level].finditer(text)), len(text)]
    else:
        places = [*range(0, len(text), words * _CHARACTERS_OF_A_WORD), len(text)]
    return [text[first:last] for first, last in pairwise(places) if first < last]


def _joined(parts: list[_Part]) -> _Part:
    text = "".join(part.text for part in parts)
    return _Part(text, sum(part.words for part in parts), sum(part.bytes for part in parts))
