"""One-dimensional ``.npy`` files that are written in parts and memory-mapped for reading.

A corpus may be larger than the memory. ``numpy.load`` reads the files too.
"""

from __future__ import annotations

import contextlib
import io
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
    """Return NumPy's header, which has the same size for any length, so that it can be written last."""
    header = io.BytesIO()
    about = {"descr": dtype.str, "fortran_order": False, "shape": (length,)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def map_array(path: Path, dtype: type[np.generic]) -> np.ndarray:
    """Memory-map an array file. Raises UserError if it is damaged.

    The header is not interpreted, but compared with that of a file of this size and type.
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


class Strings(Sequence[str]):
    """The strings ``data[starts[n]:starts[n + 1]]`` of UTF-8 bytes, decoded on access; lone surrogates are kept.

    Raises UserError, naming ``folder``, where the bytes are not UTF-8.
    """

    def __init__(self, data: np.ndarray, starts: np.ndarray, folder: Path):
        self._data, self._starts, self._folder = data, starts, folder

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # Slices are not supported.
        index = range(len(self))[index]
        try:
            return self._data[self._starts[index] : self._starts[index + 1]].tobytes().decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise UserError(f"a cached text is damaged ({error})", self._folder, "remove the folder") from error
