"""Files and folders are written atomically; fingerprints can be computed incrementally."""

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


def test_a_committed_folder_is_complete(tmp_path):
    with staging_dir(tmp_path) as staged:
        (staged / "a").write_text("1")
        assert not (tmp_path / "target").exists()
        commit_dir(staged, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "a").read_text() == "1"


def test_an_existing_folder_is_kept(tmp_path):
    for content in ("first", "second"):
        with staging_dir(tmp_path) as staged:
            (staged / "a").write_text(content)
            commit_dir(staged, tmp_path / "target", keep_existing=True)
    with pytest.raises(UserError, match="target: there is something already"), staging_dir(tmp_path) as staged:
        (staged / "a").write_text("third")
        commit_dir(staged, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert (tmp_path / "target" / "a").read_text() == "first"


def test_a_failing_block_leaves_no_files(tmp_path):
    with pytest.raises(KeyboardInterrupt), staging_dir(tmp_path) as staged:
        (staged / "a").write_text("1")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_staging_folders_of_killed_processes_are_removed(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from dynlm.runtime.files import staging_dir
with staging_dir(Path(sys.argv[1])) as staged:
    (staged / "a").write_text("1")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    just_made = tmp_path / ".aside-just-made"
    just_made.mkdir()
    with staging_dir(tmp_path) as living:
        assert not leftover.exists()
        assert just_made.exists()  # Its process may not have locked it yet.
        long_ago = time.time() - 3600
        for folder in (just_made, living):
            os.utime(folder, (long_ago, long_ago))
        with staging_dir(tmp_path):
            assert living.exists()
            assert not just_made.exists()


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as staged:
        staged.write_text("1")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as staged:
        staged.write_text("2")
        raise KeyboardInterrupt
    assert [found.name for found in path.parent.iterdir()] == ["file.txt"]
    assert path.read_text() == "1"


def test_a_folder_that_cannot_be_written_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file"), staging_dir(tmp_path / "file"):
        pass


@given(parts=st.lists(st.binary(max_size=9), max_size=4), cut=st.integers(0, 9))
def test_incremental_and_chunked_fingerprints_are_equal(parts, cut):
    whole, pieces = Hasher(), Hasher()
    for part in parts:
        whole.add(part)
        pieces.add_long(len(part), [part[:cut], part[cut:]])
    assert whole.hexdigest() == pieces.hexdigest() == fingerprint(*parts)
