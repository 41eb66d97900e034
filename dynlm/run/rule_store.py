"""What a run keeps for its rules, in ``runs/NAME/memory``: gradient statistics R, tuned constants and learned phi.

``open_dynamic_model`` combines them with the trained model as ``MemoryOptions`` say; ``build_dynamic_model`` takes a
given rule instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.rules.base import Rule
from dynlm.adapt.rules.learned import LearnedRule, readable
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule
from dynlm.adapt.rules.registry import RULES
from dynlm.adapt.rules.statistics import Statistics
from dynlm.adapt.state import dynamic_tensors
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.errors import UserError
from dynlm.models.registry import EngineSettings, engine_for
from dynlm.run.cache_store import open_cache
from dynlm.run.folder import TrainedModel, load_stored, memory_path, read_stored
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.renamed import current_keys, current_options
from dynlm.runtime.tensors import check_shapes, save_tensors
from dynlm.runtime.validation import number_in, section_of
from dynlm.types import Params

_SECONDS_TO_WAIT = 60.0
_STATISTICS = "statistics.safetensors"
_Learned = LearnedRule | LearnedLSTMRule


def save_statistics(folder: Path, statistics: Statistics, trained: TrainedModel, tokens: int) -> None:
    """Write the gradient statistics R, computed on ``tokens`` tokens."""
    about = {"model": trained.fingerprint, "tokens": tokens}
    save_tensors(memory_path(folder, _STATISTICS), statistics.rms, about)


def load_statistics(folder: Path, trained: TrainedModel, device: torch.device | str = "cpu") -> Statistics | None:
    """Load R; None if it was not computed yet. Raises UserError if it is another model's."""
    path = memory_path(folder, _STATISTICS)
    stored = load_stored(path, trained, device)
    if stored is None:
        return None
    for name, tensor in stored[0].items():
        fits = name in trained.params and tensor.shape == trained.params[name].shape
        fits = fits and tensor.dtype == torch.get_default_dtype()
        if not fits or not bool(((tensor >= 0) & (tensor < torch.inf)).all()):
            raise UserError(f"tensor {name} is no statistics of the model's", path, "remove it and run tune again")
    return Statistics(stored[0])


def statistics_card(folder: Path, trained: TrainedModel) -> dict[str, Any] | None:
    """Load how R was computed; None if it was not. Raises UserError if it is another model's."""
    stored = load_stored(memory_path(folder, _STATISTICS), trained)
    return None if stored is None else stored[1]


def drop_statistics(folder: Path) -> None:
    """Remove R, so that it is computed again."""
    memory_path(folder, _STATISTICS).unlink(missing_ok=True)


def save_tuned(folder: Path, rule: str, reset: str, tuned: Mapping[str, Any], trained: TrainedModel) -> None:
    """Write a rule's tuned constants; other processes may write those of other rules at the same time."""
    path = memory_path(folder, "tuned.json")
    with exclusive(path, "the file of tuned rates", _SECONDS_TO_WAIT):
        content = read_json(path) if path.exists() else {}
        if not isinstance(content, dict) or content.get("model") != trained.fingerprint:
            content = {"model": trained.fingerprint}
        before = content.get(rule)
        content[rule] = {**(before if isinstance(before, dict) else {}), reset: dict(tuned)}
        write_json(path, content)


def load_tuned(folder: Path, rule: str, reset: str, trained: TrainedModel) -> dict[str, Any] | None:
    """Load a rule's tuned constants and how they were tuned; None if it was not tuned."""
    path = memory_path(folder, "tuned.json")
    content = read_stored(path, trained) or {}
    tuned = content.get(rule, {})
    tuned = tuned.get(reset) if isinstance(tuned, dict) else tuned
    if tuned is None:
        return None
    if not isinstance(tuned, dict):
        raise UserError(f"what was tuned for {rule} cannot be read", path, "remove it and run tune again")
    for name in RULES[rule].searched.keys() & tuned.keys():
        number_in(tuned, name, path, 0.0)
    return tuned


def carry_over(folder: Path, trained: TrainedModel, target: Path, finetuned: TrainedModel) -> None:
    """Copy R and the tuned constants of the run in ``folder`` to its fine-tuned run in ``target``."""
    statistics, card = load_statistics(folder, trained), statistics_card(folder, trained)
    if statistics is not None and card is not None:
        save_statistics(target, statistics, finetuned, card["tokens"])
    if (tuned := read_stored(memory_path(folder, "tuned.json"), trained)) is not None:
        write_json(memory_path(target, "tuned.json"), {**tuned, "model": finetuned.fingerprint})


def save_learned(
    folder: Path,
    memory: MemoryOptions,
    meta: _Learned,
    phi: Params,
    about: Mapping[str, Any],
    trained: TrainedModel,
) -> None:
    """Write phi under the name ``memory.g``, as tensors and, readable, as JSON."""
    about = {"model": trained.fingerprint, "tensors": meta.names, **about}
    save_tensors(_learned_path(folder, memory.g, memory.reset), phi, about)
    write_json(memory_path(folder, f"{memory.g}-{memory.reset}.json"), {**about, "phi": readable(phi, meta)})


def load_learned(folder: Path, name: str, reset: str, trained: TrainedModel) -> tuple[Params, dict[str, Any]] | None:
    """Load (phi, how it was learned); None if it was not learned yet."""
    stored = load_stored(_learned_path(folder, name, reset), trained, trained.device)
    return None if stored is None else (current_keys(stored[0]), stored[1])


def learned_names(folder: Path, reset: str, trained: TrainedModel) -> list[str]:
    """Return the names of the rules that the run has learned under a reset policy. Raises UserError."""
    ending = f"-{reset}.safetensors"
    names = sorted(path.name.removesuffix(ending) for path in (folder / "memory").glob(f"*{ending}"))
    found = {name: load_learned(folder, name, reset, trained) for name in names}
    return [name for name, learned in found.items() if learned is not None and "g" in learned[1]]


def _learned_path(folder: Path, name: str, reset: str) -> Path:
    return memory_path(folder, f"{name}-{reset}.safetensors")


def meta_of(g: LearnedRuleOptions, tuned: Mapping[str, Any], statistics: Statistics, trained: TrainedModel) -> _Learned:
    """Return the learned rule g by its options, started at the ``tuned`` rms rule."""
    own = {name: trained.params[name] for name in statistics.rms}
    if g.kind == "lstm":
        return LearnedLSTMRule(statistics, own, tuned["lr"], tuned["decay"], tuned["epsilon"], g.hidden)
    return LearnedRule(
        statistics,
        own,
        tuned["lr"],
        tuned["decay"],
        tuned["epsilon"],
        g.level,
        g.sharing,
        g.importance,
        tuple(g.features),
        g.boundary_reset,
        g.slow_rate,
        g.momentum,
        g.slow,
        trained.model.output_tensor(own),
    )


def _meta_learned(about: Mapping[str, Any], statistics: Statistics, trained: TrainedModel, path: Path) -> _Learned:
    """Return g as a file describes it. Raises UserError if the description is damaged."""
    names, start = about.get("tensors"), about.get("start")
    if not isinstance(names, list) or not isinstance(start, dict) or not names:
        raise UserError("it does not say how it was learned", path, "run metatrain again")
    for name in RULES["rms"].searched:
        number_in(start, name, path, 1e-12 if name == "epsilon" else 0.0)
    try:
        g = section_of(LearnedRuleOptions, current_options("g", about.get("g")))
    except UserError as error:
        raise UserError(f"it does not say how it was learned ({error})", path, "run metatrain again") from error
    return meta_of(g, start, _of_these(statistics, names, path), trained)


def check_phi(phi: Params, meta: _Learned, path: Path) -> None:
    """Raise UserError unless ``phi`` is finite and has the shapes that g needs."""
    wanted = {name: tuple(tensor.shape) for name, tensor in meta.initial().items()}
    check_shapes({name: tuple(tensor.shape) for name, tensor in phi.items()}, wanted, path)
    for name, tensor in phi.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise UserError(f"{name} of phi is not finite", path, "run metatrain again")


def _of_these(statistics: Statistics, names: Sequence[Any], where: Path) -> Statistics:
    for name in names:
        if not isinstance(name, str) or name not in statistics.rms:
            raise UserError(f"there are no gradient statistics of tensor {name!r}", where, "run tune again")
    return Statistics({name: statistics.rms[name] for name in names})


def open_meta(folder: Path, trained: TrainedModel, memory: MemoryOptions) -> tuple[_Learned, Params]:
    """Return the learned rule that ``memory`` names, and its phi. Raises UserError if it was not learned."""
    learned = load_learned(folder, memory.g, memory.reset, trained)
    statistics = load_statistics(folder, trained, trained.device)
    if learned is None or statistics is None:
        named = "" if memory.g == "meta" else f" --memory.g {memory.g}"
        raise UserError(
            f"no learned memory {memory.g!r} for reset {memory.reset!r}",
            folder,
            f"run `dynlm metatrain {folder} --memory.reset {memory.reset}{named}` first",
        )
    path = _learned_path(folder, memory.g, memory.reset)
    phi, meta = learned[0], _meta_learned(learned[1], statistics, trained, path)
    check_phi(phi, meta, path)
    return meta, phi


def open_dynamic_model(folder: Path, trained: TrainedModel, memory: MemoryOptions) -> DynamicModel:
    """Return the model that ``memory`` adapts, with tuned or learned constants for those that the options leave unset.

    ``memory.no_regret`` has no effect on static weights without a cache: they are level 1. Raises UserError if
    constants are neither given nor tuned, or statistics, phi or the cache are missing.
    """
    dynamic = dynamic_tensors(trained.model, memory.dynamic)
    dynamic_model = build_dynamic_model(trained, memory, _open_rule(folder, trained, memory, dynamic), dynamic)
    dynamic_model = dataclasses.replace(dynamic_model, cache=open_cache(folder, trained, memory))
    if memory.no_regret and (dynamic_model.rule.learns or dynamic_model.cache is not None):
        dynamic_model = dataclasses.replace(dynamic_model, mixture=FixedShareMixture(memory.switch_share))
    return dynamic_model


def build_dynamic_model(
    trained: TrainedModel, memory: MemoryOptions, rule: Rule, dynamic: tuple[str, ...]
) -> DynamicModel:
    """Return the model that ``rule`` adapts by ``memory``'s other options, without cache and mixture.

    Raises UserError if native kernels are requested and not available.
    """
    precision = None if memory.precision == "float32" else getattr(torch, memory.precision)
    settings = EngineSettings(precision, memory.kernels == "native", memory.capture and trained.device.type == "cuda")
    if settings.native and trained.device.type != "cpu":
        raise UserError("memory.kernels is 'native', which is for a CPU", do="choose --memory.kernels torch")
    filter_ = None
    if memory.update_filter and rule.learns:
        filter_ = UpdateFilter.for_model(trained.params, dynamic, trained.model.vocab_size, memory.track)
    return DynamicModel(
        engine_for(trained.model, settings), trained.params, rule, dynamic, memory.reset, filter=filter_
    )


def _tune_command(folder: Path, memory: MemoryOptions) -> str:
    return f"dynlm tune {folder} --memory.rule {memory.rule} --memory.reset {memory.reset}"


def _open_rule(folder: Path, trained: TrainedModel, memory: MemoryOptions, dynamic: tuple[str, ...]) -> Rule:
    kind = RULES[memory.rule]
    if kind.build is None:
        for option in RULES[str(kind.starts_from)].searched:
            if getattr(memory, option, None) is not None:
                raise UserError(f"memory.{option} does not go with memory.rule {memory.rule}, whose rates are learned")
        meta, phi = open_meta(folder, trained, memory)
        return meta.rule(phi, memory.g).of(dynamic)
    tuned = load_tuned(folder, memory.rule, memory.reset, trained) or {}
    constants = kind.constants(memory)
    for option, given in constants.items():
        if given is not None or option not in kind.searched:
            continue
        constants[option] = tuned.get(option)
        if constants[option] is None:
            raise UserError(
                f"{memory.rule} has no memory.{option} and was not tuned for reset {memory.reset!r}",
                folder,
                f"give --memory.{option} or run `{_tune_command(folder, memory)}` first",
            )
    statistics = None
    if kind.needs_statistics:
        statistics = load_statistics(folder, trained, trained.device)
        if statistics is None:
            raise UserError("no gradient statistics yet", folder, f"run `{_tune_command(folder, memory)}` first")
        statistics = _of_these(statistics, dynamic, memory_path(folder, _STATISTICS))
    return kind.build(dynamic, constants, statistics)
