"""Arrow arrays from NumPy's and back. pyarrow's own conversions import pandas, which takes a quarter of a second."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa


def from_numbers(values: np.ndarray, type: pa.DataType) -> pa.Array:
    """Return ``values`` as an array of an integer or floating type. Raises ValueError for integers that do not fit."""
    values = np.asarray(values)
    own = np.ascontiguousarray(values, dtype=_numpy_type(type))
    if np.issubdtype(own.dtype, np.integer) and not np.array_equal(own, values):
        raise ValueError(f"numbers that are no {type}")
    return pa.Array.from_buffers(type, len(own), [None, pa.py_buffer(own)])


def from_bytes(values: Sequence[bytes]) -> pa.Array:
    """Return ``values`` as an array of type binary. Raises ValueError for 2 GiB of them or more."""
    ends = np.cumsum(np.fromiter(map(len, values), dtype=np.int64, count=len(values)))
    offsets = np.concatenate([[0], ends])
    if offsets[-1] >= 2**31:
        raise ValueError("too many bytes for one array")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def to_numpy(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return a column of numbers without nulls; of one chunk without a copy, read-only."""
    dtype, parts = _numpy_type(column.type), []
    for chunk in column.chunks if isinstance(column, pa.ChunkedArray) else [column]:
        if len(chunk):
            values = chunk.buffers()[1]
            parts.append(np.frombuffer(values, dtype, len(chunk), chunk.offset * dtype.itemsize))
    return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, dtype), *parts])


def _numpy_type(type: pa.DataType) -> np.dtype:
    kind = "f" if pa.types.is_floating(type) else "i" if pa.types.is_signed_integer(type) else "u"
    return np.dtype(f"{kind}{type.bit_width // 8}")
