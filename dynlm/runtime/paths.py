"""The cache folder, and checks of paths from untrusted sources."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from dynlm.errors import UserError


def cache_folder() -> Path:
    """Return ``DYNLM_CACHE``, or else ``dynlm`` in the user's cache folder. Raises UserError if there is neither."""
    if path := os.environ.get("DYNLM_CACHE"):
        return Path(path)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynlm"
    except RuntimeError as error:  # HOME is unset and the user has no password entry.
        raise UserError("there is no home folder for the cache", do="set DYNLM_CACHE to a folder") from error


def check_inside(path: Path, root: Path) -> None:
    """Raise UserError if ``path`` leads out of ``root`` by a link or ``..``; ``root`` itself may be a link."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError(f"leads out of {root}", path, "put the file itself there, or name its own folder")


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise UserError if ``path`` is missing or, after following links, not a regular file. Opens nothing."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError("not a regular file", path, "copy its content to a file and name that")
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file for reading. Raises UserError if it is another kind of file, or cannot be opened.

    A pipe or a device may block, never end, or give its bytes only once.
    """
    check_regular(path)
    try:
        # Should a pipe replace the file meanwhile, O_NONBLOCK keeps open from waiting for a writer.
        return open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except OSError as error:
        raise cannot_read(path, error) from error


def cannot_read(path: str | os.PathLike[str], error: OSError | ValueError) -> UserError:
    """Return the UserError for an error of the operating system on reading ``path``."""
    if isinstance(error, FileNotFoundError):
        return UserError("no such file", path)
    return UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", path)
