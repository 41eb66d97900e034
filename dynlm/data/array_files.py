"""Arrays that grow on disk and are mapped into memory when they are read: a corpus may be larger than the memory.

The files are NumPy's own (``numpy.load`` reads them); only their lengths are filled in at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import overload

import numpy as np

from dynlm.errors import UserError
from dynlm.runtime.files import cannot_write
from dynlm.runtime.hashing import Hasher

_HEADER = 128
_AT_ONCE = 1 << 20


class ArrayFile:
    """A one-dimensional ``.npy`` file that is appended to; a context manager, whole once that has ended well.

    Raises UserError where it cannot be written.
    """

    def __init__(self, path: Path, dtype: type[np.generic]):
        self._path, self._dtype, self._length = path, np.dtype(dtype), 0
        try:
            self._file = path.open("wb")
        except OSError as error:
            raise cannot_write(path, error) from error

    def append(self, values: np.ndarray | bytes) -> None:
        """Append values of the file's type, or their bytes."""
        data = values if isinstance(values, bytes) else np.ascontiguousarray(values, dtype=self._dtype).tobytes()
        self._length += len(data) // self._dtype.itemsize
        self._write(data)

    def __enter__(self) -> ArrayFile:
        self._write(bytes(_HEADER))  # no valid header until the end
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.seek(0)
                self._file.write(_header(self._dtype, self._length))
            self._file.close()
        except OSError as refused:
            raise cannot_write(self._path, refused) from refused

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise cannot_write(self._path, error) from error


def _header(dtype: np.dtype, length: int) -> bytes:
    """NumPy's header, format 1.0, always of the same size."""
    about = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    room = _HEADER - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + about.ljust(room - 1).encode("ascii") + b"\n"


def mapped(path: Path, dtype: type[np.generic]) -> np.ndarray:
    """The array that an ``ArrayFile`` wrote, read from disk where it is looked at.

    Raises UserError where the file is damaged or holds something else: its header has to be, byte for byte, the one
    that a file of its size has, so nothing of it is interpreted and nothing is taken that is not there.
    """
    kind = np.dtype(dtype)
    try:
        length, rest = divmod(path.stat().st_size - _HEADER, kind.itemsize)
        with path.open("rb") as file:
            if length < 0 or rest or file.read(_HEADER) != _header(kind, length):
                raise ValueError("its header is not that of its content")
        # As a plain array: each slice of numpy.memmap costs a microsecond more.
        return np.asarray(np.memmap(path, kind, "r", _HEADER, (length,))) if length else np.empty(0, kind)
    except (OSError, ValueError) as error:
        raise UserError(f"a cached array is damaged ({error})", path, "remove the folder that it is in") from error


def bounds(path: Path, dtype: type[np.generic]) -> tuple[int, int]:
    """(smallest, largest) value of an ``ArrayFile`` that holds some, read a piece at a time: none stays in memory."""
    low: list[int] = []
    high: list[int] = []
    with path.open("rb") as file:
        file.seek(_HEADER)
        for piece in iter(lambda: file.read(_AT_ONCE), b""):
            values = np.frombuffer(piece, dtype=dtype)
            low.append(int(values.min()))
            high.append(int(values.max()))
    return min(low), max(high)


def check_starts(starts: np.ndarray, end: int, where: Path) -> None:
    """Raise UserError unless ``starts`` lead from 0 to ``end`` and never back."""
    if not len(starts) or starts[0] != 0 or starts[-1] != end or (starts[1:] < starts[:-1]).any():
        raise UserError("a cached array is damaged (its places do not fit)", where, "remove the folder")


def add_array(mark: Hasher, path: Path) -> None:
    """Add the content of an ``ArrayFile``, a piece at a time, as its bytes in memory would be."""
    with path.open("rb") as file:
        file.seek(_HEADER)
        mark.add_long(path.stat().st_size - _HEADER, iter(lambda: file.read(_AT_ONCE), b""))


class StringsFile:
    """Strings that are appended to a file of bytes, ``NAME.npy``, and one of places, ``NAME_starts.npy``."""

    def __init__(self, folder: Path, name: str):
        self._data = ArrayFile(folder / f"{name}.npy", np.uint8)
        self._starts = ArrayFile(folder / f"{name}_starts.npy", np.int64)
        self._end = 0

    def append(self, string: bytes) -> None:
        """Append a string as UTF-8."""
        self._data.append(string)
        self._end += len(string)
        self._starts.append(self._end.to_bytes(8, "little"))

    def __enter__(self) -> StringsFile:
        self._data.__enter__()
        self._starts.__enter__()
        self._starts.append(bytes(8))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._data.__exit__(kind, error, trace)
        finally:
            self._starts.__exit__(kind, error, trace)


class Strings(Sequence[str]):
    """What a ``StringsFile`` holds: string n is ``data[starts[n]:starts[n + 1]]``, decoded when it is asked for."""

    def __init__(self, folder: Path, name: str):
        self._folder = folder
        self.data = mapped(folder / f"{name}.npy", np.uint8)
        self.starts = mapped(folder / f"{name}_starts.npy", np.int64)
        check_starts(self.starts, len(self.data), folder)

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        low, high = int(self.starts[place]), int(self.starts[place + 1])
        try:
            # Names of files may hold what is no UTF-8.
            return self.data[low:high].tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise UserError(f"a cached text is damaged ({error})", self._folder, "remove the folder") from error

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))
