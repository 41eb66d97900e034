"""A memory for a model of ``transformers`` that is in memory already: what a ``Run`` is to a folder.

The model's weights are shared, detached; neither the module nor its tokenizer is changed.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import gradient_statistics
from dynlm.adapt.options import RESETS, MemoryOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import RULES
from dynlm.data.options import TokenizerOptions
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.pretrained import PretrainedTokenizer
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.run.folder import TrainedModel, read_options
from dynlm.run.memory_store import Card, MemoryStore, given_constants
from dynlm.run.opening import build_dynamic_model, dynamic_model_of
from dynlm.run.options import RunOptions
from dynlm.runtime.tensors import load_metadata, params_fingerprint
from dynlm.runtime.validation import section_of
from dynlm.types import Params

CONTEXT, SEGMENT, RANK = 1024, 128, 8
"""Defaults: tokens attended to (fewer if the model has fewer positions) and read between updates, and LoRA's rank."""
ADAM_LR = {"low-rank factors": 1e-3, "weights": 1e-4}
"""Default learning rates of Adam, which helped SmolLM2-135M on documentation (docs/transformers.md)."""
_WINDOW = ("context", "stride", "refresh", "attention")
_Texts = str | PathLike[str] | Iterable[str] | None


class Wanted(NamedTuple):
    """The arguments of ``dynlm.attach``; None for a default."""

    rule: str | PathLike[str]
    targets: str | Sequence[str] | None
    rank: int | None
    statistics: _Texts
    options: Mapping[str, Any]
    """Further options of the memory and of the window, and ``seed``."""

    @property
    def is_learned(self) -> bool:
        """Whether the rule is named by a file."""
        return isinstance(self.rule, PathLike) or str(self.rule).endswith(".safetensors")


@dataclass(frozen=True, eq=False)
class AttachedModel:
    """A model in memory, without factors (``base``), and the options of its memory.

    ``seed`` draws the factors. Statistics of gradients are computed on ``texts`` or, like constants and learned rules,
    loaded from the run in ``folder``.
    """

    base: TrainedModel
    memory: MemoryOptions
    seed: int = 0
    folder: Path | None = None
    texts: tuple[str, ...] = ()

    @functools.cached_property
    def trained(self) -> TrainedModel:
        """The model with its static parameters, factors that the memory moves included, and its tokenizer."""
        return self.base.with_targets(self.memory.targets_of(self.seed))

    def with_memory(self, options: MemoryOptions) -> AttachedModel:
        """Return the model with other options of the memory."""
        return dataclasses.replace(self, memory=options)

    def dynamic_model(self) -> DynamicModel:
        """Return the model that adapts while it reads. Raises UserError for constants that are not known."""
        if self.folder is not None:
            return dynamic_model_of(MemoryStore(self.folder, self.trained), self.memory)
        _check_constants(self.memory, bool(self.texts))
        needed = RULES[self.memory.rule].needs_statistics
        statistics = _statistics_of(self.trained, self.memory, self.texts) if needed else None
        return dynamic_model_of(_WithoutFiles(Path(), self.trained, statistics), self.memory)


@dataclass(frozen=True)
class _WithoutFiles(MemoryStore):
    """What a model that belongs to no run has in place of a run's files: at most statistics."""

    statistics: Statistics | None

    def load_statistics(self) -> tuple[Statistics, Card] | None:
        return None if self.statistics is None else (self.statistics, {})

    def _load(self, name: str) -> tuple[Params, Card] | None:
        return None

    def _read(self, name: str) -> Card | None:
        return None


def attach_memory(module: Any, tokenizer: Any, wanted: Wanted) -> AttachedModel:
    """Return the model ``module`` with the memory that is ``wanted``.

    Raises UserError for a module or a tokenizer that cannot be used, and for options that are unknown or do not fit.
    """
    from dynlm.models.hf.load import describe_loaded

    files = [Path(wanted.rule)] if wanted.is_learned else []
    texts: tuple[str, ...] = ()
    if isinstance(wanted.statistics, str | PathLike):
        files.append(Path(wanted.statistics))
    elif wanted.statistics is not None:
        texts = _checked(wanted.statistics)
    of_run = [_KeptInRun.of(path) for path in files]
    if len({kept.folder for kept in of_run}) > 1:
        raise UserError("the rule and the statistics belong to two runs", do="leave out the statistics")
    kept = of_run[0] if of_run else None
    if kept is not None and texts:
        raise UserError("the rule has statistics in its run", do="leave out the texts")
    found = describe_loaded(module, tokenizer)
    options = dict(wanted.options)
    seed = options.pop("seed", 0 if kept is None else kept.seed)
    window = {} if kept is None else kept.window
    window |= {name: options.pop(name) for name in _WINDOW if name in options}
    text_config = module.config.get_text_config(decoder=True)
    window = _window_of(window, getattr(text_config, "max_position_embeddings", None))
    memory = _memory_of(wanted, options, kept, window["stride"])
    kind = str(next(iter(found.params.values())).dtype).removeprefix("torch.")
    own = {"kind": "hf", "architecture": found.architecture, "dtype": kind, **window}
    trained = _trained(module, section_of(ModelOptions, own), found)
    attached = AttachedModel(trained, memory, seed, None if kept is None else kept.folder, texts)
    for each in of_run:
        each.check(attached)
    return attached


def change_options(memory: MemoryOptions, changes: Mapping[str, Any], others: Iterable[str] = ()) -> MemoryOptions:
    """Return ``memory`` with ``changes``; a rule of another kind keeps what is an option of its own too.

    Raises UserError for an unknown option; ``others`` are names that the message offers beside those of the memory.
    """
    kind = MemoryOptions.select({**vars(memory), **changes})
    known = {item.name for item in dataclasses.fields(kind)}
    if unknown := [name for name in changes if name not in known]:
        do = f"choose among {', '.join(sorted({*known, *others}))}"
        raise UserError(f"the memory has no option {unknown[0]!r}", do=do)
    kept = {name: value for name, value in vars(memory).items() if name in known and value is not None}
    return section_of(MemoryOptions, {**kept, **changes})


class _KeptInRun(NamedTuple):
    """A file in the ``memory/`` of a run, and that run's options."""

    path: Path
    folder: Path
    content: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> _KeptInRun:
        """Find the run that a file belongs to. Raises UserError if there is no such file, or no run around it."""
        if not path.is_file():
            raise UserError("no such file", path, "name one that `dynlm metatrain` or `dynlm tune` wrote")
        for parent in path.parents:
            if parent.name == "memory":
                return cls(path, parent.parent, read_options(parent.parent, "dynlm adopt"))
        raise UserError("this file is not in the memory/ of a run", path, "leave it in its run, whose files it needs")

    @property
    def seed(self) -> int:
        return section_of(RunOptions, self.content.get("run", {})).seed

    @property
    def window(self) -> dict[str, Any]:
        """The options of the run's window, if its model is a transformer."""
        own = section_of(ModelOptions, self.content.get("model", {}))
        return {name: getattr(own, name) for name in _WINDOW if hasattr(own, name)}

    @property
    def memory(self) -> MemoryOptions:
        """The run's options of the memory, with the rank that the file's folder is named by."""
        ranks = [re.fullmatch(r"lora(\d+)-\w+", part) for part in self.path.parts]
        rank = next((int(match[1]) for match in ranks if match), 0)
        return change_options(section_of(MemoryOptions, self.content.get("memory", {})), {"lora_rank": rank})

    def of_rule(self) -> dict[str, Any]:
        """Return the options of the learned rule in this file. Raises UserError if its name is not that of one."""
        name, _, reset = self.path.stem.rpartition("-")
        if reset not in RESETS or not name or name.startswith(("cache-", "gated-cache-")):
            raise UserError("not the file of a learned rule", self.path, "name memory/NAME-RESET.safetensors of a run")
        segment = load_metadata(self.path).get("segment")
        return {"rule": "meta", "g": name, "reset": reset} | ({"segment": segment} if segment else {})

    def check(self, attached: AttachedModel) -> None:
        """Raise UserError unless the run keeps this file for what moves in ``attached``."""
        if MemoryStore(self.folder, attached.trained).path(self.path.name) != self.path:
            what = f"other targets move in this model ({attached.trained.model.label or 'weights of its own'})"
            raise UserError(what, self.path, "give targets, rank and the lora options that it was made with")


def _window_of(given: dict[str, Any], positions: int | None) -> dict[str, Any]:
    """Return the options of the window, with defaults. Raises UserError for more context than ``positions``."""
    context = given.get("context", min(CONTEXT, positions or CONTEXT))
    if positions is not None and isinstance(context, int) and context > positions:
        raise UserError(f"context is {context}, and the model has {positions} positions", do="choose at most as many")
    return {"context": context, "stride": max(1, context // 2) if isinstance(context, int) else context, **given}


def _memory_of(wanted: Wanted, options: dict[str, Any], kept: _KeptInRun | None, stride: int) -> MemoryOptions:
    """Return the options of the memory, by default those of the run or the measured ones."""
    for name, instead in (("lora_rank", "rank"), ("targets", "targets"), ("rule", "rule")):
        if name in options:
            raise UserError(f"attach has no option {name!r}", do=f"give {instead}")
    changes: dict[str, Any] = {"rule": wanted.rule}
    if wanted.targets is not None:
        changes["targets"] = [wanted.targets] if isinstance(wanted.targets, str) else list(wanted.targets)
    if kept is None:
        rank = RANK if wanted.rank is None else wanted.rank
        changes |= {"lora_rank": rank, "segment": min(SEGMENT, stride)}
        if rank:
            changes["lora_alpha"] = 2.0 * rank
        if wanted.rule == "adam":
            changes["lr"] = ADAM_LR["low-rank factors" if rank else "weights"]
        return change_options(StepOptions(), {**changes, **options}, [*_WINDOW, "seed"])
    base = kept.memory
    if wanted.rank is not None:
        changes["lora_rank"] = wanted.rank
    if wanted.is_learned:
        # Without the constants of the rule that the run was made with.
        shared = {item.name: getattr(base, item.name) for item in dataclasses.fields(MemoryOptions)}
        base, changes = StepOptions(), {**shared, **changes, **kept.of_rule()}
    return change_options(base, {**changes, **options}, [*_WINDOW, "seed"])


def _trained(module: Any, options: Any, found: Any) -> TrainedModel:
    """Return the model of a module; ``found`` is its ``Pretrained``."""
    from dynlm.models.hf.model import HFModel

    tokens = TokenizerOptions(kind="pretrained", vocab_size=found.vocab_size)
    # A copy: reading sets options of the tokenizer, as its owner may too.
    tokenizer = PretrainedTokenizer(tokens, copy.deepcopy(found.tokenizer), found.start)
    card = {
        "class": type(module).__name__,
        "adopted_from": module.config._name_or_path or None,
        "revision": getattr(module.config, "_commit_hash", None),
        "parameters": sum(tensor.numel() for tensor in found.params.values()),
        "fingerprint": params_fingerprint(found.params),
    }
    return TrainedModel(HFModel.of(module, options), found.params, tokenizer, card)


def _check_constants(memory: MemoryOptions, has_texts: bool) -> None:
    """Raise UserError where a rule or a cache needs what only a run has, or what was not given."""
    kind = RULES[memory.rule]
    if kind.learned:
        what = f"rule {memory.rule!r} is learned, and needs the file of what was learned"
        raise UserError(what, do="give its path, such as rule='runs/NAME/memory/meta-stream.safetensors'")
    if kind.needs_statistics and not has_texts:
        what = f"rule {memory.rule!r} needs statistics of gradients"
        raise UserError(what, do="give statistics=TEXTS, which are not read later, or the statistics file of a run")
    missing = [name for name, value in kind.constants(memory).items() if name in kind.searched and value is None]
    if missing:
        do = f"give {'=, '.join(missing)}=, or the statistics file of a run where `dynlm tune` found them"
        raise UserError(f"rule {memory.rule!r} has no {' and no '.join(missing)}", do=do)
    if memory.cache == "learned":
        raise UserError("the gate of cache 'learned' belongs to a run", do="choose cache='fixed'")
    if memory.cache == "fixed" and None in (constants := given_constants(memory)).values():
        absent = [f"cache_{name}" for name, value in constants.items() if value is None]
        raise UserError(f"cache 'fixed' has no {' and no '.join(absent)}", do=f"give {'=, '.join(absent)}=")


def _checked(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts for statistics. Raises UserError if they are none."""
    found = tuple(texts)
    if not found or not all(isinstance(text, str) and text for text in found):
        raise UserError("statistics are computed on texts, each with at least one character", do="give some as a list")
    return found


def _statistics_of(trained: TrainedModel, memory: MemoryOptions, texts: tuple[str, ...]) -> Statistics:
    """Return R of the tensors that move, over ``texts``, in float32."""
    names = trained.model.dynamic_tensors(memory.targets)
    params = {**trained.params, **{name: trained.params[name].float() for name in names}}
    static = build_dynamic_model(dataclasses.replace(trained, params=params), memory, LEVEL_1)
    split = TokenisedSplit.from_texts(texts, trained.tokenizer)
    stream = read_in_order(split, memory.segment, list(range(len(texts))))
    return gradient_statistics(static, stream, len(split.ids_N))
