"""Arrays that grow on disk are NumPy's own files; strings come back as they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.array_files import ArrayFile, Strings, StringsFile, add_array, mapped
from dynlm.errors import UserError
from dynlm.runtime.hashing import Hasher, fingerprint


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("lengths", [(), (0, 3), (1, 300, 2)])
def test_what_was_appended_is_one_array(tmp_path, dtype, lengths):
    parts = [np.arange(length).astype(dtype) for length in lengths]
    with ArrayFile(tmp_path / "a.npy", dtype) as file:
        for part in parts:
            file.append(part)
    expected = np.concatenate([np.zeros(0, dtype), *parts])
    for read in (np.load(tmp_path / "a.npy"), mapped(tmp_path / "a.npy", dtype)):
        assert read.dtype == dtype
        assert read.tolist() == expected.tolist()
    mark = Hasher()
    add_array(mark, tmp_path / "a.npy")
    assert mark.hexdigest() == fingerprint(expected.tobytes())


def test_a_file_that_was_not_finished_is_no_array(tmp_path):
    with pytest.raises(KeyboardInterrupt), ArrayFile(tmp_path / "a.npy", np.int32) as file:
        file.append(np.arange(3))
        raise KeyboardInterrupt
    with pytest.raises(UserError, match="damaged"):
        mapped(tmp_path / "a.npy", np.int32)


def test_a_file_that_was_cut_is_no_array(tmp_path):
    with ArrayFile(tmp_path / "a.npy", np.int32) as file:
        file.append(np.arange(300))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole[:-1])
    with pytest.raises(UserError, match="damaged"):
        mapped(tmp_path / "a.npy", np.int32)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no/a\.npy"):
        ArrayFile(tmp_path / "no" / "a.npy", np.int32)


@settings(max_examples=50, deadline=None)
@given(strings=st.lists(st.text(st.characters())))  # Half characters too: names of files hold such.
def test_strings_come_back(tmp_path_factory, strings):
    folder = tmp_path_factory.mktemp("strings")
    with StringsFile(folder, "title") as file:
        for string in strings:
            file.append(string.encode("utf-8", "surrogatepass"))
    read = Strings(folder, "title")
    assert list(read) == [read[index] for index in range(len(read))] == strings
    assert read[1:] == strings[1:]
    with pytest.raises(IndexError):
        read[len(strings)]
