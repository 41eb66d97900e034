"""Memory files: the memory of a text in one file, apart from the model that read it.

A memory file is a safetensors file. It holds the tensors of ``state_tensors`` in one lane, the bytes of the unfinished
article (``text``), and a JSON description (``About``): the fingerprints of the model and of the rule's constants, the
options, how much was read. ``content`` is a fingerprint of all of it, which detects damage. It leaves out ``last``, the
fingerprint of the texts read last, and what is for display: a text read in two parts leaves the same memory as read in
one. A memory that was reset has no tensors.

The target of a link is written, not the link. A file keeps its permissions; a new one can be read by its owner only.
``changing`` locks a file from reading to writing it.

The content is private: dynamic weights are trained on the text, and a cache, an unfinished article and the record of
the reading hold words of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import EARLIER_CONSTANTS, DynamicModel, Memory, constants_of, distance
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.reading_record import ReadingRecord
from dynlm.adapt.state_tensors import as_tensors, flaw, flaw_of_shapes, from_tensors
from dynlm.errors import UserError
from dynlm.runtime.files import exclusive
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.tensors import Check, Shapes, load_metadata, load_tensors, params_fingerprint, save_tensors
from dynlm.runtime.text import warn
from dynlm.runtime.validation import is_of, section_of, types_of

FORMAT = 2
_FORMAT_1 = {
    "weights/": "params/",
    "hidden/": "state/",
    "pace/since_B": "rule/lanes/segments_B",
    "pace/running_B": "rule/lanes/running_nats_B",
    "pace/heading_B": "rule/lanes/since_heading_B",
    "home/": "rule/slots/anchor/",
    "velocity/": "rule/slots/velocity/",
    "hedge/hidden/": "mixture/state/",
    "hedge/": "mixture/",
    "guarded/": "filter/",
}
"""Where format 1 kept the tensors of format 2."""
_TEXT = "text"
_SECONDS_TO_WAIT = 5.0
_AGAIN = "read the text again, or restore the file"
_INDIFFERENT = ("lanes", "track", "capture")
"""Options that affect no result: a memory file has one lane."""


@dataclass(frozen=True)
class Unfinished:
    """An article that more text may follow: its last lines, of which the first ``read`` tokens were read."""

    text: str
    read: int


@dataclass(frozen=True)
class About:
    """The description that a memory file holds of itself."""

    model: str
    """Fingerprint of the static parameters."""
    constants: str
    """Fingerprint of the plug-ins' constants."""
    options: dict[str, Any]
    """Of ``MemoryOptions``."""
    rule: dict[str, Any] = field(default_factory=dict)
    """The rule's name, learning rates and decays, for display."""
    tokens: int = 0
    articles: int = 0
    """Articles begun so far."""
    unfinished: int | None = None
    """How many tokens of ``text`` were read, where the last article is not finished."""
    content: str = ""
    """Fingerprint of all tensors and of everything else here but ``last``, ``distance`` and ``record``."""
    last: str = ""
    """Fingerprint of the texts that were read last, where it is known."""
    distance: float | None = None
    """|theta_t - theta_0| / |theta_0|, for display."""
    record: dict[str, Any] = field(default_factory=dict)
    """A ``ReadingRecord``, for display."""
    format: int = FORMAT

    def memory_options(self, where: object) -> MemoryOptions:
        """Return the options that it was read with. Raises UserError for options that are not understood."""
        try:
            return section_of(MemoryOptions, self.options)
        except UserError as error:
            raise UserError(f"what it was read with is not understood ({error})", where) from error


@dataclass(frozen=True)
class SavedMemory:
    """A memory in one lane, with how much was read and what remains to be read of its last article."""

    memory: Memory
    tokens: int = 0
    articles: int = 0
    unfinished: Unfinished | None = None
    last: str = ""
    """Fingerprint of the texts that `dynlm read` read last."""
    record: ReadingRecord = field(default_factory=ReadingRecord)

    def copy(self) -> SavedMemory:
        """Return a copy that further reading of this one leaves as it is."""
        return dataclasses.replace(self, memory=self.memory.copy())


def save_memory(
    path: Path, saved: SavedMemory, dynamic_model: DynamicModel, options: MemoryOptions, model: str
) -> About:
    """Write a memory of ``dynamic_model``, which has ``options``; ``model`` is the static parameters' fingerprint.

    The file is written atomically. Raises UserError where it cannot be written, and for a memory that is not finite.
    """
    tensors = as_tensors(saved.memory, dynamic_model)
    if (wrong := flaw(tensors, dynamic_model)) is not None:
        raise UserError(f"this memory is not kept: {wrong}", path, "the rule diverged: lower its rate")
    if saved.unfinished is not None:
        tensors[_TEXT] = torch.from_numpy(np.frombuffer(saved.unfinished.text.encode(), dtype=np.uint8).copy())
    about = About(
        model=model,
        constants=constants_of(dynamic_model),
        options=dataclasses.asdict(options),
        rule={"name": dynamic_model.rule.name, "rates": dynamic_model.rule.describe()},
        tokens=saved.tokens,
        articles=saved.articles,
        unfinished=None if saved.unfinished is None else saved.unfinished.read,
        last=saved.last,
        distance=float(distance(saved.memory, dynamic_model)) if saved.memory.params else 0.0,
        record=saved.record.to_dict(),
    )
    return _write(path, about, tensors)


def load_memory(path: Path, dynamic_model: DynamicModel, options: MemoryOptions, model: str) -> SavedMemory:
    """Return a memory that ``dynamic_model``, which has ``options``, can continue.

    Raises UserError for a file that is missing, damaged or no memory, for a memory of another model or of other
    options, and where the rule's constants (rates, phi, statistics) have changed since.
    """

    def check(shapes: Shapes, content: dict[str, Any]) -> None:
        about = _about_of(path, content)
        _check_belongs(path, about, dynamic_model, options, model)
        state = {_renamed(name, about.format): shape for name, shape in shapes.items() if name != _TEXT}
        if state and (wrong := flaw_of_shapes(state, dynamic_model)) is not None:
            raise UserError(f"not a memory of this model and rule: {wrong}", path, _AGAIN)

    about, state, text = _load(path, dynamic_model.device, check)
    if (about.unfinished is None) != (text is None):
        raise _damaged("half of an unfinished article is missing", path)
    try:
        unfinished = None if text is None else Unfinished(text.decode(), about.unfinished or 0)
    except UnicodeDecodeError as error:
        raise _damaged("the text of its unfinished article is not UTF-8", path) from error
    if not state:
        return SavedMemory(dynamic_model.fresh_memory())
    if (wrong := flaw(state, dynamic_model)) is not None:
        raise _damaged(wrong, path)
    memory, record = from_tensors(state, dynamic_model), ReadingRecord.from_dict(about.record, path)
    if memory.cache is not None and not memory.cache.is_sound(dynamic_model.model.vocab_size):
        raise _damaged("its cache holds impossible values", path)
    if about.format < FORMAT or EARLIER_CONSTANTS.fullmatch(about.constants):
        warn(f"{path}: written by an earlier dynlm (format {about.format}); its constants are not checked")
    return SavedMemory(memory, about.tokens, about.articles, unfinished, about.last, record)


def load_about(path: Path) -> tuple[About, dict[str, Tensor]]:
    """Return a memory file's description, and its tensors by the names of the current format; needs no model.

    Raises UserError for a file that is missing, damaged or no memory.
    """
    return _load(path)[:2]


def options_of(path: Path, otherwise: MemoryOptions) -> MemoryOptions:
    """Return the options of a memory file; those that affect no result are taken from ``otherwise``.

    Raises UserError for a file that is missing, damaged or no memory.
    """
    options = _about_of(path, load_metadata(path)).memory_options(path)
    return dataclasses.replace(options, **{name: getattr(otherwise, name) for name in _INDIFFERENT})


def is_memory(description: Mapping[str, Any]) -> bool:
    """Return whether the metadata of a file is that of a memory file, damaged or not."""
    return {"model", "constants", "options"} <= description.keys()


def reset_memory(path: Path) -> About:
    """Remove the content of a memory file, and keep its model and options.

    Raises UserError as ``load_about`` and ``changing`` do.
    """
    with changing(path) as path:
        about, _ = load_about(path)
        return _write(path, About(about.model, about.constants, about.options, about.rule, format=about.format), {})


@contextlib.contextmanager
def changing(path: Path) -> Iterator[Path]:
    """Lock the memory file ``path`` against other processes within the block; gives the target of a link.

    Raises UserError where another process holds the lock for longer than some seconds.
    """
    path = Path(os.path.realpath(path))
    with exclusive(path, "this memory", _SECONDS_TO_WAIT):
        yield path


def _write(path: Path, about: About, tensors: dict[str, Tensor]) -> About:
    about = dataclasses.replace(about, content=_content_of(about, tensors))
    save_tensors(Path(os.path.realpath(path)), tensors, dataclasses.asdict(about), private=True)
    return about


def _load(
    path: Path, device: torch.device | str = "cpu", check: Check | None = None
) -> tuple[About, dict[str, Tensor], bytes | None]:
    """Load (the description, the memory's tensors by the names of the current format, the unfinished article)."""
    tensors, description = load_tensors(path, device, check=check)
    about = _about_of(path, description)
    if _content_of(about, tensors) != about.content:
        raise _damaged("its content is not what was written", path)
    text = tensors.pop(_TEXT).cpu().numpy().tobytes() if _TEXT in tensors else None
    return about, {_renamed(name, about.format): tensor for name, tensor in tensors.items()}, text


def _renamed(name: str, version: int) -> str:
    """Return the path in ``Memory`` of a tensor of a file of format ``version``."""
    if version >= FORMAT:
        return name
    if name.startswith("coordinates/"):  # coordinates/NAME/h
        tensor, _, slot = name.removeprefix("coordinates/").rpartition("/")
        return f"rule/slots/{slot}/{tensor}"
    old = next((old for old in _FORMAT_1 if name.startswith(old)), "")
    return _FORMAT_1.get(old, "") + name[len(old) :]


def _content_of(about: About, tensors: Mapping[str, Tensor]) -> str:
    description = {**dataclasses.asdict(about), "content": None}
    for name in ("last", "distance", "record"):
        del description[name]
    return fingerprint(json.dumps(description, sort_keys=True), params_fingerprint(tensors))


def _about_of(path: Path, description: dict[str, Any]) -> About:
    version = description.get("format")
    if not isinstance(version, int) or not is_memory(description):
        raise UserError("this is no memory", path, "name a file that `dynlm read` wrote")
    if version > FORMAT:
        raise UserError(f"a memory of format {version}, newer than this dynlm reads ({FORMAT})", path, "upgrade dynlm")
    kinds = types_of(About)
    for name, value in description.items():
        if name not in kinds or not is_of(value, kinds[name]):
            raise _damaged(f"{name!r} has a wrong type or is unknown", path)
    return About(**description)


def _check_belongs(path: Path, about: About, dynamic_model: DynamicModel, options: MemoryOptions, model: str) -> None:
    if about.model != model:
        # Without characters of the file that could affect a terminal.
        mark = "".join(letter for letter in about.model[:16] if letter.isalnum() and letter.isascii())
        what, do = f"a memory of another model ({mark}, not {model})", "read with the run that it belongs to"
        raise UserError(what, path, do)
    before = about.memory_options(path)
    for item in dataclasses.fields(options):
        was, now = getattr(before, item.name, None), getattr(options, item.name)
        if was != now and item.name not in _INDIFFERENT:
            what = f"this memory was read with memory.{item.name} {was!r}, not {now!r}"
            raise UserError(what, path, "leave the option out, or begin another memory")
    compared = about.format == FORMAT and not EARLIER_CONSTANTS.fullmatch(about.constants)
    if compared and about.constants != constants_of(dynamic_model):
        what = "the rule has other rates (or phi, statistics, seed of factors) than the memory was read with"
        raise UserError(what, path, "begin another memory, or restore the run's memory/")


def _damaged(what: str, path: Path) -> UserError:
    return UserError(f"a damaged memory: {what}", path, _AGAIN)
