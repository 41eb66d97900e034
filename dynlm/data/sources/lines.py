"""Lines of plain and compressed text files, with errors that locate truncation, bad UTF-8 and what is not text.

Line ends stay as they are in the file (CRLF and a lone CR included); a byte order mark at the start is dropped.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from dynlm.data.sources.seven_zip import open_only_member
from dynlm.errors import UserError
from dynlm.runtime.files import cannot_read, open_regular
from dynlm.runtime.text import decode_text

LONGEST_LINE = 16 * 2**20
"""Bytes; the most that is read at once, so that a file without line ends cannot fill the memory."""
_READ_BYTES = 1 << 16
UNPACKING_ERRORS = (
    *(EOFError, OSError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, pa.ArrowException),
    # zipfile raises these for malformed headers, encryption and unknown methods; a decompressor raises MemoryError for
    # a header that asks for a window larger than the memory.
    *(ValueError, LookupError, OverflowError, struct.error, RuntimeError, MemoryError),
)
"""What the standard library and Arrow raise for compressed files that are damaged or hostile."""


def unpacked_name(path: Path) -> str:
    """Return the file's name without the suffix of a compression: ``train.txt`` for ``train.txt.xz``."""
    return path.stem if path.suffix.lower() in (".zip", ".7z", *_READERS) else path.name


def text_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (location, line) of a UTF-8 file, plain or compressed (.gz .bz2 .xz .zip .zst .7z); lines keep their end.

    Raises UserError, with line and byte if known, if the file is not regular, truncated, damaged or not UTF-8, has a
    NUL character or a line over 16 MiB, or is a zip archive of several files.
    """
    number = offset = 0
    with open_unpacked(path) as file:
        while line := file.readline(LONGEST_LINE + 1):
            number += 1
            location = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise UserError(f"longer than {LONGEST_LINE // 2**20} MiB", location, "break it into lines")
            if text := decode_text(line, location, offset):
                yield location, text
            offset += len(line)


@contextlib.contextmanager
def open_unpacked(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading; errors of the operating system and of decompressors in the block become UserErrors."""
    suffix = path.suffix.lower()
    try:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(open_regular(path))
            if suffix == ".zip":
                archive = stack.enter_context(zipfile.ZipFile(file))
                members = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
                if len(members) != 1:
                    what = f"an archive of {len(members)} files, not of one"
                    raise UserError(what, path, "unpack it and name the folder")
                file = stack.enter_context(archive.open(members[0]))
            elif suffix == ".7z":
                file = stack.enter_context(io.BufferedReader(open_only_member(file, path)))
            elif suffix in _READERS:
                if not os.fstat(file.fileno()).st_size:
                    raise EOFError("it is empty")
                file = stack.enter_context(io.BufferedReader(_READERS[suffix](file)))
            yield file
    except RuntimeError as error:  # An encrypted zip, or a method that zipfile does not know.
        raise UserError(f"cannot be unpacked ({error})", path, "unpack it yourself") from error
    except UNPACKING_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:  # Not a decompressor's.
            raise cannot_read(path, error) from error
        raise UserError(f"cut short or damaged ({error})", path, "download or create the file again") from error


class _XzStreams(io.RawIOBase):
    """The concatenated streams of an .xz file, decompressed as they are read, each followed by padding (zero bytes).

    ``lzma.open`` ignores whatever follows a stream that is not a valid stream; here it is an error.
    """

    def __init__(self, file: IO[bytes]):
        self._file, self._stream, self._packed = file, lzma.LZMADecompressor(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._stream.eof or self._begin_next():
            if self._stream.needs_input and not self._packed:
                self._packed = self._file.read(_READ_BYTES)
                if not self._packed:
                    raise EOFError("it ends within a stream")
            packed, self._packed = self._packed, b""
            if data := self._stream.decompress(packed, len(buffer)):
                buffer[: len(data)] = data
                return len(data)
        return 0

    def _begin_next(self) -> bool:
        """Skip padding and begin the next stream; return False at the end of the file."""
        packed, zeros = self._stream.unused_data or self._file.read(_READ_BYTES), 0
        while packed.startswith(b"\0"):
            stripped = packed.lstrip(b"\0")
            zeros += len(packed) - len(stripped)
            packed = stripped or self._file.read(_READ_BYTES)
        if zeros % 4:
            raise EOFError(f"{zeros} zero bytes after a stream, not a multiple of 4")
        if packed:
            self._stream, self._packed = lzma.LZMADecompressor(), packed
        return bool(packed)


# Unlike the standard library's reader, Arrow's rejects what follows a stream and is none.
_READERS: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),  # Skips padding, which Arrow's does not.
    ".bz2": lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "bz2"),
    ".zst": lambda file: pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd"),
    ".xz": _XzStreams,
}
