"""Tokens as they are displayed: every byte visible, nothing that could control the page or the terminal.

A token is untrusted text. Characters that cannot be printed become escapes. Tokens that only together make a
character become one cell with their summed losses; invalid bytes are displayed as ``\\xNN``. Legend: N tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.containers import Lines
from rich.style import StyleType
from rich.text import Text

CONTINUED = 0
"""Index of a token that belongs to the cell of the one before it."""
_MAX_BYTES = 4
"""Length of the longest character in UTF-8."""


@dataclass(frozen=True)
class TokenTexts:
    """The displayed text of every token, each different text once."""

    index_N: np.ndarray
    """Index into ``texts`` of each token (int64)."""
    texts: list[str]
    line_ends: list[int]
    """Indices of the texts that end a line; spaces after that end belong to the next line."""


@dataclass(frozen=True)
class Cell:
    """One or more tokens displayed as one: text (never empty), both levels' nats, and layout."""

    text: str
    lower: float
    higher: float
    space: str = ""
    """The space before it within its line, or the line's indentation, displayed without a colour."""
    ends_line: bool = False
    repeated: bool = False
    """Whether its word occurred before in the article."""

    @property
    def gain(self) -> float:
        """Nats that the higher level saves."""
        return self.lower - self.higher


def visible(text: str) -> str:
    """Return ``text`` with an escape for every character that is not printable, and a mark for an end of line."""
    shown = "".join(_escape(letter) for letter in text)
    if shown and unicodedata.category(shown[0]).startswith("M"):
        shown = "\N{DOTTED CIRCLE}" + shown
    return shown or "\N{EMPTY SET}"


def short(text: str, letters: int = 24) -> str:
    """Return ``text`` cut to ``letters`` characters, with an ellipsis where something was cut."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def token_texts(surfaces: Sequence[bytes], starts: Sequence[int] | np.ndarray = ()) -> TokenTexts:
    """Return the displayed text of every token; a cell never crosses one of the articles' first rows ``starts``."""
    indices: dict[str, int] = {}
    shown = [CONTINUED] * len(surfaces)
    for first, end in pairwise([0, *starts, len(surfaces)]):
        row = first
        for text, count in _join(surfaces[first:end]):
            shown[row] = indices.setdefault(text, len(indices) + 1)
            row += count
    line_ends = [index for text, index in indices.items() if text.rstrip(" ").endswith("\n")]
    return TokenTexts(np.array(shown, dtype=np.int64), ["", *map(visible, indices)], line_ends)


def token_cells(
    surfaces: Sequence[bytes], lower_N: np.ndarray, higher_N: np.ndarray, repeated_N: np.ndarray | None = None
) -> list[Cell]:
    """Return the cells of tokens with these bytes, both levels' nats, and whether their words are repeated."""
    shown = token_texts(surfaces)
    first = np.flatnonzero(shown.index_N != CONTINUED)
    if not len(first):
        return []
    lower, higher = (np.add.reduceat(nats_N.astype(np.float64), first).tolist() for nats_N in (lower_N, higher_N))
    repeated = [False] * len(first) if repeated_N is None else repeated_N[first].tolist()
    cells: list[Cell] = []
    indentation = ""
    for index, low, high, is_repeated in zip(shown.index_N[first].tolist(), lower, higher, repeated, strict=True):
        text = shown.texts[index]
        space = " " if text.startswith(" ") and text.strip(" ") else ""
        starts_line, ends_line = not cells or cells[-1].ends_line, index in shown.line_ends
        text, space = text.removeprefix(space), "" if starts_line and not indentation else indentation + space
        # Byte-level tokens hold an end of line together with the next line's indentation, all but its last space.
        whole, text = text, text.rstrip(" ") if ends_line else text
        indentation = whole[len(text) :]
        cells.append(Cell(text, low, high, space, ends_line, is_repeated))
    return cells


def wrap_cells(cells: Sequence[Cell], columns: int, styles: Iterable[StyleType]) -> Lines:
    """Return cells in lines of ``columns`` characters, each cell with its style, wrapped between words if possible."""
    text = Text()
    for index, (cell, style) in enumerate(zip(cells, styles, strict=True)):
        text.append(cell.space).append(cell.text, style)
        if cell.ends_line and index + 1 < len(cells):
            text.append("\n")
    return text.wrap(Console(), columns, overflow="fold")


def _escape(letter: str) -> str:
    if letter == "\n":
        return "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@lru_cache(maxsize=2**16)
def _decode(data: bytes) -> tuple[str | None, bool]:
    """Return the text of ``data``, None where it is not UTF-8, and whether more bytes could complete it."""
    try:
        return data.decode(), False
    except UnicodeDecodeError as error:
        return None, error.reason == "unexpected end of data" and len(data) - error.start < _MAX_BYTES


def _join(surfaces: Iterable[bytes]) -> Iterator[tuple[str, int]]:
    """Join tokens that make a character together; yield each text and its number of tokens."""
    pending: list[bytes] = []
    for surface in surfaces:
        text, incomplete = _decode(b"".join([*pending, surface]) if pending else surface)
        if text is None and not incomplete:
            yield from ((each.decode("utf-8", "backslashreplace"), 1) for each in pending)
            pending = []
            text, incomplete = _decode(surface)
        if incomplete:
            pending.append(surface)
        else:
            yield surface.decode("utf-8", "backslashreplace") if text is None else text, len(pending) + 1
            pending = []
    yield from ((each.decode("utf-8", "backslashreplace"), 1) for each in pending)
