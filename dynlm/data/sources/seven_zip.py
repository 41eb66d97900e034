"""The one file in a .7z archive, unpacked while it is read, by ``py7zr`` (extra ``dynlm[7z]``)."""

from __future__ import annotations

import contextlib
import io
import queue
import threading
from pathlib import Path
from typing import IO, Any

from dynlm.errors import UserError

_CHUNKS = 4
"""Chunks that are unpacked ahead; py7zr chooses their size, about a megabyte."""
_SECONDS = 0.1


def open_only_member(file: IO[bytes], path: Path) -> io.RawIOBase:
    """Return a reader of the one file in an archive.

    Raises UserError without the extra, and for an archive of several files; EOFError for one that is damaged.
    """
    try:
        import py7zr
    except ImportError as error:
        raise UserError(f"a .7z file needs one more package ({error})", path, "pip install 'dynlm[7z]'") from error
    try:
        archive = py7zr.SevenZipFile(file)
        names = [member.filename for member in archive.list() if not member.is_directory]
    except Exception as error:  # The library raises many kinds for a damaged header.
        raise EOFError(str(error) or "not a 7z archive") from error
    if len(names) != 1:
        raise UserError(f"an archive of {len(names)} files, not of one", path, "unpack it and name the folder")
    return _Member(archive, names[0])


class _Member(io.RawIOBase):
    """Bytes of an archive's file. py7zr pushes them: a thread unpacks, and waits while it is some chunks ahead."""

    def __init__(self, archive: Any, name: str):
        self._archive, self._name, self._rest, self._ended = archive, name, memoryview(b""), False
        self._chunks: queue.Queue[bytes | Exception | None] = queue.Queue(_CHUNKS)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._unpack, daemon=True)
        self._thread.start()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and not self._ended:
            chunk = self._chunks.get()
            if isinstance(chunk, Exception):
                raise EOFError(str(chunk) or "it cannot be unpacked") from chunk
            self._rest, self._ended = memoryview(chunk or b""), chunk is None
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        super().close()

    def _unpack(self) -> None:
        from py7zr.io import Py7zIO, WriterFactory

        put = self._put

        class Writer(Py7zIO):
            written = 0

            def write(self, s: bytes | bytearray) -> int:
                put(bytes(s))
                self.written += len(s)
                return len(s)

            def read(self, size: int | None = None) -> bytes:
                return b""

            def seek(self, offset: int, whence: int = 0) -> int:
                return 0

            def flush(self) -> None:
                pass

            def size(self) -> int:
                return self.written

        class Factory(WriterFactory):
            def create(self, filename: str) -> Py7zIO:
                return Writer()

        try:
            # Nothing is written: the factory's writers take the bytes.
            self._archive.extract(targets=[self._name], factory=Factory())
            self._put(None)
        except _Closed:
            pass
        except Exception as error:  # The library and its decompressors raise many kinds for damaged data.
            with contextlib.suppress(_Closed):
                self._put(error)

    def _put(self, chunk: bytes | Exception | None) -> None:
        """Hand a chunk over. Raises _Closed where nobody reads any more."""
        while not self._closing.is_set():
            try:
                return self._chunks.put(chunk, timeout=_SECONDS)
            except queue.Full:
                continue
        raise _Closed


class _Closed(Exception):
    """The reader was closed before the end of the file."""
