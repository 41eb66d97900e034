"""Writing files so that a reader never meets half of one, and the fingerprints that tell contents apart."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from dynlm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows: leftovers of killed processes stay
    fcntl = None  # type: ignore[assignment]

LARGEST_JSON = 256 * 2**20
"""Bytes: more than the largest vocabulary takes."""
_LARGEST_YAML = 2**20
_DEEPEST_YAML = 20
_LONGEST_YAML = 20_000
_ASIDE = ".aside-"
_SECONDS_TO_LOCK = 60.0
"""An empty folder this young may not be locked yet by the process that made it."""


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str], private: bool = False) -> Iterator[Path]:
    """Give a path beside ``path`` to write to; move it there once the block ends well, else remove it.

    A file that was there keeps its permissions; a new one has those of the umask, and with ``private`` none for others
    than its owner. What processes that were killed left beside it is removed. Raises UserError where the folder cannot
    be written or the disk is full; ``path`` is then as it was before.
    """
    path = Path(path)
    try:
        with _folder_beside(path.parent) as folder:
            aside = folder / path.name
            yield aside
            with aside.open("rb+") as file:
                os.fsync(file.fileno())
            mode = stat.S_IMODE(folder.stat().st_mode) & (0o600 if private else 0o666)
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISREG((before := path.lstat()).st_mode):
                    mode = stat.S_IMODE(before.st_mode)
            os.chmod(aside, mode)
            os.replace(aside, path)
    except OSError as error:
        raise cannot_write(path, error) from error


@contextlib.contextmanager
def staging_dir(parent: Path) -> Iterator[Path]:
    """Give a new hidden folder in ``parent`` to write to; what is left of it when the block ends is removed.

    ``commit_dir`` moves it to its place. Such folders of processes that were killed are removed first. Raises UserError
    where ``parent`` cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(_folder_beside(parent))
        except OSError as error:
            raise cannot_write(parent, error) from error
        yield folder


@contextlib.contextmanager
def _folder_beside(parent: Path) -> Iterator[Path]:
    parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(parent)
    folder = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=parent))
    # As mkdir makes folders: the umask decides.
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


def commit_dir(aside: Path, folder: Path) -> None:
    """Move the whole folder ``aside`` to ``folder``, in one step; what stands there already stays.

    Raises UserError where that cannot be done.
    """
    try:
        for path in aside.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(aside, folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise cannot_write(folder, error) from error


def refuse_leaving(path: Path, root: Path) -> None:
    """Raise UserError where ``path``, in a folder of a stranger's, leads out of ``root`` by a link or by ``..``.

    ``root`` itself may be a link: the user named it.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise UserError(f"leads out of {root}", path, "put the file itself there, or name its own folder")


def link_or_copy(source: Path, place: Path) -> None:
    """Give a finished file a second place, without a second copy where the file system can do that.

    Raises UserError where that cannot be done.
    """
    try:
        try:
            os.link(source, place)
        except OSError:
            shutil.copyfile(source, place)
    except OSError as error:
        raise cannot_write(place, error) from error


def remove_leftovers(parent: Path) -> None:
    """Remove what processes that were killed were writing in ``parent``; what is still being written stays."""
    for folder in parent.glob(f"{_ASIDE}*"):
        with contextlib.suppress(OSError):  # it ends while it is looked at
            # A clock that was set back leaves folders of the future: they are not young. Nothing is written before the
            # lock is held: only what is empty may yet have to be locked.
            young = abs(time.time() - folder.stat().st_mtime) < _SECONDS_TO_LOCK
            if (young and not any(folder.iterdir())) or (lock := _lock(folder)) is None:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)


def _lock(folder: Path) -> int | None:
    """Hold ``folder`` until the returned handle is closed or the process dies; None where another holds it."""
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        os.close(handle)
        return None
    return handle


def cannot_write(path: str | os.PathLike[str], error: OSError) -> UserError:
    """The user's error for an operating system's refusal to write ``path``."""
    do = "choose a place you may write to"
    # numpy says only how much of an array was written, without the system's number: the disk is full.
    if error.errno in (errno.ENOSPC, errno.EDQUOT, None):
        do = "free some space and start again"
    elif error.errno == errno.ENOENT:
        do = "the folder was removed meanwhile: make it again"
    return UserError(f"cannot write: {error.strerror or error}", path, do)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all."""
    with atomic_write(path) as aside:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        # JSON can spell a lone surrogate, as a file's name may hold one; UTF-8 has none.
        aside.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_bytes(path: str | os.PathLike[str], largest: int) -> bytes:
    """A regular file's content. Raises UserError where it is missing, no regular file, or over ``largest`` bytes.

    A device or a named pipe, which may never end, is not opened for reading.
    """
    try:
        # Opening a named pipe would wait for whoever writes to it.
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise UserError("not a regular file", path, "name a file")
            data = b"" if about.st_size > largest else file.read(largest + 1)
            if max(about.st_size, len(data)) > largest:
                raise UserError(
                    f"larger than {largest / 2**20:,.0f} MiB", path, "name another file, or cut it in parts"
                )
            return data
    except FileNotFoundError as error:
        raise UserError("no such file", path) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", path) from error


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise UserError where ``path`` is missing or, links followed, no regular file; nothing is opened."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UserError("not a regular file", path, "name a file")
    except FileNotFoundError as error:
        raise UserError("no such file", path) from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or error}", path) from error


@contextlib.contextmanager
def exclusive(path: str | os.PathLike[str], what: str, seconds: float = 0.0) -> Iterator[None]:
    """Within the block no other process is in such a block for ``path``, a file or folder that is written.

    The same process may enter it again. Of several processes that work together (RANK) the first holds the lock for
    all. The lock's file, hidden beside ``path``, is removed at the end. Raises UserError, saying that ``what`` is in
    use, where another process holds it for longer than ``seconds``, and where the folder cannot be written.
    """
    path = Path(path)
    if os.environ.get("RANK", "0") != "0":
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
            # Who waits opens the file anew for each try, and takes no lock of one that was removed.
            with contextlib.suppress(OSError):
                os.unlink(lock.lock_file)
        lock.release()
        if is_new:
            with contextlib.suppress(OSError):  # something was written there
                path.parent.rmdir()


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file. Raises UserError where it is missing, unreadable, cut short, or over 256 MiB."""
    try:
        return parsed_json(read_bytes(path, LARGEST_JSON).decode("utf-8"))
    except ValueError as error:
        raise UserError(f"not a readable JSON file ({error})", path, "it may be cut short; make it anew") from error


def parsed_json(text: str | bytes) -> Any:
    """A JSON value. Raises ValueError where ``text`` is none, one nested too deep for the parser included."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """Read a YAML file of options, by the safe loader.

    Raises UserError where it is missing or none, over 1 MiB, nested deeper than options are, or by its aliases longer
    than any options: a few of them can stand for more than fits into memory.
    """
    import yaml

    try:
        text = read_bytes(path, _LARGEST_YAML).decode("utf-8-sig")
        sizes: dict[str, int] = {}
        held: list[tuple[str | None, int]] = [(None, 0)]  # of each collection that is open: its anchor, values so far
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            anchor, size = getattr(event, "anchor", None), 1
            if isinstance(event, yaml.CollectionStartEvent):
                held.append((anchor, 1))
            elif isinstance(event, (yaml.CollectionEndEvent, yaml.NodeEvent)):
                if isinstance(event, yaml.CollectionEndEvent):
                    anchor, size = held.pop()
                elif isinstance(event, yaml.AliasEvent):
                    # What holds itself has no size yet.
                    anchor, size = None, sizes.get(str(event.anchor), _LONGEST_YAML)
                if anchor is not None:
                    sizes[anchor] = size
                held[-1] = (held[-1][0], held[-1][1] + size)
            if len(held) > _DEEPEST_YAML or held[-1][1] >= _LONGEST_YAML:
                what = "nested too deep" if len(held) > _DEEPEST_YAML else "too long, or an alias of what holds it"
                raise UserError(f"not a config that dynlm can read ({what})", path, "write every option out")
        return yaml.safe_load(text)
    except (ValueError, LookupError, AttributeError, TypeError, OverflowError, yaml.YAMLError) as error:
        raise UserError(f"not a config that dynlm can read ({error})", path) from error


def number_in(
    content: Mapping[str, Any], name: str, where: object, low: float = -math.inf, high: float = math.inf
) -> float:
    """The finite number ``content[name]``. Raises UserError where there is none, or one out of bounds."""
    value = content.get(name)
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not low <= value <= high
        or not _is_finite(value)
    ):
        told = repr(value) if len(repr(value)) <= 40 else type(value).__name__
        raise UserError(f"its {name} is {told}", where, "make it anew")
    return value


def _is_finite(value: float) -> bool:
    return abs(value) < 2.0**1023


class Fingerprint:
    """A fingerprint of parts that come one by one; the parts' borders count."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, part: bytes | str) -> None:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        self.add_long(len(data), [data])

    def add_long(self, size: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Add one part of ``size`` bytes that is given in chunks."""
        self._digest.update(size.to_bytes(8, "little"))
        for chunk in chunks:
            self._digest.update(chunk)

    def hexdigest(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the parts so far."""
        return self._digest.hexdigest()[:16]


def fingerprint(*parts: bytes | str) -> str:
    """16 hexadecimal digits of the SHA-256 of ``parts``; the parts' borders count."""
    mark = Fingerprint()
    for part in parts:
        mark.add(part)
    return mark.hexdigest()


def cache_folder() -> Path:
    """Where tokenizers and token arrays are cached: ``DYNLM_CACHE``, else ``dynlm`` in the user's cache folder.

    Raises UserError where the user has none.
    """
    if place := os.environ.get("DYNLM_CACHE"):
        return Path(place)
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "dynlm"
    try:
        return Path.home() / ".cache" / "dynlm"
    except RuntimeError as error:  # no HOME, and no entry of this user's
        raise UserError("there is no home folder to cache in", do="set DYNLM_CACHE to a folder") from error
