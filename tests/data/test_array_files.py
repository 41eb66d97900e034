"""Array files are NumPy's own and can be read only if complete; strings round-trip."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.array_files import Strings, array_bounds, array_writer, hash_array, map_array
from dynlm.errors import UserError
from dynlm.runtime.hashing import Hasher, fingerprint


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("lengths", [(), (0, 3), (1, 300, 2)])
def test_appended_parts_are_one_array(tmp_path, dtype, lengths):
    parts = [np.arange(length).astype(dtype) for length in lengths]
    with array_writer(tmp_path / "a.npy", dtype) as append:
        for part in parts:
            append(part)
    expected = np.concatenate([np.zeros(0, dtype), *parts])
    for read in (np.load(tmp_path / "a.npy"), map_array(tmp_path / "a.npy", dtype)):
        assert read.dtype == dtype
        assert read.tolist() == expected.tolist()
    hasher = Hasher()
    hash_array(hasher, tmp_path / "a.npy")
    assert hasher.hexdigest() == fingerprint(expected.tobytes())
    if len(expected):
        assert array_bounds(tmp_path / "a.npy", dtype) == (expected.min(), expected.max())


def test_an_unfinished_file_is_rejected(tmp_path):
    with pytest.raises(KeyboardInterrupt), array_writer(tmp_path / "a.npy", np.int32) as append:
        append(np.arange(3))
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="damaged"):
        map_array(tmp_path / "a.npy", np.int32)


def test_a_truncated_file_is_rejected(tmp_path):
    with array_writer(tmp_path / "a.npy", np.int32) as append:
        append(np.arange(300))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="damaged"):
        map_array(tmp_path / "a.npy", np.int32)


@settings(max_examples=50, deadline=None)
@given(strings=st.lists(st.text(st.characters())))  # Lone surrogates too: file names may hold them.
def test_strings_are_decoded_on_access(strings):
    data = [string.encode("utf-8", "surrogatepass") for string in strings]
    read = Strings(np.frombuffer(b"".join(data), np.uint8), np.cumsum([0, *map(len, data)]), Path("folder"))
    assert list(read) == [read[index] for index in range(len(read))] == strings
    with pytest.raises(IndexError):
        read[len(strings)]


def test_a_string_that_is_not_utf8_is_rejected():
    read = Strings(np.array([0x61, 0xFF], np.uint8), np.array([0, 1, 2]), Path("folder"))
    assert read[0] == "a"
    with pytest.raises(UserError, match="^folder: a cached text is damaged"):
        read[1]
