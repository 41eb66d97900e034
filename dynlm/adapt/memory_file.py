"""Memory files: what a text left behind, kept apart from the model that read it.

A safetensors file of ``state_tensors`` in one lane, the unfinished article's text (``text``, its bytes) where there is
one, and a JSON value (``About``): the fingerprint of the model that it belongs to, the options that it was read by,
what these options stood for (``constants``: a fingerprint of the plug-ins' constants), how much was read. ``content``
is a fingerprint of all of it, so that damage is noticed; ``last``, a fingerprint of what was read last, is not part of
it: a text leaves the same memory in one sitting and in two. A memory that was reset has no tensors.

A file is written where a link leads to, keeps its permissions, and is its owner's alone where it is new. ``changing``
is held from reading a file to writing it.

It holds what was read: dynamic weights have learned it, and a cache and an unfinished article hold it word for word.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.base import Rule
from dynlm.adapt.state import Memory
from dynlm.adapt.state_tensors import as_tensors, flaw, flaw_of_shapes, from_tensors
from dynlm.errors import UserError
from dynlm.runtime.files import exclusive
from dynlm.runtime.hashing import Hasher, fingerprint
from dynlm.runtime.tensors import Shapes, load_metadata, load_tensors, params_fingerprint, save_tensors
from dynlm.runtime.text import warn
from dynlm.runtime.validation import section_of

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
_CONSTANTS_VERSION = "2-"
EARLIER_CONSTANTS = re.compile("[0-9a-f]{16}")
"""Fingerprints of constants without a version are those of an earlier dynlm, and cannot be compared."""
_TEXT = "text"
_SECONDS_TO_WAIT = 5.0
_AGAIN = "read the text again, or restore the file"
_INDIFFERENT = ("lanes", "track", "capture")
"""Options of the memory that change nothing of what is read; a memory file is of one lane."""


@dataclass(frozen=True)
class Unfinished:
    """An article that more text may follow: its last lines, of which the first ``read`` tokens were read."""

    text: str
    read: int


@dataclass(frozen=True)
class About:
    """What a memory file tells of itself."""

    model: str
    """Fingerprint of the static parameters."""
    constants: str
    """Fingerprint of what the options stood for."""
    options: dict[str, Any]
    """Of ``MemoryOptions``."""
    rule: dict[str, Any] = field(default_factory=dict)
    """The rule's name and rates, to be told."""
    tokens: int = 0
    articles: int = 0
    """Begun so far."""
    unfinished: int | None = None
    """Where the last article is not finished: how many tokens of ``text`` were read."""
    content: str = ""
    """Fingerprint of everything else but ``last``, and of all tensors."""
    last: str = ""
    """Fingerprint of the texts of the last sitting, where it is known."""
    format: int = FORMAT

    def memory_options(self, where: object) -> MemoryOptions:
        """The options that the memory was read by. Raises UserError for those of another dynlm."""
        try:
            return section_of(MemoryOptions, self.options)
        except UserError as error:
            raise UserError(f"what it was read with is not understood ({error})", where) from error


@dataclass(frozen=True)
class SavedMemory:
    """A memory in one lane with what reading on must know; of a reader's ``fresh_memory`` nothing was read."""

    memory: Memory
    tokens: int = 0
    articles: int = 0
    unfinished: Unfinished | None = None
    last: str = ""
    """Fingerprint of what was read last, where it was a sitting of ``dynlm read``."""

    def copy(self) -> SavedMemory:
        """One that further reading of this one leaves as it is."""
        return dataclasses.replace(self, memory=self.memory.copy())


def save_memory(path: Path, saved: SavedMemory, reader: Reader, options: MemoryOptions, model: str) -> About:
    """Write a memory that ``reader``, of ``options``, left; ``model`` is the fingerprint of its static parameters.

    The file is written whole or not at all. Raises UserError where it cannot be, and where the memory holds what is no
    finite number.
    """
    tensors = as_tensors(saved.memory, reader)
    if (wrong := flaw(tensors, reader)) is not None:
        raise UserError(f"this memory is not kept: {wrong}", path, "the rule diverged: lower its rate")
    if saved.unfinished is not None:
        tensors[_TEXT] = torch.from_numpy(np.frombuffer(saved.unfinished.text.encode(), dtype=np.uint8).copy())
    about = About(
        model=model,
        constants=constants_of(reader),
        options=dataclasses.asdict(options),
        rule={"name": reader.rule.name, "rates": reader.rule.describe()},
        tokens=saved.tokens,
        articles=saved.articles,
        unfinished=None if saved.unfinished is None else saved.unfinished.read,
        last=saved.last,
    )
    return _write(path, about, tensors)


def load_memory(path: Path, reader: Reader, options: MemoryOptions, model: str) -> SavedMemory:
    """Read a memory that ``reader``, of ``options``, can go on with.

    Raises UserError where the file is missing, damaged or no memory, where it is another model's, where it was read by
    other options, or where what these stand for (rates, phi, statistics) is no longer what it was.
    """

    def check(shapes: Shapes, content: dict[str, Any]) -> None:
        about = _about_of(path, content)
        _check_belongs(path, about, reader, options, model)
        state = {_renamed(name, about.format): shape for name, shape in shapes.items() if name != _TEXT}
        if state and (wrong := flaw_of_shapes(state, reader)) is not None:
            raise UserError(f"not a memory of this model and rule: {wrong}", path, _AGAIN)

    tensors, content = load_tensors(path, reader.device, check=check)
    about = _about_of(path, content)
    _check_content(path, about, tensors)
    unfinished = _unfinished_of(path, about, tensors)
    state = {_renamed(name, about.format): tensor for name, tensor in tensors.items() if name != _TEXT}
    if not state:
        return SavedMemory(reader.fresh_memory())
    if (wrong := flaw(state, reader)) is not None:
        raise UserError(f"a damaged memory: {wrong}", path, _AGAIN)
    memory = from_tensors(state, reader)
    if memory.cache is not None and not memory.cache.is_sound(reader.model.vocab_size):
        raise UserError("a damaged memory: its cache holds impossible values", path, _AGAIN)
    if about.format < FORMAT:
        warn(f"{path}: written by an earlier dynlm (format {about.format}); its constants are not checked")
    return SavedMemory(memory, about.tokens, about.articles, unfinished, about.last)


def _renamed(name: str, version: int) -> str:
    """Return the path in ``Memory`` of a tensor of a file of format ``version``."""
    if version >= FORMAT:
        return name
    if name.startswith("coordinates/"):  # coordinates/NAME/h
        tensor, _, slot = name.removeprefix("coordinates/").rpartition("/")
        return f"rule/slots/{slot}/{tensor}"
    old = next((old for old in _FORMAT_1 if name.startswith(old)), "")
    return _FORMAT_1.get(old, "") + name[len(old) :]


def options_of(path: Path, otherwise: MemoryOptions) -> MemoryOptions:
    """The options that a memory file was read by; ``otherwise``'s for what changes nothing of what is read.

    Raises UserError where the file is missing, damaged or no memory.
    """
    options = _about_of(path, load_metadata(path)).memory_options(path)
    return dataclasses.replace(options, **{name: getattr(otherwise, name) for name in _INDIFFERENT})


def is_memory(told: Mapping[str, Any]) -> bool:
    """Whether a file that tells ``told`` of itself is a memory, whole or damaged."""
    return {"model", "constants", "options"} <= told.keys()


def load_about(path: Path) -> tuple[About, dict[str, Tensor]]:
    """(what a memory file tells of itself, its tensors by the names of this format), without its model.

    Raises UserError as ``load_memory`` does where the file is missing, damaged or no memory.
    """
    tensors, told = load_tensors(path)
    about = _about_of(path, told)
    _check_content(path, about, tensors)
    return about, {_renamed(name, about.format): tensor for name, tensor in tensors.items() if name != _TEXT}


def reset_memory(path: Path) -> About:
    """Forget all that a memory file holds, but not whose it is and how it reads.

    Raises UserError as ``load_about`` and ``changing`` do.
    """
    with changing(path) as path:
        about, _ = load_about(path)
        return _write(path, dataclasses.replace(about, tokens=0, articles=0, unfinished=None, last=""), {})


@contextlib.contextmanager
def changing(path: Path) -> Iterator[Path]:
    """Within the block no other process changes the memory file ``path``; gives the file itself where that is a link.

    Raises UserError where another process still changes it after some seconds.
    """
    # What a link leads to is the memory: it is locked, and replaced, in its own place.
    path = Path(os.path.realpath(path))
    with exclusive(path, "this memory", _SECONDS_TO_WAIT):
        yield path


def constants_of(reader: Reader) -> str:
    """Return a fingerprint of the constants of a reader's rule, cache and mixture."""
    hasher = Hasher()
    _add(hasher, (type(reader.rule).__name__, reader.rule.constants(), reader.cache, reader.mixture))
    return f"{_CONSTANTS_VERSION}{hasher.hexdigest()}"


def _add(hasher: Hasher, value: Any) -> None:
    if isinstance(value, Tensor):
        hasher.add(f"{value.dtype} {tuple(value.shape)}")
        hasher.add(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Rule):
        _add(hasher, value.constants())
    elif dataclasses.is_dataclass(value):
        _add(hasher, {item.name: getattr(value, item.name) for item in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        hasher.add(f"{len(value)} named")
        for name, item in value.items():
            hasher.add(str(name))
            _add(hasher, item)
    elif isinstance(value, tuple):
        hasher.add(f"{len(value)} in order")
        for item in value:
            _add(hasher, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        hasher.add(repr(value))
    else:
        raise TypeError(f"constants of a plug-in have a {type(value).__name__}, which cannot be hashed")


def _write(path: Path, about: About, tensors: dict[str, Tensor]) -> About:
    about = dataclasses.replace(about, content=_content_of(about, tensors))
    save_tensors(Path(os.path.realpath(path)), tensors, dataclasses.asdict(about), private=True)
    return about


def _content_of(about: About, tensors: Mapping[str, Tensor]) -> str:
    told = {**dataclasses.asdict(about), "content": None}
    del told["last"]
    return fingerprint(json.dumps(told, sort_keys=True), params_fingerprint(tensors))


def _about_of(path: Path, told: dict[str, Any]) -> About:
    version = told.get("format")
    if not isinstance(version, int) or not is_memory(told):
        raise UserError("this is no memory", path, "name a file that `dynlm read` wrote")
    if version > FORMAT:
        raise UserError(f"a memory of format {version}, newer than this dynlm reads ({FORMAT})", path, "upgrade dynlm")
    kinds: dict[str, Any] = {
        "model": str,
        "constants": str,
        "options": dict,
        "rule": dict,
        "tokens": int,
        "articles": int,
        "unfinished": (int, type(None)),
        "content": str,
        "last": str,
        "format": int,
    }
    for name, value in told.items():
        if name not in kinds or not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise UserError(f"a damaged memory: {name!r} is not as it should be", path, _AGAIN)
    return About(**told)


def _check_content(path: Path, about: About, tensors: Mapping[str, Tensor]) -> None:
    if _content_of(about, tensors) != about.content:
        raise UserError("a damaged memory: its content is not what was written", path, _AGAIN)


def _check_belongs(path: Path, about: About, reader: Reader, options: MemoryOptions, model: str) -> None:
    if about.model != model:
        raise UserError(
            f"a memory of another model ({printable_mark(about.model)}, not {model})",
            path,
            "read with the run that it belongs to",
        )
    before = about.memory_options(path)
    for item in dataclasses.fields(MemoryOptions):
        was, now = getattr(before, item.name), getattr(options, item.name)
        if was != now and item.name not in _INDIFFERENT:
            raise UserError(
                f"this memory was read with memory.{item.name} {was!r}, not {now!r}",
                path,
                "leave the option out, or begin another memory",
            )
    if about.format == FORMAT and about.constants != constants_of(reader):
        raise UserError(
            "the run has other rates (or phi, or statistics) for this rule than the memory was read with",
            path,
            "begin another memory, or restore the run's memory/",
        )


def printable_mark(mark: str) -> str:
    """A fingerprint from a file, fit to be shown."""
    return "".join(letter for letter in mark[:16] if letter.isalnum() and letter.isascii())


def _unfinished_of(path: Path, about: About, tensors: Mapping[str, Tensor]) -> Unfinished | None:
    if (about.unfinished is None) != (_TEXT not in tensors):
        raise UserError("a damaged memory: half of an unfinished article is missing", path, _AGAIN)
    if about.unfinished is None:
        return None
    try:
        return Unfinished(tensors[_TEXT].cpu().numpy().tobytes().decode(), about.unfinished)
    except UnicodeDecodeError as error:
        raise UserError("a damaged memory: the text of its unfinished article is not UTF-8", path, _AGAIN) from error
