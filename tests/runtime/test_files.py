"""Folders that appear whole or not at all, and fingerprints of parts that come one by one."""

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynlm.errors import UserError
from dynlm.runtime.files import atomic_write, commit_dir, staging_dir
from dynlm.runtime.hashing import Hasher, fingerprint


def test_a_settled_folder_is_whole_and_nothing_is_left_aside(tmp_path):
    with staging_dir(tmp_path) as aside:
        (aside / "a").write_text("1")
        assert not (tmp_path / "place").exists()
        commit_dir(aside, tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "a").read_text() == "1"


def test_what_stands_in_the_place_stays(tmp_path):
    for content in ("first", "second"):
        with staging_dir(tmp_path) as aside:
            (aside / "a").write_text(content)
            commit_dir(aside, tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert (tmp_path / "place" / "a").read_text() == "first"


def test_a_block_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), staging_dir(tmp_path) as aside:
        (aside / "a").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_leftovers_of_the_killed_are_removed_and_those_of_the_living_stay(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from dynlm.runtime.files import staging_dir
with staging_dir(Path(sys.argv[1])) as aside:
    (aside / "a").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    just_made = tmp_path / ".aside-just-made"
    just_made.mkdir()
    with staging_dir(tmp_path) as living:
        assert not leftover.exists()
        assert just_made.exists()  # its maker may not have come to lock it
        long_ago = time.time() - 3600
        for folder in (just_made, living):
            os.utime(folder, (long_ago, long_ago))
        with staging_dir(tmp_path):
            assert living.exists()
            assert not just_made.exists()


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as aside:
        aside.write_text("1")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as aside:
        aside.write_text("2")
        raise KeyboardInterrupt
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "1"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"), staging_dir(tmp_path / "file"):
        pass


@given(parts=st.lists(st.binary(max_size=9), max_size=4), cut=st.integers(0, 9))
def test_parts_one_by_one_and_in_pieces_give_the_same_mark(parts, cut):
    whole, pieces = Hasher(), Hasher()
    for part in parts:
        whole.add(part)
        pieces.add_long(len(part), [part[:cut], part[cut:]])
    assert whole.hexdigest() == pieces.hexdigest() == fingerprint(*parts)
