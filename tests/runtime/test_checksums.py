"""Checksums name every file that is missing, changed or new."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dynlm.errors import UserError
from dynlm.runtime.checksums import FILE, check_checksums, listed_files, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "memory").mkdir()
    for name in ("one", "two", "memory/three"):
        (tmp_path / name).write_text(name)
    write_checksums(tmp_path)
    return tmp_path


def test_what_was_written_holds(folder: Path) -> None:
    assert listed_files(folder) == ["memory/three", "one", "two"]
    assert check_checksums(folder) == []


def test_digests_are_sha256(folder: Path) -> None:
    entry = json.loads((folder / FILE).read_text())["files"]["one"]
    # printf one | sha256sum
    assert entry == {"bytes": 3, "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"}


def test_every_difference_is_named(folder: Path) -> None:
    (folder / "one").write_text("One")
    (folder / "two").unlink()
    (folder / "memory" / "four").write_text("")
    assert check_checksums(folder) == ["two is missing", f"memory/four is not in {FILE}", "one was changed"]


def test_names_that_lead_out_are_refused(folder: Path) -> None:
    content = json.loads((folder / FILE).read_text())
    content["files"]["../secret"] = {"bytes": 0, "sha256": ""}
    (folder / FILE).write_text(json.dumps(content))
    with pytest.raises(UserError, match="leads out of"):
        listed_files(folder)
    (folder / FILE).write_text('{"files": ["one"]}')
    with pytest.raises(UserError, match="not a file of checksums"):
        check_checksums(folder)
