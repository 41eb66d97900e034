"""Lines of plain and compressed text files, with errors that locate truncation, bad UTF-8 and what is not text.

Line ends stay as they are in the file (CRLF and a lone CR included); a byte order mark at the start is dropped.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dynlm.errors import UserError
from dynlm.runtime.files import cannot_read, open_regular
from dynlm.runtime.text import decode_text

LONGEST_LINE = 16 * 2**20
"""Bytes; the most that is read at once, so that a file without line ends cannot fill the memory."""
_READ_BYTES = 1 << 16
_SUFFIXES = {".gz", ".bz2", ".xz", ".zip", ".zst"}
UNPACKING_ERRORS = (
    *(EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, pa.ArrowException),
    # zipfile raises these for malformed headers, encryption and unknown methods; a decompressor raises MemoryError for
    # a header that asks for a window larger than the memory.
    *(ValueError, LookupError, OverflowError, struct.error, RuntimeError, MemoryError),
)
"""What the standard library and Arrow raise for compressed files that are damaged or hostile."""


def unpacked_name(path: Path) -> str:
    """Return the file's name without the suffix of a compression: ``train.txt`` for ``train.txt.xz``."""
    return path.stem if path.suffix.lower() in _SUFFIXES else path.name


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (location, line) of a UTF-8 file, plain or compressed (.gz, .bz2, .xz, .zip, .zst); lines keep their end.

    Raises UserError, with line and byte if known, if the file is not regular, truncated, damaged or not UTF-8, has a
    NUL character or a line over 16 MiB, or is a zip archive of several files.
    """
    number = offset = 0
    with _unpacking_errors(path), _open_unpacked(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            location = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise UserError(f"longer than {LONGEST_LINE // 2**20} MiB", location, "break it into lines")
            if text := decode_text(line, location, offset):
                yield location, text
            offset += len(line)


@contextlib.contextmanager
def _open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    suffix = path.suffix.lower()
    with contextlib.ExitStack() as stack:
        packed = stack.enter_context(open_regular(path))
        if suffix == ".zip":
            archive = stack.enter_context(zipfile.ZipFile(packed))
            yield stack.enter_context(archive.open(_only_member(archive, path)))
        elif suffix == ".zst":
            # Unlike zstandard's reader, Arrow's continues with the next frame and rejects a truncated one.
            stream = pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
            yield stack.enter_context(io.BufferedReader(stream))
        elif suffix == ".gz":
            yield stack.enter_context(io.BufferedReader(gzip.GzipFile(fileobj=packed)))  # type: ignore[arg-type]
        elif suffix in _DECOMPRESSORS:
            yield stack.enter_context(io.BufferedReader(_ConcatenatedStreams(packed, *_DECOMPRESSORS[suffix])))
        else:
            yield packed


class _ConcatenatedStreams(io.RawIOBase):
    """The concatenated bz2 or xz streams of a file, decompressed as they are read.

    The standard library's readers ignore whatever follows a stream that is not a valid stream itself. Here it must be
    padding (a multiple of ``padding`` zero bytes; 0: none) or a stream; otherwise EOFError or the decompressor's own
    error is raised.
    """

    def __init__(self, file: IO[bytes], decompressor: Callable[[], Any], padding: int):
        self._file, self._make, self._padding = file, decompressor, padding
        self._decompressor, self._packed = decompressor(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._decompressor.eof or self._begin_next():
            if self._decompressor.needs_input and not self._packed:
                self._packed = self._file.read(_READ_BYTES)
                if not self._packed:
                    raise EOFError("it ends within a stream")
            packed, self._packed = self._packed, b""
            if data := self._decompressor.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _begin_next(self) -> bool:
        """Skip padding and begin the next stream; return False at the end of the file."""
        packed, zeros = self._decompressor.unused_data or self._file.read(_READ_BYTES), 0
        while packed:
            self._packed = packed.lstrip(b"\0") if self._padding else packed
            zeros += len(packed) - len(self._packed)
            if self._packed:
                break
            packed = self._file.read(_READ_BYTES)
        if self._padding and zeros % self._padding:
            raise EOFError(f"{zeros} zero bytes after a stream, not a multiple of {self._padding}")
        if packed:
            self._decompressor = self._make()
        return bool(packed)


_DECOMPRESSORS: dict[str, tuple[Callable[[], Any], int]] = {
    ".bz2": (bz2.BZ2Decompressor, 0),
    ".xz": (lzma.LZMADecompressor, 4),
}
"""Decompressor of one stream, and the unit of its padding in bytes."""


def _only_member(archive: zipfile.ZipFile, path: Path) -> zipfile.ZipInfo:
    members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    if len(members) != 1:
        raise UserError(f"an archive of {len(members)} files, not of one", path, "unpack it and name the folder")
    return members[0]


@contextlib.contextmanager
def _unpacking_errors(path: Path) -> Iterator[None]:
    """Turn errors of the operating system and of decompressors into UserErrors."""
    try:
        yield
    except RuntimeError as error:  # An encrypted zip, or a method that zipfile does not know.
        raise UserError(f"cannot be unpacked ({error})", path, "unpack it yourself") from error
    except UNPACKING_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # Not a decompressor's.
            raise cannot_read(path, error) from error
        raise UserError(f"cut short or damaged ({error})", path, "download or create the file again") from error
