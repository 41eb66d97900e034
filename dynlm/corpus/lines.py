"""Lines of plain or compressed text files, checked: what is cut short, no UTF-8, or no text is named by its place.

Line ends stay as they are in the file (CRLF and a lone CR included); only a byte order mark at the start is dropped.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import itertools
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dynlm.errors import UserError

LONGEST_LINE = 16 * 2**20
"""Bytes; no more than this is read at once, so that a file without line ends cannot fill the memory."""

_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_PACKED = {*_OPENERS, ".zip", ".zst"}
UNPACKING_ERRORS = (
    *(EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, pa.ArrowException),
    # What zipfile raises over headers that lie, encryption and methods that it does not know; MemoryError where a
    # header asks for a window that is not to be had.
    *(ValueError, LookupError, OverflowError, struct.error, RuntimeError, MemoryError),
)
"""What the standard library and Arrow raise over packed files that are damaged or made to harm."""


def unpacked_name(path: Path) -> str:
    """The file's name without the suffix of a compression: ``train.txt`` for ``train.txt.xz``."""
    return path.stem if path.suffix.lower() in _PACKED else path.name


def text_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, plain or compressed (.gz, .bz2, .xz, .zip, .zst), each with its line end.

    Raises UserError, naming line and byte where there are such, where the file cannot be opened, is cut short or
    damaged, is no UTF-8, holds a NUL character or a line over 16 MiB, or is a zip archive of several files.
    """
    offset = 0
    with _user_errors(path), _opened(path) as file:
        for number in itertools.count(1):
            line = file.readline(LONGEST_LINE + 1)
            if not line:
                return
            if text := _checked(line, number, offset, path):
                yield text
            offset += len(line)


def _checked(line: bytes, number: int, offset: int, path: Path) -> str:
    """``line``, which begins at byte ``offset``, as text."""
    if len(line) > LONGEST_LINE:
        raise UserError(f"longer than {LONGEST_LINE // 2**20} MiB", f"{path}:{number}", "break it into lines")
    if (nul := line.find(b"\0")) >= 0:
        raise UserError(f"NUL character at byte {offset + nul}", f"{path}:{number}", "is it a text file in UTF-8?")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        place = f"byte {offset + error.start} (0x{line[error.start]:02x})"
        raise UserError(f"no UTF-8 at {place}", f"{path}:{number}", "convert the file to UTF-8") from error
    return text.removeprefix("\ufeff") if number == 1 else text


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    packing = path.suffix.lower()
    if packing == ".zip":
        with zipfile.ZipFile(path) as archive, archive.open(_only_member(archive, path)) as member:
            yield member
    elif packing == ".zst":
        # Arrow's reader, unlike zstandard's, reads on into a second frame and tells a frame that is cut short.
        with io.BufferedReader(pa.CompressedInputStream(str(path), "zstd")) as file:
            yield file
    else:
        with _OPENERS.get(packing, open)(path, "rb") as file:
            yield file


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise UserError(f"an archive of {len(members)} files, not of one", path, "unpack it and give the folder")
    return members[0]


@contextlib.contextmanager
def _user_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system and the decompressors raise into one line for the user."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError("no such file", path) from error
    except RuntimeError as error:  # an encrypted zip, or a method that zipfile doesn't know
        raise UserError(f"cannot be unpacked ({error})", path, "unpack it yourself") from error
    except UNPACKING_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # not a decompressor's, about the data
            raise UserError(f"cannot be read: {error.strerror}", path) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"cut short or damaged ({error})", path, "fetch or make the file anew")
