"""Checksums of a folder's files: ``checksums.json`` with the size and the SHA-256 digest of each."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dynlm.errors import UserError
from dynlm.runtime.files import check_inside, link_root, open_regular
from dynlm.runtime.parsing import read_json, write_json

FILE = "checksums.json"
_CHUNK = 2**20


def write_checksums(folder: Path) -> None:
    """Write the checksums of all files below ``folder``. Raises UserError if it cannot be written."""
    files = {name: _checksum(folder / name) for name in names_below(folder)}
    write_json(folder / FILE, {"algorithm": "sha256", "files": files})


def listed_files(folder: Path) -> list[str]:
    """Return the names in the checksums of ``folder``. Raises UserError if they are damaged or lead out of it."""
    return [*_read(folder)]


def check_checksums(folder: Path) -> list[str]:
    """Return what is not as the checksums of ``folder`` say: files that are missing, changed or not listed.

    Raises UserError if the checksums themselves cannot be read.
    """
    listed, found = _read(folder), names_below(folder)
    broken = [f"{name} is missing" for name in listed if name not in found]
    broken += [f"{name} is not in {FILE}" for name in found if name not in listed]
    common = [name for name in found if name in listed]
    return broken + [f"{name} was changed" for name in common if _checksum(folder / name) != listed[name]]


def names_below(folder: Path) -> list[str]:
    """Return the names of all files below ``folder``, without the checksums, hidden ones left out."""
    paths = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    names = (path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name != FILE and not any(part.startswith(".") for part in name.split("/"))]


def _read(folder: Path) -> dict[str, dict[str, object]]:
    path = folder / FILE
    content = read_json(path)
    files = content.get("files") if isinstance(content, dict) else None
    if not isinstance(files, dict) or not all(isinstance(entry, dict) for entry in files.values()):
        raise UserError("not a file of checksums", path, "pack the model again")
    for name in files:
        check_inside(folder / name, link_root(folder))
    return files


def _checksum(path: Path) -> dict[str, object]:
    digest, size = hashlib.sha256(), 0
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return {"bytes": size, "sha256": digest.hexdigest()}
