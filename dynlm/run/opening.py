"""Models that adapt while they read, built from a trained model, ``MemoryOptions`` and what a run keeps for them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.held_updates import holding_rule
from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.partners.replay import Replay
from dynlm.adapt.rules.base import Rule, Statistics
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.moments import EPSILON, Moments
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule, PerWeightLSTMRule
from dynlm.adapt.rules.registry import RULES, SEGMENTS, StatisticsKind
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.errors import UserError
from dynlm.models.registry import EngineSettings, engine_for
from dynlm.run.folder import TrainedModel
from dynlm.run.memory_store import AnyLearnedRule, MemoryStore
from dynlm.runtime.renamed import current_options
from dynlm.runtime.tensors import check_shapes
from dynlm.runtime.validation import number_in, section_of
from dynlm.types import Params

_OF_LEARNED = ("decay_step", "replay_rate")
"""Options that may take the place of a learned rule's own."""
StatisticsOf = Callable[[], Statistics]
"""Returns R, over the tensors that move at least; called only for rules that need it."""


def open_dynamic_model(folder: Path, trained: TrainedModel, memory: MemoryOptions) -> DynamicModel:
    """Return the model that ``memory`` adapts, with tuned or learned constants for those that the options leave unset.

    ``memory.no_regret`` has no effect on static weights without a cache: they are level 1. Raises UserError if
    constants are neither given nor tuned, or statistics, phi or the cache are missing.
    """
    return dynamic_model_of(MemoryStore(folder, trained), memory)


def dynamic_model_of(store: MemoryStore, memory: MemoryOptions) -> DynamicModel:
    """Return the model that ``memory`` adapts, with what ``store`` keeps; see ``open_dynamic_model``."""
    dynamic_model = build_dynamic_model(store.trained, memory, _open_rule(store, memory))
    dynamic_model = dataclasses.replace(dynamic_model, cache=open_cache(store, memory))
    if memory.no_regret and not dynamic_model.is_static:
        dynamic_model = dataclasses.replace(dynamic_model, mixture=FixedShareMixture(memory.switch_share))
    return dynamic_model


def build_dynamic_model(trained: TrainedModel, memory: MemoryOptions, rule: Rule) -> DynamicModel:
    """Return the model that ``rule`` adapts by ``memory``'s other options, without cache and mixture.

    Raises UserError if native kernels are requested and not available.
    """
    precision = None if memory.precision == "float32" else getattr(torch, memory.precision)
    settings = EngineSettings(precision, memory.kernels == "native", memory.capture and trained.device.type == "cuda")
    if settings.native and trained.device.type != "cpu":
        raise UserError("memory.kernels is 'native', which is for a CPU", do="choose --memory.kernels torch")
    dynamic, engine, filter_ = trained.model.dynamic_tensors(memory.targets), engine_for(trained.model, settings), None
    replay = Replay.of(rule, trained.model, memory.segment)
    rule = holding_rule(rule, trained.model, memory)
    # What moves is float32, whatever the type of the others: half precision would round small updates away.
    moving = {name: trained.params[name].float() for name in dynamic if trained.params[name].itemsize == 2}
    static = {**trained.params, **moving} if rule.learns else trained.params
    if memory.update_filter and rule.learns:
        filter_ = UpdateFilter.for_model(static, dynamic, trained.model.vocab_size)
    return DynamicModel(engine, static, rule, dynamic, memory.reset, filter=filter_, replay=replay)


def meta_of(
    g: LearnedRuleOptions, tuned: Mapping[str, Any], trained: TrainedModel, names: Sequence[str], find: StatisticsOf
) -> AnyLearnedRule:
    """Return the learned rule g of the tensors ``names`` by its options, started at the ``tuned`` rule ``g.base``.

    ``find`` is called where g needs statistics.
    """
    statistics = find().of(names) if g.needs_statistics else Statistics({})
    own = {name: trained.params[name] for name in names}
    moments = Moments(tuned["beta1"], tuned["beta2"]) if g.base == "adam" else None
    lr, decay, epsilon = tuned["lr"], tuned["decay"], EPSILON if moments else tuned["epsilon"]
    if g.kind == "lstm":
        return LearnedLSTMRule(statistics, own, lr, decay, epsilon, g)
    measured, kinds = trained.model.output_tensor(own), trained.model.tensor_kinds(own)
    return LearnedRule(statistics, own, lr, decay, epsilon, g, measured, kinds, moments)


def open_meta(store: MemoryStore, memory: MemoryOptions) -> tuple[AnyLearnedRule, Params]:
    """Return the learned rule that ``memory`` names, and its phi. Raises UserError if it was not learned."""
    if (learned := store.load_learned(memory.g, memory.reset)) is None:
        do = f"run `{command('metatrain', store.folder, memory.replace(cache='none'))}` first"
        raise UserError(f"no learned memory {memory.g!r} for reset {memory.reset!r}", store.folder, do)
    path, names = store.path(f"{memory.g}-{memory.reset}.safetensors"), learned[1].get("tensors")
    if not isinstance(names, list) or not names:
        raise UserError("it does not say how it was learned", path, "run metatrain again")
    if unknown := [name for name in names if not isinstance(name, str) or name not in store.trained.params]:
        raise UserError(f"the model has no tensor {unknown[0]!r}", path, "run metatrain again")
    find = functools.partial(_statistics_of, store, names, SEGMENTS, "run metatrain again")
    return _fit(learned, names, find, store.trained, path)


def take_meta(
    store: MemoryStore, memory: MemoryOptions, run: Path, find: StatisticsOf
) -> tuple[AnyLearnedRule, Params, Mapping[str, Any]]:
    """Return the rule that another run, in the folder ``run``, learned as ``memory`` names it, its phi and its card.

    Its options and the constants that it started from come with it; statistics and static parameters are those of this
    model. Raises UserError if it was not learned, was learned on other segments, or does not fit this model.
    """
    phi, card, path = store.load_learned_by(run, memory.g, memory.reset)
    if card.get("segment") != memory.segment:
        what = f"it was learned on segments of {card.get('segment')!r} tokens, memory.segment is {memory.segment}"
        raise UserError(what, path, "choose the same segment")
    names = store.trained.model.dynamic_tensors(memory.targets)
    return *_fit((phi, card), names, find, store.trained, path), card


def _fit(
    learned: tuple[Params, Mapping[str, Any]],
    names: Sequence[str],
    find: StatisticsOf,
    trained: TrainedModel,
    path: Path,
) -> tuple[AnyLearnedRule, Params]:
    """Return g as its card describes it, and its phi with the rows of this model's tensors ``names``.

    Raises UserError, naming the file ``path``, where it cannot be read or does not fit the model.
    """
    (phi, card), start = learned, learned[1].get("start")
    if not isinstance(start, dict):
        raise UserError("it does not say how it was learned", path, "run metatrain again")
    try:
        g = section_of(LearnedRuleOptions, current_options("g", card.get("g")))
    except UserError as error:
        raise UserError(f"it does not say how it was learned ({error})", path, "run metatrain again") from error
    kind = RULES[g.base]
    for item in dataclasses.fields(kind.options):
        if item.name in kind.constants(kind.options(rule=g.base)):
            number_in(start, item.name, path, *item.metadata["bounds"])
    meta = meta_of(g, start, trained, names, find)
    wanted = {name: tuple(tensor.shape) for name, tensor in meta.initial().items()}
    if isinstance(meta, LearnedRule):
        rows = _rows(meta, card, path)
        wanted = {name: shape if "/" in name else (len(rows), *shape[1:]) for name, shape in wanted.items()}
    check_shapes({name: tuple(tensor.shape) for name, tensor in phi.items()}, wanted, path)
    for name, tensor in phi.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise UserError(f"{name} of phi is not finite", path, "run metatrain again")
    return meta, meta.select_rows(phi, rows) if isinstance(meta, LearnedRule) else phi


def _rows(meta: LearnedRule, card: Mapping[str, Any], path: Path) -> list[str]:
    """Return what each row of the tables of a phi is of, as its card says; all that ``meta`` needs are among them."""
    rows = card.get("kinds" if meta.g.sharing == "kind" else "tensors")
    if not isinstance(rows, list) or not all(isinstance(row, str) for row in rows):
        raise UserError("it does not say how it was learned", path, "run metatrain again")
    if missing := [row for row in meta.row_names if row not in rows]:
        what = f"g learned nothing for {missing[0]}, which this model has"
        raise UserError(what, path, "learn one on this model by `dynlm metatrain`, or name fewer memory.targets")
    return rows


def _statistics_of(store: MemoryStore, names: Sequence[str], kind: StatisticsKind, do: str) -> Statistics:
    """Return R of the tensors ``names``. Raises UserError, with what to ``do``, where the run has none."""
    if (stored := store.load_statistics(kind)) is None:
        raise UserError(f"no {kind} yet", store.folder, do)
    for name in names:
        if name not in stored[0].rms:
            where = store.path(f"{kind.name}.safetensors")
            raise UserError(f"there are no gradient statistics of tensor {name!r}", where, "run tune again")
    return stored[0].of(names)


def _open_rule(store: MemoryStore, memory: MemoryOptions) -> Rule:
    kind, dynamic = RULES[memory.rule], store.trained.model.dynamic_tensors(memory.targets)
    if kind.build is None:
        for option in ("lr", "decay", "epsilon"):
            if getattr(memory, option, None) is not None:
                raise UserError(f"memory.{option} does not go with memory.rule {memory.rule}, whose rates are learned")
        given = {name: value for name in _OF_LEARNED if (value := getattr(memory, name, None)) is not None}
        meta, phi = open_meta(store, memory)
        return _with_options(meta.rule(phi, memory.g).of(dynamic), given)
    tuned, constants = store.tuned_for(memory.rule, memory) or {}, kind.constants(memory)
    do = f"run `{command('tune', store.folder, memory.replace(cache='none'))}` first"
    for option in kind.searched:
        if constants[option] is None:
            constants[option] = tuned.get(option)
            _check_tuned_beside(tuned, constants, option, kind.searched)
        if constants[option] is None:
            what = f"{memory.rule} has no memory.{option} and was not tuned for reset {memory.policy!r}"
            raise UserError(what, store.folder, f"give --memory.{option} or {do}")
    if (needed := kind.statistics_for(memory)) is None:
        return kind.build(dynamic, constants, None)
    if needed.segment is not None and tuned.get("segment", memory.segment) != memory.segment:
        do = f"choose --memory.segment {tuned['segment']}, which it was tuned with, or {do}"
    return kind.build(dynamic, constants, _statistics_of(store, dynamic, needed, do))


def _with_options(rule: Rule, given: Mapping[str, float]) -> Rule:
    """Return a learned rule with the options of ``_OF_LEARNED`` that are given in place of its own."""
    if not given:
        return rule
    (name, value), *_ = given.items()
    if isinstance(rule, PerWeightLSTMRule) or not isinstance(rule, ElementwiseRule):
        raise UserError(f"memory.{name} is {value}, and this g is of g.kind lstm", do="leave it out")
    if "decay_step" in given and not any(rates.decay for rates in rule.rates.values()):
        what = f"memory.decay_step is {given['decay_step']}, and this g has no decays"
        raise UserError(what, do="leave it out, or name one of g.level 3 (memory.g)")
    if given.get("replay_rate") and (rule.moments is not None or rule.momentum):
        what = f"memory.replay_rate is {given['replay_rate']}, and this g has running means of gradients"
        raise UserError(what, do="leave it out, or name one of g.base rms without g.momentum (memory.g)")
    step, rate = given.get("decay_step", rule.decay_step), given.get("replay_rate", rule.replay_rate)
    return dataclasses.replace(rule, decay_step=step, replay_rate=rate)


def _check_tuned_beside(
    tuned: Mapping[str, Any], constants: Mapping[str, Any], option: str, searched: Container[str]
) -> None:
    """Raise UserError where a tuned constant is to be used beside others than those that it was tuned beside."""
    for name, value in constants.items():
        if name not in searched and name in tuned and tuned[name] != value:
            what = f"memory.{option} was tuned with memory.{name} {tuned[name]}, and memory.{name} is {value}"
            raise UserError(what, do=f"give --memory.{name} {tuned[name]}, or --memory.{option} too")


def open_cache(store: MemoryStore, memory: MemoryOptions) -> Cache | None:
    """Return the cache of ``memory``'s options, with tuned or learned constants for those that they leave unset.

    Raises UserError if constants are neither given nor tuned, or the gate was not learned.
    """
    if memory.cache == "none":
        return None
    beside = f"for rule {memory.rule!r} and reset {memory.policy!r}"
    if memory.cache == "learned":
        for name, value in memory.cache_constants().items():
            if value is not None:
                raise UserError(f"memory.cache_{name} does not go with memory.cache learned, which keeps its own")
        if (gated := store.load_gated_cache(memory)) is None:
            do = f"run `{command('metatrain', store.folder, memory)}` first"
            raise UserError(f"no gated cache {beside}", store.folder, do)
        return gated[0]
    tuned, values = store.load_fixed_cache(memory) or {}, memory.cache_constants()
    for name, given in values.items():
        values[name] = tuned.get(name) if given is None else given
        if values[name] is None:
            do = f"give --memory.cache_{name} or run `{command('tune', store.folder, memory)}` first"
            raise UserError(f"no memory.cache_{name}, and no cache tuned {beside}", store.folder, do)
    return Cache(values["window"], (values["inverse_temperature"],), values["share"])


def command(name: str, folder: Path, memory: MemoryOptions) -> str:
    """Return the command line that tunes or learns the rule of ``memory``, or its cache if it has one."""
    named = f" --memory.g {memory.g}" if memory.rule == "meta" and memory.g != "meta" else ""
    cache = "" if memory.cache == "none" else f" --memory.cache {memory.cache}"
    cache += f" --memory.gate {memory.gate}" if memory.gate and memory.cache == "learned" else ""
    policy = memory.reset + ("" if memory.article_boundaries else " --memory.article_boundaries false")
    of_factors = [item for item in dataclasses.fields(MemoryOptions) if memory.lora_rank and "lora_" in item.name]
    given = {item.name: getattr(memory, item.name) for item in of_factors if getattr(memory, item.name) != item.default}
    factors = "".join(f" --memory.{option} {value}" for option, value in given.items())
    return f"dynlm {name} {folder} --memory.rule {memory.rule}{named} --memory.reset {policy}{cache}{factors}"
