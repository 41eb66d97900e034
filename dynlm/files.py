"""Writing files so that a reader never meets half of one, and the fingerprints that tell contents apart."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dynlm.errors import UserError


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; move it there once the block ends well, else remove it.

    Raises UserError where the folder cannot be written or the disk is full; ``path`` is then as it was before.
    """
    path = Path(path)
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        aside = Path(name)
        yield aside
        with aside.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
        aside = None
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """The user's error for an operating system's refusal to write ``path``."""
    do = "choose a place you may write to"
    # numpy says only how much of an array was written, without the system's number: the disk is full.
    if error.errno in (errno.ENOSPC, None):
        do = "free some space and start again"
    return UserError(f"cannot write: {error.strerror or error}", path, do)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with written_whole(path) as aside:
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises UserError where it is missing, unreadable or cut short."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("no such file", path) from error
    except (OSError, ValueError) as error:
        raise UserError(f"not a readable JSON file ({error})", path, "it may be cut short; make it anew") from error


def fingerprint(*parts: bytes | str) -> str:
    """16 hexadecimal digits of the SHA-256 of ``parts``; the parts' borders count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where tokenizers and token arrays are cached: ``DYNLM_CACHE``, else ``dynlm`` in the user's cache folder."""
    if place := os.environ.get("DYNLM_CACHE"):
        return Path(place)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynlm"
