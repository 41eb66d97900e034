"""Atomic writes of files and folders, and locks between processes.

A file or folder is written under a temporary name beside its final path and renamed, so that no reader meets half of
one and a killed process leaves only a hidden ``.aside-*`` folder, which the next write removes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from dynlm.errors import UserError
from dynlm.runtime.launcher import is_main_process

try:
    import fcntl
except ImportError:  # Windows: staging folders of killed processes are not removed.
    fcntl = None  # type: ignore[assignment]

_STAGING = ".aside-"
_SECONDS_TO_LOCK = 60.0
"""An empty staging folder younger than this may not be locked yet by the process that made it."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], private: bool = False) -> Iterator[Path]:
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
        folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=parent))
        # mkdtemp makes private folders; take the permissions that mkdir gives under the umask.
        (inner := folder / "umask").mkdir()
        os.chmod(folder, stat.S_IMODE(inner.stat().st_mode))
        inner.rmdir()
        lock = _lock(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if lock is not None:
                os.close(lock)
    except OSError as error:
        raise cannot_write(target or parent, error) from error


def commit_dir(staged: Path, folder: Path) -> None:
    """Rename the folder ``staged`` to ``folder``; an existing ``folder`` that is not empty is kept instead.

    Raises UserError if that fails.
    """
    try:
        for path in staged.iterdir():
            _sync(path)
        os.replace(staged, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise cannot_write(folder, error) from error


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
def exclusive(path: str | os.PathLike[str], what: str, seconds: float = 0.0) -> Iterator[None]:
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


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """Return the UserError for an error of the operating system on writing ``path``."""
    do = "choose a folder that you may write to"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, None):  # NumPy reports a full disk without errno.
        do = "free some space and start again"
    elif error.errno == errno.ENOENT:
        do = "the folder was removed meanwhile: make it again"
    return UserError(f"cannot write: {error.strerror or error}", path, do)
