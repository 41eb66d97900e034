"""Tokens as they are shown: every byte visible, nothing that could steer the page or the terminal.

A token is untrusted text. What cannot be printed is written as an escape; tokens that only together make a character
become one cell with their summed losses; bytes that make none are shown as ``\\xNN``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

END_OF_LINE = "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}"
_EMPTY = "\N{EMPTY SET}"
_LONGEST_CHARACTER = 4


@dataclass(frozen=True)
class Cell:
    """One or more tokens shown as one: its text (never empty) and both levels' nats."""

    text: str
    lower: float
    higher: float
    ends_line: bool = False
    came: bool = False
    """Whether its word came before in the article; told only where that is asked for."""

    @property
    def gain(self) -> float:
        """Nats that the higher level saves."""
        return self.lower - self.higher

    @property
    def space(self) -> str:
        """The space that parts the cell from the one before it; it stays uncoloured."""
        return " " if self.text.startswith(" ") and self.text.strip(" ") else ""

    @property
    def body(self) -> str:
        """The text without that space."""
        return self.text[len(self.space) :]


@dataclass(frozen=True)
class Placed:
    """A piece of a cell's body in a grid of characters: the column where it starts and its width in columns."""

    cell: Cell
    text: str
    column: int
    width: int


def cells_of(tokens: Iterable[tuple[bytes, float, float]]) -> list[Cell]:
    """Cells for tokens given as (surface, nats of the lower level, nats of the higher level)."""
    return [cell for cell, _ in counted_cells(tokens)]


def counted_cells(tokens: Iterable[tuple[bytes, float, float]]) -> list[tuple[Cell, int]]:
    """The same cells, each with how many tokens it is made of."""
    cells: list[tuple[Cell, int]] = []
    waiting: list[tuple[bytes, float, float]] = []
    for token in tokens:
        joined = b"".join(surface for surface, _, _ in waiting) + token[0]
        if _may_go_on(joined):
            waiting.append(token)
            continue
        try:
            text = joined.decode()
        except UnicodeDecodeError:
            cells += [(_cell(*earlier), 1) for earlier in waiting]
            waiting = [token] if _may_go_on(token[0]) else []
            if not waiting:
                cells.append((_cell(*token), 1))
            continue
        waiting.append(token)
        lower, higher = sum(one[1] for one in waiting), sum(one[2] for one in waiting)
        cells.append((Cell(visible(text), lower, higher, text.endswith("\n")), len(waiting)))
        waiting = []
    return cells + [(_cell(*token), 1) for token in waiting]


def visible(text: str) -> str:
    """``text`` with every character that has no print of its own as an escape, and a mark for an end of line."""
    shown = "".join(_shown(letter) for letter in text)
    if shown and unicodedata.category(shown[0]).startswith("M"):
        shown = "\N{DOTTED CIRCLE}" + shown
    return shown or _EMPTY


def lay_out(cells: Iterable[Cell], columns: int) -> list[list[Placed]]:
    """Lay out cells in lines of ``columns`` characters, wrapped between words where possible."""
    lines: list[list[Placed]] = [[]]
    column = 0
    for word in _words(cells):
        needed = sum(_width(cell.text) for cell in word)
        if column and column + needed > columns:
            lines.append([])
            column = 0
        for cell in word:
            if column:
                column += len(cell.space)
            for text, width in _pieces(cell.body, columns):
                if column + width > columns:
                    lines.append([])
                    column = 0
                lines[-1].append(Placed(cell, text, column, width))
                column += width
            if cell.ends_line:
                lines.append([])
                column = 0
    return [line for line in lines if line]


def _may_go_on(data: bytes) -> bool:
    """Whether ``data`` is cut within a character that more bytes could complete."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data" and len(data) - error.start < _LONGEST_CHARACTER
    return False


def _cell(surface: bytes, lower: float, higher: float) -> Cell:
    # The characters that decode are escaped one by one; bytes that do not are already \xNN and printable.
    return Cell(visible(surface.decode("utf-8", "backslashreplace")), lower, higher, surface.endswith(b"\n"))


def _shown(letter: str) -> str:
    if letter == "\n":
        return END_OF_LINE
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _words(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    word: list[Cell] = []
    for cell in cells:
        if word and (cell.text.startswith(" ") or word[-1].ends_line or word[-1].text.endswith(" ")):
            yield word
            word = []
        word.append(cell)
    if word:
        yield word


def _pieces(text: str, columns: int) -> Iterator[tuple[str, int]]:
    """``text`` in pieces that fit a line, each with its width."""
    piece, width = "", 0
    for letter in text:
        wide = _width(letter)
        if piece and width + wide > columns:
            yield piece, width
            piece, width = "", 0
        piece, width = piece + letter, width + wide
    yield piece, width


def _width(text: str) -> int:
    """Columns that ``text`` takes: two for a wide East Asian character, none for a mark on another."""
    return sum(
        0 if unicodedata.category(letter) in ("Mn", "Me") else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )
