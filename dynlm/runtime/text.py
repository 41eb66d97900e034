"""Text at the program's borders: bytes come in as UTF-8, names and tokens go out to a terminal, JSON, Markdown or CSV.

Every text that a user gives (a corpus file, a text to read, standard input, a prompt) is decoded by ``decode_text``.
Everything that is shown passes ``printable``, or what builds on it for another medium, whoever wrote it. HTML pages
escape by their templates, and pass names through ``printable`` first.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import sys
from typing import Any

from dynlm.errors import UserError
from dynlm.runtime.parsing import read_bytes

LARGEST_TEXT = 64 * 2**20
"""Bytes of one text (an article, a text to read, a prompt): it is held in memory, and so is what is made of it."""
# Joiners decide on letters' shapes in some scripts, and on what emoji are one.
_JOINERS = "\u200c\u200d"
_MARKDOWN = re.compile(r"([\\`*_|<>\[\]&@~])")
_FORMULA = ("=", "+", "-", "@")
"""A spreadsheet takes a field that begins so for a formula."""


def decode_text(data: bytes, where: object, offset: int = 0) -> str:
    """``data``, which stands at byte ``offset`` of ``where``, as text. At offset 0 a byte order mark is dropped.

    Line ends stay as they are. Raises UserError, naming the byte, for what is not UTF-8 and for a NUL character.
    """
    if (nul := data.find(b"\0")) >= 0:
        raise UserError(f"NUL character at byte {offset + nul}", where, "is it a text file in UTF-8?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x})"
        raise UserError(what, where, "convert it to UTF-8") from error
    return text if offset else text.removeprefix(codecs.BOM_UTF8.decode())


def read_text(path: str | os.PathLike[str], largest: int = LARGEST_TEXT) -> str:
    """A file's text; ``-`` is standard input, whose bytes are UTF-8 too, whatever the locale says.

    Raises UserError for what is not UTF-8, longer than ``largest`` bytes, or not a regular file.
    """
    if str(path) != "-":
        return decode_text(read_bytes(path, largest), path)
    data = sys.stdin.buffer.read(largest + 1)
    if len(data) > largest:
        raise UserError(f"longer than {largest / 2**20:,.0f} MiB", "standard input", "give it in parts")
    return decode_text(data, "standard input")


def printable(text: str, lines: bool = False) -> str:
    """``text`` as it can be shown: on one line, and unable to steer a terminal or reorder what is beside it.

    White space becomes single spaces; with ``lines`` ends of line, tabs and spaces stay. Whatever else is not a visible
    character (control characters, directional marks, lone surrogates) is spelt as in Python: ``\\x1b``.
    """
    text = text if lines else " ".join(text.split())
    kept = _JOINERS + ("\n\t\u00a0\u3000" if lines else "")
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )


def markdown(text: str) -> str:
    """``text`` on one line, as Markdown that shows just it: no markup, and no address made a link."""
    return _MARKDOWN.sub(r"\\\1", printable(text)).replace("://", ":\\//").replace("www.", "www\\.")


def markdown_code(text: str) -> str:
    """``text`` on one line as a Markdown code span, in which nothing means anything but the end of it."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}"


def csv_field(text: str) -> str:
    """``text`` on one line, as a field of a CSV file that no spreadsheet takes for a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def json_text(content: Any, indent: int | None = 2) -> str:
    """``content`` as JSON that any UTF-8 file and any terminal can hold: what is not printable is spelt ``\\uXXXX``."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS or letter == "\n" else json.dumps(letter)[1:-1]
        for letter in text
    )


def escape_for_streams() -> None:
    """Make standard output and error spell what their encoding does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
