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
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dynlm.errors import UserError
from dynlm.runtime.text import decoded

LONGEST_LINE = 16 * 2**20
"""Bytes; no more than this is read at once, so that a file without line ends cannot fill the memory."""

_PACKED_AT_ONCE = 1 << 16
_PACKED = {".gz", ".bz2", ".xz", ".zip", ".zst"}
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

    Raises UserError, naming line and byte where there are such, where the file cannot be opened, is not a regular one,
    is cut short or damaged, is not UTF-8, holds a NUL character or a line over 16 MiB, or is a zip archive of several
    files.
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
    return decoded(line, f"{path}:{number}", offset)


def regular_file(path: Path) -> IO[bytes]:
    """Open a file for reading. Raises UserError where it is not regular, and OSError where it cannot be opened.

    A corpus is read more than once; a pipe or a device gives its bytes only once.
    """
    # Without O_NONBLOCK, opening a named pipe would wait for whoever writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise UserError("not a regular file", path, "copy what it gives into a file, and name that")
    return open(os.open(path, flags), "rb")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    packing = path.suffix.lower()
    with regular_file(path) as packed:
        if packing == ".zip":
            with zipfile.ZipFile(packed) as archive, archive.open(_only_member(archive, path)) as member:
                yield member
        elif packing == ".zst":
            # Arrow's reader, unlike zstandard's, reads on into a second frame and tells a frame that is cut short.
            with io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")) as file:
                yield file
        elif packing == ".gz":
            with gzip.GzipFile(fileobj=packed) as unpacked:
                yield unpacked  # type: ignore[misc]
        elif packing in _UNPACKERS:
            with io.BufferedReader(_Streams(packed, *_UNPACKERS[packing])) as file:
                yield file
        else:
            yield packed


class _Streams(io.RawIOBase):
    """The compressed streams of a file, one after another, unpacked as far as they are read.

    The standard library's readers take the file for finished where a later stream's header is damaged or stands
    behind padding. Here whatever follows a stream is padding (zero bytes, a multiple of ``padding`` of them; 0: none)
    or another stream, and EOFError or the decompressor's own error is raised where it is not.
    """

    def __init__(self, file: IO[bytes], unpacker: Callable[[], Any], padding: int):
        self._file, self._make, self._padding = file, unpacker, padding
        self._unpacker, self._packed = unpacker(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._unpacker.eof and not self._begin_next():
                return 0
            if self._unpacker.needs_input and not self._packed:
                self._packed = self._file.read(_PACKED_AT_ONCE)
                if not self._packed:
                    raise EOFError("it ends within a stream")
            packed, self._packed = self._packed, b""
            if data := self._unpacker.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)

    def _begin_next(self) -> bool:
        """Pass over padding and begin the stream behind it; False at the end of the file."""
        self._packed, zeros = self._unpacker.unused_data, 0
        while True:
            stripped = self._packed.lstrip(b"\0") if self._padding else self._packed
            zeros += len(self._packed) - len(stripped)
            self._packed = stripped or self._file.read(_PACKED_AT_ONCE)
            if stripped or not self._packed:
                break
        if self._padding and zeros % self._padding:
            raise EOFError(f"{zeros} zero bytes behind a stream, not a multiple of {self._padding}")
        if self._packed:
            self._unpacker = self._make()
        return bool(self._packed)


_UNPACKERS: dict[str, tuple[Callable[[], Any], int]] = {
    ".bz2": (bz2.BZ2Decompressor, 0),
    ".xz": (lzma.LZMADecompressor, 4),
}
"""Decompressor of one stream, and of what its padding is a multiple."""


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
