"""Checkpoints, and the one protocol by which interrupted work is saved and resumed.

    FOLDER/STEM-00000012.safetensors    tensors and a JSON value, with a checksum of both

A checkpoint is written beside its place and renamed, so that a kill at any moment leaves only complete files. A file
that a failing disk or a power loss damaged is detected by its checksum, named on standard error and skipped in favour
of the one before it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import remove_leftovers
from dynlm.runtime.hashing import Hasher
from dynlm.runtime.renamed import current_name
from dynlm.runtime.signals import StopRequest, stop_requests
from dynlm.runtime.tensors import data_of, load_tensors, save_tensors
from dynlm.runtime.text import printable

LANES = "lanes/"
"""Prefix of tensors with one row for each of a process's lanes; a checkpoint holds the lanes of all processes."""


class State(NamedTuple):
    """The state of interrupted work: tensors, and whatever JSON can hold."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]


class Resumable(Protocol):
    """Work that can be interrupted between two steps."""

    def state_dict(self) -> State:
        """Return everything that the next step depends on."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Continue from a state whose tensors are on the CPU."""
        ...


class Checkpoint(NamedTuple):
    """The content of a complete file."""

    path: Path
    number: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoint files of one piece of work, numbered by its steps."""

    folder: Path
    stem: str = "step"
    kept: int = 2
    """How many of the newest files stay."""
    made_with: dict[str, Any] = field(default_factory=dict)
    """The options and fingerprints that decide the outcome, as flat JSON; checkpoints of others are refused."""

    def save(self, number: int, tensors: Mapping[str, Tensor], state: dict[str, Any]) -> Path:
        """Write a checkpoint, remove all but the newest ones, and return the file. Raises UserError on failure."""
        content = json.dumps({"made_with": self.made_with, "state": state})
        path = self.folder / f"{self.stem}-{number:08d}.safetensors"
        save_tensors(path, tensors, {"content": content, "checksum": _checksum(tensors, content)})
        for old in self.paths()[: -self.kept]:
            old.unlink()
        return path

    def newest(self, quiet: bool = False) -> Checkpoint | None:
        """Return the newest complete checkpoint, or None where there is none.

        Each damaged file gets a line on standard error, unless ``quiet``. Raises UserError where the checkpoint was
        made with other options.
        """
        for path in reversed(self.paths()):
            try:
                tensors, content = _read(path)
            except UserError as error:
                if not quiet:
                    what = str(error).partition(";")[0]
                    print(printable(f"dynlm: warning: {what}; using the one before"), file=sys.stderr)
                continue
            self._check_options(path, content["made_with"])
            return Checkpoint(path, _number(path, self.stem), tensors, content["state"])
        return None

    def drop(self) -> None:
        """Remove all checkpoints: the work is done."""
        for path in self.paths():
            path.unlink()
        remove_leftovers(self.folder)

    def paths(self) -> list[Path]:
        """Return the checkpoint files, damaged ones too, oldest first."""
        numbered = (path for path in self.folder.glob("*.safetensors") if _number(path, self.stem) >= 0)
        return sorted(numbered, key=lambda path: _number(path, self.stem))

    def _check_options(self, path: Path, made_with: dict[str, Any]) -> None:
        now = json.loads(json.dumps(self.made_with))
        for name in [*now, *made_with]:
            if made_with.get(name) != now.get(name):
                what = f"made with {current_name(name)} {made_with.get(name)!r}, not {now.get(name)!r}"
                do = "use the same options, or remove the checkpoint to begin anew"
                raise UserError(f"this checkpoint was {what}", path, do)


class Checkpointer:
    """Saves and resumes ``work``, on one or several processes, which may be another number of them after a resume.

    Within its ``with`` block Ctrl-C and SIGTERM make the next ``after_step`` save and stop. Otherwise that saves every
    ``every`` steps or, where that is 0, ``seconds`` after the last time; without ``checkpoints`` it never does.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None,
        work: Resumable,
        processes: Processes | None = None,
        every: int = 1,
        seconds: float = 0.0,
    ):
        self._checkpoints, self._work = checkpoints, work
        self._processes = processes or Processes()
        self._every, self._seconds, self._saved_at = every, seconds, time.monotonic()
        self._stack, self._request = contextlib.ExitStack(), StopRequest()

    def __enter__(self) -> Checkpointer:
        self._request = self._stack.enter_context(stop_requests())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def resume(self) -> Path | None:
        """Load the newest complete checkpoint into the work and return its file; None where there is none.

        Raises UserError where the processes see different checkpoints, or the checkpoint does not fit the work.
        """
        processes = self._processes
        if self._checkpoints is None:
            return None
        found = self._checkpoints.newest(quiet=not processes.is_main)
        numbers = processes.gather_object(None if found is None else found.number)
        if len(set(numbers)) > 1:
            seen = ", ".join("none" if number is None else str(number) for number in numbers)
            what = f"the processes see different checkpoints ({seen})"
            raise UserError(what, self._checkpoints.folder, "give all of them the same folder")
        if found is None:
            return None
        tensors = dict(found.tensors)
        try:
            for name in tensors:
                if name.startswith(LANES):
                    tensors[name] = processes.local_lanes(tensors[name]).contiguous()
            with torch.no_grad():
                self._work.load_state_dict(State(tensors, found.state))
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            what = f"a checkpoint of something else ({error})"
            raise UserError(what, found.path, "remove it to begin anew") from error
        return found.path

    def after_step(self, number: int, last: bool = False) -> None:
        """Save after step ``number`` if that is due or it is the ``last``; raise Stopped if a stop was requested.

        All processes call it after the same step.
        """
        processes = self._processes
        stopping = processes.any(self._request.requested)
        if self._every:
            due = number % self._every == 0
        else:
            due = processes.any(time.monotonic() - self._saved_at >= self._seconds)
        if not (stopping or last or due):
            return
        path = None
        if self._checkpoints is not None:
            tensors, values = self._work.state_dict()
            tensors = {n: processes.gather_lanes(t) if n.startswith(LANES) else t for n, t in tensors.items()}
            if processes.is_main:
                path = self._checkpoints.save(number, tensors, values)
        # The others do not run ahead of a slow disk: they would take the main process for dead.
        processes.wait_for_everyone()
        self._saved_at = time.monotonic()
        if stopping:
            self._request.stop(path)


def _number(path: Path, stem: str) -> int:
    """Return the number in a checkpoint's file name; -1 where the name is not one of ``stem``'s."""
    name, _, digits = path.stem.rpartition("-")
    return int(digits) if name == stem and digits.isdecimal() else -1


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = load_tensors(path)
    try:
        if about["checksum"] != _checksum(tensors, about["content"]):
            raise ValueError("its checksum is that of something else")
        content = json.loads(about["content"])
        content["made_with"].items(), content["state"].items()  # both are objects
        return tensors, content
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"not a whole checkpoint ({error})", path) from error


def _checksum(tensors: Mapping[str, Tensor], content: str) -> str:
    hasher = Hasher()
    hasher.add(content)
    for name in sorted(tensors):
        hasher.add(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}")
        hasher.add(data_of(tensors[name]))
    return hasher.hexdigest()
