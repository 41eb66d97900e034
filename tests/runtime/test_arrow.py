"""Arrow arrays and NumPy's: the same values both ways, and the same as pyarrow's own conversions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.runtime.arrow import from_bytes, from_numbers, to_numpy

TYPES = [pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", TYPES, ids=str)
@given(numbers=st.lists(st.integers(-(2**15), 2**15 - 1), max_size=9), parts=st.integers(1, 3), first=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_numbers_go_both_ways(kind: pa.DataType, numbers: list[int], parts: int, first: int) -> None:
    made = from_numbers(np.array(numbers, dtype=np.int64), kind)
    assert made.equals(pa.array(numbers, type=kind))
    made.validate(full=True)
    chunks = pa.chunked_array([made.slice(first)] * parts, type=kind)
    assert np.array_equal(to_numpy(chunks), chunks.to_numpy()) and to_numpy(chunks).dtype == kind.to_pandas_dtype()
    assert np.array_equal(to_numpy(made.slice(first)), made.slice(first).to_numpy())


def test_no_chunk_is_no_number_and_what_does_not_fit_is_refused() -> None:
    assert to_numpy(pa.chunked_array([], type=pa.int16())).dtype == np.int16
    assert from_numbers(np.array([0.1]), pa.float32())[0].as_py() == float(np.float32(0.1))
    with pytest.raises(ValueError, match="no int16"):
        from_numbers(np.array([40_000]), pa.int16())


@given(st.lists(st.binary(max_size=5), max_size=9))
@settings(max_examples=50, deadline=None)
def test_bytes_are_those_of_pyarrow(values: list[bytes]) -> None:
    made = from_bytes(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, type=pa.binary()))
