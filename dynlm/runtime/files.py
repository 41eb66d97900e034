"""Checks of paths from untrusted sources, atomic writes of files and folders, and locks between processes.

A file or folder is written under a temporary name beside its final path and renamed, so that no reader meets half of
one and a killed process leaves only a hidden ``.aside-*`` folder, which the next write removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import filelock

from dynlm.errors import UserError
from dynlm.runtime.launcher import is_main_process

try:
    import fcntl
except ImportError:  # Windows: staging folders of killed processes are not removed.
    fcntl = None  # type: ignore[assignment]

StrPath = str | os.PathLike[str]
_STAGING = ".aside-"
_SECONDS_TO_LOCK = 60.0
"""An empty staging folder younger than this may not be locked yet by the process that made it."""


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


def is_hub_cache(folder: Path) -> bool:
    """Return whether ``folder`` is a snapshot in the cache of a model hub."""
    return folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir()


def link_root(folder: Path) -> Path:
    """Return where links in ``folder`` may lead to: in a snapshot of a hub's cache files are links to ``blobs``."""
    return folder.parent.parent if is_hub_cache(folder) else folder


def check_regular(path: StrPath) -> None:
    """Raise UserError if ``path`` is missing or, after following links, not a regular file. Opens nothing."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError("not a regular file", path, "copy its content to a file and name that")
    except (OSError, ValueError) as error:
        raise cannot_read(path, error) from error


def open_regular(path: StrPath) -> IO[bytes]:
    """Open a regular file for reading. Raises UserError if it is another kind of file, or cannot be opened.

    A pipe or a device may block, never end, or give its bytes only once.
    """
    check_regular(path)
    try:
        # Should a pipe replace the file meanwhile, O_NONBLOCK keeps open from waiting for a writer.
        return open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
    except OSError as error:
        raise cannot_read(path, error) from error


def cannot_read(path: StrPath, error: OSError | ValueError) -> UserError:
    """Return the UserError for an error of the operating system on reading ``path``."""
    if isinstance(error, FileNotFoundError):
        return UserError("no such file", path)
    return UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", path)


def cannot_write(path: StrPath, error: OSError) -> UserError:
    """Return the UserError for an error of the operating system on writing ``path``."""
    do = "choose a folder that you may write to"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # NumPy reports a full disk without errno.
        do = "free some space and start again"
    elif error.errno == errno.ENOENT:
        do = "the folder was removed meanwhile: make it again"
    return UserError(f"cannot write: {error.strerror or error}", path, do)


@contextlib.contextmanager
def atomic_write(path: StrPath, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, and move the file to ``path`` if the block succeeds.

    An existing file keeps its permissions; a new one gets those of the umask, or with ``private`` none for group and
    others. Raises UserError if the folder cannot be written or the disk is full; ``path`` is then unchanged.
    """
    path = Path(path)
    with staging_dir(path.parent, path) as folder:
        staged = folder / path.name
        yield staged
        _sync(staged)
        mode = stat.S_IMODE(folder.stat().st_mode) & (0o600 if private else 0o666)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISREG((before := path.lstat()).st_mode):
                mode = stat.S_IMODE(before.st_mode)
        os.chmod(staged, mode)
        os.replace(staged, path)


@contextlib.contextmanager
def staging_dir(parent: Path, target: Path | None = None) -> Iterator[Path]:
    """Yield a new hidden folder in ``parent``, for ``commit_dir`` to rename; it is removed after the block.

    Any OSError raised in the block counts as one of writing: UserError, naming ``target`` or else ``parent``.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(parent)
        folder = parent / f"{_STAGING}{secrets.token_hex(8)}"
        folder.mkdir()  # tempfile.mkdtemp would not take the permissions of the umask
        lock = _lock(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    except OSError as error:
        raise cannot_write(target or parent, error) from error


def commit_dir(staged: Path, folder: Path, keep_existing: bool = False) -> None:
    """Rename ``staged`` to ``folder``. Raises UserError on failure, and for a folder that holds files already.

    With ``keep_existing`` such a folder is kept: for a cache, where another process wrote the same.
    """
    try:
        for path in staged.rglob("*"):
            if path.is_file():
                _sync(path)
        os.replace(staged, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise cannot_write(folder, error) from error
        if not keep_existing:
            raise UserError("there is something already", folder, "choose another folder") from error


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_leftovers(parent: Path) -> None:
    """Remove the staging folders in ``parent`` of processes that were killed; those in use stay."""
    for folder in parent.glob(f"{_STAGING}*"):
        with contextlib.suppress(OSError):  # Its process may remove it meanwhile.
            # Only an empty folder can be unlocked and in use: nothing is written before the lock is held. The absolute
            # value is for clocks that were set back.
            young = abs(time.time() - folder.stat().st_mtime) < _SECONDS_TO_LOCK
            if (young and not any(folder.iterdir())) or (lock := _lock(folder)) is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Lock ``folder`` until the returned descriptor is closed or the process ends; None if another process holds it."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Held, or a file system without locks.
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def exclusive(path: StrPath, what: str, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of ``path``, a file or folder to be written, against other processes.

    The lock is re-entrant. Of the processes of one launch (RANK) the first holds it for all. Its file, hidden beside
    ``path``, is removed afterwards. Raises UserError, naming ``what`` is in use, if another process holds the lock for
    longer than ``seconds``, or if the folder cannot be written.
    """
    path = Path(path)
    if not is_main_process():
        yield
        return
    lock = filelock.FileLock(path.parent / f".{path.name}.lock", timeout=seconds, is_singleton=True)
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=seconds)
    except filelock.Timeout as error:
        raise UserError(f"{what} is in use by another process", path, "wait until that one has ended") from error
    except OSError as error:
        raise cannot_write(path, error) from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            # A waiting process opens the file anew for each attempt, so it cannot lock one that was removed.
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # Not empty any more.
                path.parent.rmdir()
