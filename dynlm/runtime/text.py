"""Decoding of text from users, and escaping of text for terminals, JSON, Markdown and CSV.

Every text that a user gives (a corpus file, a text to read, standard input, a prompt) is decoded by ``decode_text``.
Everything that is displayed passes ``printable``, or a function built on it, since names and tokens are untrusted.
HTML pages escape in their templates, and pass names through ``printable`` first.
"""

from __future__ import annotations

import codecs
import difflib
import json
import re
import sys
from collections.abc import Iterable
from typing import Any

from dynlm.errors import UserError
from dynlm.runtime.files import StrPath
from dynlm.runtime.launcher import is_main_process
from dynlm.runtime.parsing import read_bytes

LARGEST_TEXT = 64 * 2**20
"""Bytes of one text (an article, a text to read, a prompt), which is held in memory with what is computed from it."""
# Joiners select letter forms in some scripts, and combine emoji.
_JOINERS = "\u200c\u200d"
_MARKDOWN = re.compile(r"([\\`*_|<>\[\]&@~])")
_INTERVAL = re.compile(r"\\\[([-+\d.,e% ]+)\\\](?![\\(\[:])")
_LATEX = {letter: f"\\{letter}" for letter in "{}$&#_%"} | {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    '"': r"\textquotedbl{}",
    **{letter: f"{{{letter}}}" for letter in "[]"},  # After "\\" they would be its option.
    **{letter: f"${letter}$" for letter in "<>|"},
    **{"\u00b1": r"$\pm$", "\u00d7": r"$\times$", "\u2192": r"$\rightarrow$", "\u2212": "$-$"},
    **{"\u03b8": r"$\theta$", "\u03c6": r"$\phi$", "\u03bb": r"$\lambda$", "\u00b2": "$^2$"},
    **{chr(0x2080 + digit): f"$_{digit}$" for digit in range(10)},
}
_FORMULA = ("=", "+", "-", "@")
"""With what a formula begins."""
_MINUS = re.compile(r"(?<![\w-])-(?=\d)")


def decode_text(data: bytes, where: object, offset: int = 0) -> str:
    """Decode UTF-8 ``data`` from byte ``offset`` of ``where``; at offset 0 a byte order mark is dropped.

    Line ends are kept. Raises UserError, naming the byte, for invalid UTF-8 and for a NUL character.
    """
    if (nul := data.find(b"\0")) >= 0:
        raise UserError(f"NUL character at byte {offset + nul}", where, "is it a text file in UTF-8?")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 at byte {offset + error.start} (0x{data[error.start]:02x})"
        raise UserError(what, where, "convert it to UTF-8") from error
    return text if offset else text.removeprefix(codecs.BOM_UTF8.decode())


def read_text(path: StrPath, largest: int = LARGEST_TEXT) -> str:
    """Return the text of a file, or of standard input for ``-``, which is UTF-8 in any locale.

    Raises UserError as ``decode_text`` and ``read_bytes`` do.
    """
    if str(path) != "-":
        return decode_text(read_bytes(path, largest), path)
    data = sys.stdin.buffer.read(largest + 1)
    if len(data) > largest:
        raise UserError(f"longer than {largest / 2**20:,.0f} MiB", "standard input", "give it in parts")
    return decode_text(data, "standard input")


def printable(text: str, lines: bool = False) -> str:
    """Return ``text`` on one line and without terminal control sequences or directional marks.

    White space becomes single spaces; with ``lines``, ends of line, tabs and spaces are kept. Other characters that are
    not visible (control characters, directional marks, lone surrogates) are escaped as in Python: ``\\x1b``.
    """
    text = text if lines else " ".join(text.split())
    kept = _JOINERS + ("\n\t\u00a0\u3000" if lines else "")
    return "".join(
        letter if letter.isprintable() or letter in kept else letter.encode("unicode_escape").decode()
        for letter in text
    )


def markdown(text: str) -> str:
    """Return ``text`` on one line, escaped for Markdown; addresses do not become links."""
    return _MARKDOWN.sub(r"\\\1", printable(text)).replace("://", ":\\//").replace("www.", "www\\.")


def markdown_cell(text: str) -> str:
    """Return ``text`` as ``markdown`` does, but with the brackets of intervals of numbers as they are."""
    return _INTERVAL.sub(r"[\1]", markdown(text))


def latex(text: str) -> str:
    """Return ``text`` on one line, escaped for LaTeX; no part of it can be a command."""
    return _MINUS.sub("$-$", "".join(_LATEX.get(letter, letter) for letter in printable(text)))


def markdown_code(text: str) -> str:
    """Return ``text`` on one line as a Markdown code span."""
    text = printable(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}"


def csv_field(text: str) -> str:
    """Return ``text`` on one line as a CSV field that no spreadsheet evaluates as a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(_FORMULA) else text


def csv_text(field: str) -> str:
    """Return the text that ``csv_field`` wrote as ``field``."""
    return field[1:] if field.startswith(tuple(f"'{sign}" for sign in _FORMULA)) else field


def json_text(content: Any, indent: int | None = 2) -> str:
    """Return ``content`` as JSON for terminals and UTF-8 files: characters that are not printable are ``\\uXXXX``."""
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    if text.isascii() and "\x7f" not in text:
        return text
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS or letter == "\n" else json.dumps(letter)[1:-1]
        for letter in text
    )


def counted(number: int, one: str) -> str:
    """Return a number and what is counted: "1 article", "1,234 articles"."""
    return f"{number:,} {one if number == 1 else one + 's'}"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return a hint at the nearest of ``names``; empty if none is near."""
    near = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def escape_for_streams() -> None:
    """Make standard output and error escape characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def warn(message: str) -> None:
    """Print a one-line warning to standard error; of several processes, the first does."""
    if is_main_process():
        print(printable(f"dynlm: warning: {message}"), file=sys.stderr)
