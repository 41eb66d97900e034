"""A memory for a model of ``transformers`` that is in memory already: what a ``Run`` is to a folder.

The model's weights are shared, detached; neither the module nor its tokenizer is changed.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import RESETS, MemoryOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import RULES, SEGMENTS, StatisticsKind
from dynlm.adapt.statistics import batch_statistics, gradient_statistics
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.models.protocol import SequenceModel
from dynlm.run.folder import TrainedModel, read_options
from dynlm.run.memory_store import Card, MemoryStore
from dynlm.run.opening import build_dynamic_model, dynamic_model_of
from dynlm.run.options import RunOptions
from dynlm.run.pretrained import default_segment, default_window, dtype_of, find_missing, trained_model
from dynlm.runtime.tensors import load_metadata
from dynlm.runtime.validation import section_of
from dynlm.types import Params

if TYPE_CHECKING:
    from dynlm.models.hf.load import Pretrained

RANK = 8
"""Default rank of LoRA."""
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
        kind = RULES[self.memory.rule].statistics_for(self.memory)
        statistics = _statistics_of(self.trained, self.memory, self.texts, kind) if kind is not None else None
        return dynamic_model_of(_WithoutFiles(Path(), self.trained, statistics), self.memory)


@dataclass(frozen=True)
class _WithoutFiles(MemoryStore):
    """What a model that belongs to no run has in place of a run's files: at most statistics."""

    statistics: Statistics | None

    def load_statistics(self, kind: StatisticsKind = SEGMENTS) -> tuple[Statistics, Card] | None:
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
    model = _model_of(module, found, window)
    memory = _memory_of(wanted, options, kept, default_segment(model))
    about = {
        "class": type(module).__name__,
        "adopted_from": module.config._name_or_path or None,
        "revision": getattr(module.config, "_commit_hash", None),
    }
    trained = trained_model(found, model, about)
    attached = AttachedModel(trained, memory, seed, None if kept is None else kept.folder, texts)
    for each in of_run:
        each.check(attached)
    return attached


def _model_of(module: Any, found: Pretrained, window: Mapping[str, Any]) -> SequenceModel:
    """Return the model of a module that ``found`` describes, with defaults for what ``window`` lacks."""
    from dynlm.models.hf.model import HFModel

    window = {**default_window(window.get("context"), found.positions), **window}
    own = {"kind": "hf", "architecture": found.architecture, "dtype": dtype_of(found), **window}
    options: Any = section_of(ModelOptions, own)
    return HFModel.of(module, options)


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
        return section_of(MemoryOptions, self.content.get("memory", {})).replace(lora_rank=rank)

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


def _memory_of(wanted: Wanted, options: dict[str, Any], kept: _KeptInRun | None, segment: int) -> MemoryOptions:
    """Return the options of the memory, by default those of the run or the measured ones and ``segment``."""
    for name, instead in (("lora_rank", "rank"), ("targets", "targets"), ("rule", "rule")):
        if name in options:
            raise UserError(f"attach has no option {name!r}", do=f"give {instead}")
    changes: dict[str, Any] = {"rule": wanted.rule}
    if wanted.targets is not None:
        changes["targets"] = [wanted.targets] if isinstance(wanted.targets, str) else list(wanted.targets)
    if kept is None:
        rank = RANK if wanted.rank is None else wanted.rank
        changes |= {"lora_rank": rank, "segment": segment}
        if rank:
            changes["lora_alpha"] = 2.0 * rank
        if wanted.rule == "adam":
            changes["lr"] = ADAM_LR["low-rank factors" if rank else "weights"]
        return StepOptions().with_options({**changes, **options}, [*_WINDOW, "seed"])
    base = kept.memory
    if wanted.rank is not None:
        changes["lora_rank"] = wanted.rank
    if wanted.is_learned:
        # Without the constants of the rule that the run was made with.
        shared = {item.name: getattr(base, item.name) for item in dataclasses.fields(MemoryOptions)}
        base, changes = StepOptions(), {**shared, **changes, **kept.of_rule()}
    return base.with_options({**changes, **options}, [*_WINDOW, "seed"])


def _check_constants(memory: MemoryOptions, has_texts: bool) -> None:
    """Raise UserError where a rule or a cache needs what only a run has, or what was not given."""
    if (missing := find_missing(memory, has_texts)) is None:
        return
    given = f"give {'=, '.join(missing.names)}="
    do = {
        "learned": "give the path of its file, such as rule='runs/NAME/memory/meta-stream.safetensors'",
        "statistics": "give statistics=TEXTS, which are not read later, or the statistics file of a run",
        "constants": f"{given}, or the statistics file of a run where `dynlm tune` found them",
        "cache": given,
        "gate": "choose cache='fixed'",
    }
    raise UserError(missing.what, do=do[missing.kind])


def _checked(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts for statistics. Raises UserError if they are none."""
    found = tuple(texts)
    if not found or not all(isinstance(text, str) and text for text in found):
        raise UserError("statistics are computed on texts, each with at least one character", do="give some as a list")
    return found


def _statistics_of(
    trained: TrainedModel, memory: MemoryOptions, texts: tuple[str, ...], kind: StatisticsKind
) -> Statistics:
    """Return R of the tensors that move, over ``texts``, in float32."""
    names = trained.model.dynamic_tensors(memory.targets)
    params = {**trained.params, **{name: trained.params[name].float() for name in names}}
    static = build_dynamic_model(dataclasses.replace(trained, params=params), memory, LEVEL_1)
    split = TokenisedSplit.from_texts(texts, trained.tokenizer)
    if kind.segment is not None:
        return batch_statistics(static, split, kind, len(split.ids_N))
    stream = read_in_order(split, memory.segment, list(range(len(texts))))
    return gradient_statistics(static, stream, len(split.ids_N))
