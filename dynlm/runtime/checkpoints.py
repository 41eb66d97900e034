"""Checkpoints, and their one owner: what a run that was stopped, or killed, goes on from.

    FOLDER/STEM-00000012.safetensors    tensors and a JSON value beside them, with a checksum of both

A checkpoint is written aside and renamed, so that a kill at any moment leaves whole ones. What a failing disk or a loss
of power made of one is found out by its checksum: it is named on standard error and passed over for the one before.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import remove_leftovers
from dynlm.runtime.hashing import Hasher
from dynlm.runtime.tensors import load_tensors, save_tensors
from dynlm.runtime.text import printable


class Checkpoint(NamedTuple):
    """What was saved as number ``number``; ``tensors`` are the reader's own."""

    path: Path
    number: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    @contextlib.contextmanager
    def taken_up(self) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
        """Tensors and state, for the block to take up. Raises UserError where they are not what it looks for."""
        try:
            yield self.tensors, self.state
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            what = f"a checkpoint of something else ({error})"
            raise UserError(what, self.path, "remove it to begin anew") from error


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one piece of work, numbered as it advances.

    ``kept``: how many of the newest stay. ``made_with``: the options, and fingerprints of the data, that decide on the
    work's outcome, as a flat JSON object; a checkpoint that was made with others is refused.
    """

    folder: Path
    stem: str = "step"
    kept: int = 2
    made_with: Mapping[str, Any] = field(default_factory=dict)

    def save(self, number: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Keep the work as it stands, and drop all but the newest checkpoints; returns the file.

        ``state`` is anything that JSON holds. Raises UserError where it cannot be written.
        """
        content = json.dumps({"made_with": dict(self.made_with), "state": dict(state)})
        path = self.folder / f"{self.stem}-{number:08d}.safetensors"
        save_tensors(path, dict(tensors), {"content": content, "checksum": _checksum(tensors, content)})
        for old in self.paths()[: -self.kept]:
            old.unlink()
        return path

    def newest(self, quiet: bool = False) -> Checkpoint | None:
        """The newest whole checkpoint, or None where there is none.

        Each that is not whole gets a line on standard error, unless ``quiet``. Raises UserError where the checkpoint
        was made with other options.
        """
        for path in reversed(self.paths()):
            try:
                tensors, content = _read(path)
            except UserError as error:
                if not quiet:
                    what = str(error).partition(";")[0]
                    print(printable(f"dynlm: warning: {what}; passed over for the one before"), file=sys.stderr)
                continue
            self._refuse_other_options(path, content["made_with"])
            return Checkpoint(path, _number(path, self.stem), tensors, content["state"])
        return None

    def newest_of(self, processes: Processes) -> Checkpoint | None:
        """The same for several processes, which go on from one checkpoint. Raises UserError where they see others."""
        found = self.newest(quiet=not processes.is_main)
        numbers = processes.gather_object(None if found is None else found.number)
        if len(set(numbers)) > 1:
            seen = ", ".join("none" if number is None else str(number) for number in numbers)
            raise UserError(
                f"the processes see different checkpoints ({seen})", self.folder, "give all of them the same folder"
            )
        return found

    def drop(self) -> None:
        """Remove all checkpoints: the work is done."""
        for path in self.paths():
            path.unlink()
        remove_leftovers(self.folder)

    def paths(self) -> list[Path]:
        """The checkpoints' files, whole or not, oldest first."""
        numbered = (path for path in self.folder.glob("*.safetensors") if _number(path, self.stem) >= 0)
        return sorted(numbered, key=lambda path: _number(path, self.stem))

    def _refuse_other_options(self, path: Path, made_with: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(dict(self.made_with)))
        for name in [*now, *made_with]:
            if made_with.get(name) != now.get(name):
                raise UserError(
                    f"this checkpoint was made with {name} {made_with.get(name)!r}, not {now.get(name)!r}",
                    path,
                    "go on with the same options, or remove the checkpoint to begin anew",
                )


def _number(path: Path, stem: str) -> int:
    """The number in a checkpoint's name; -1 for a file that is none of ``stem``'s."""
    name, _, digits = path.stem.rpartition("-")
    return int(digits) if name == stem and digits.isdecimal() else -1


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors, about = load_tensors(path)
    try:
        if about["checksum"] != _checksum(tensors, about["content"]):
            raise ValueError("its checksum is that of something else")
        content = json.loads(about["content"])
        content["made_with"].items(), content["state"].items()  # objects, both
        return tensors, content
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"not a whole checkpoint ({error})", path) from error


def _checksum(tensors: Mapping[str, Tensor], content: str) -> str:
    mark = Hasher()
    mark.add(content)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        mark.add(f"{name} {tensor.dtype} {tuple(tensor.shape)}")
        # One number may have any stride, and be contiguous.
        octets = tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data
        mark.add_long(octets.nbytes, [octets])
    return mark.hexdigest()
