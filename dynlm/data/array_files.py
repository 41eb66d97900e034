"""One-dimensional ``.npy`` files that are written in parts and memory-mapped for reading.

A corpus may be larger than the memory. ``numpy.load`` reads the files too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.errors import UserError
from dynlm.runtime.hashing import Hasher

_HEADER = 128
_CHUNK = 1 << 20


@contextlib.contextmanager
def array_writer(path: Path, dtype: type[np.generic]) -> Iterator[Callable[[Any], object]]:
    """Create an array file and yield a function that appends an array, a list or bytes (of uint8).

    The file has a valid header only once the block has succeeded. Raises OSError if it cannot be written.
    """
    kind = np.dtype(dtype)
    with path.open("wb") as file:
        file.write(bytes(_HEADER))
        yield lambda values: file.write(
            values if isinstance(values, bytes) else np.ascontiguousarray(values, dtype=kind).tobytes()
        )
        length = (file.tell() - _HEADER) // kind.itemsize
        file.seek(0)
        file.write(_header(kind, length))


def _header(dtype: np.dtype, length: int) -> bytes:
    """Return NumPy's header, format 1.0, padded to a fixed size so that it can be written last."""
    about = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': ({length},), }}"
    size = _HEADER - 10
    return b"\x93NUMPY\x01\x00" + size.to_bytes(2, "little") + about.ljust(size - 1).encode("ascii") + b"\n"


def map_array(path: Path, dtype: type[np.generic]) -> np.ndarray:
    """Memory-map an array file.

    Raises UserError if it is damaged. The header is compared, byte for byte, with that of a file of this size and type:
    nothing in it is interpreted, so it cannot claim more than the file holds.
    """
    kind = np.dtype(dtype)
    try:
        length, rest = divmod(path.stat().st_size - _HEADER, kind.itemsize)
        with path.open("rb") as file:
            if length < 0 or rest or file.read(_HEADER) != _header(kind, length):
                raise ValueError("its header is not that of its content")
        # A plain array: each slice of numpy.memmap costs a microsecond more.
        return np.asarray(np.memmap(path, kind, "r", _HEADER, (length,))) if length else np.empty(0, kind)
    except (OSError, ValueError) as error:
        raise UserError(f"a cached array is damaged ({error})", path, "remove the folder that it is in") from error


def array_bounds(path: Path, dtype: type[np.generic]) -> tuple[int, int]:
    """Return the (smallest, largest) value of an array file that is not empty, without mapping it into memory."""
    chunks = (np.frombuffer(chunk, dtype) for chunk in _chunks(path))
    lows, highs = zip(*((chunk.min(), chunk.max()) for chunk in chunks), strict=True)
    return int(min(lows)), int(max(highs))


def hash_array(hasher: Hasher, path: Path) -> None:
    """Add the content of an array file to ``hasher``: the same as adding the array's bytes."""
    hasher.add_long(path.stat().st_size - _HEADER, _chunks(path))


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(_HEADER)
        yield from iter(lambda: file.read(_CHUNK), b"")


def check_offsets(offsets: np.ndarray, end: int, folder: Path) -> None:
    """Raise UserError unless ``offsets`` begin with 0, end with ``end`` and never decrease."""
    if not len(offsets) or offsets[0] != 0 or offsets[-1] != end or (offsets[1:] < offsets[:-1]).any():
        raise UserError("a cached array is damaged (its offsets do not fit)", folder, "remove the folder")


@contextlib.contextmanager
def strings_writer(folder: Path, name: str) -> Iterator[Callable[[str], None]]:
    """Create ``NAME.npy`` (UTF-8 bytes) and ``NAME_starts.npy`` (offsets), and yield a function that appends a string.

    Lone surrogates, which file names may hold, are kept.
    """
    with (
        array_writer(folder / f"{name}.npy", np.uint8) as append_data,
        array_writer(folder / f"{name}_starts.npy", np.int64) as append_start,
    ):
        end = 0
        append_start([end])

        def append(string: str) -> None:
            nonlocal end
            data = string.encode("utf-8", "surrogatepass")
            append_data(data)
            append_start([end := end + len(data)])

        yield append


class Strings(Sequence[str]):
    """Memory-mapped strings of a ``strings_writer``: string n is ``data[starts[n]:starts[n + 1]]``, decoded on access.

    Raises UserError if the files are damaged.
    """

    def __init__(self, folder: Path, name: str):
        self._folder = folder
        self.data = map_array(folder / f"{name}.npy", np.uint8)
        self.starts = map_array(folder / f"{name}_starts.npy", np.int64)
        check_offsets(self.starts, len(self.data), folder)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # Slices are not supported.
        index = range(len(self))[index]
        try:
            return self.data[self.starts[index] : self.starts[index + 1]].tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise UserError(f"a cached text is damaged ({error})", self._folder, "remove the folder") from error
