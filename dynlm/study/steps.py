"""What a variant needs before it reads: an ordered list of steps, each done once and kept in the run.

A step fills one slot of the run (the rates of rms under ``stream``, say). ``memory/prepared.json`` records the options
with which each slot was filled, so that a study that was stopped resumes, and one with other options fills it anew.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions, Reset
from dynlm.adapt.rules.registry import RULES, SEGMENTS, StatisticsKind
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.run.memory_store import card_of, rule_stem
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.renamed import current_name
from dynlm.runtime.validation import Section, fingerprint_options
from dynlm.study.variants import Variant
from dynlm.train.cache import tune_cache
from dynlm.train.gate import train_gate
from dynlm.train.metatrain import metatrain
from dynlm.train.options import TuneOptions
from dynlm.train.tune import ensure_statistics, tune

_LOW_RANK = ("targets", "lora_rank", "lora_alpha", "lora_scaling", "lora_factors")
_SHARED = ("rule", "g", "reset", "article_boundaries", "lanes", "segment", *_LOW_RANK)
"""Memory options that move the weights: variants that differ in no others share what is found."""
_CACHE_OPTIONS = ("cache_window", "cache_inverse_temperature", "cache_share")
_LEDGER = Path("memory") / "prepared.json"


@dataclass(frozen=True)
class Budget:
    """What a step took: ``settings`` tried on ``tokens`` of text, ``tokens_read`` with all of them together, training
    tokens that were ``learned_on``, ``parameters`` learned, and ``seconds``; the last two are None where the run does
    not say.
    """

    settings: int = 0
    tokens: int = 0
    learned_on: int = 0
    parameters: int | None = 0
    seconds: float | None = 0.0
    tokens_read: int = 0

    @classmethod
    def total(cls, budgets: Sequence[Budget]) -> Budget:
        """Return what several steps took: sums, and the largest number of tokens; None where it is not known of all."""
        parameters, seconds = [each.parameters for each in budgets], [each.seconds for each in budgets]
        return cls(
            sum(each.settings for each in budgets),
            max((each.tokens for each in budgets), default=0),
            sum(each.learned_on for each in budgets),
            None if None in parameters else sum(each or 0 for each in parameters),
            None if None in seconds else sum(each or 0.0 for each in seconds),
            sum(each.tokens_read for each in budgets),
        )


@dataclass(frozen=True)
class Step:
    """One thing to be found before a variant reads."""

    slot: str
    """The slot of the run that it fills, as messages name it; variants with the same slot share what is found."""
    options: Mapping[str, Any]
    """All options that affect what is found."""
    find: Callable[[bool], object]
    """Finds and saves it; takes whether to be quiet."""
    held: Callable[[], dict[str, Any] | None]
    """Returns what the run holds in the slot, ready for JSON; None where it is empty."""
    budget: Callable[[dict[str, Any]], Budget]
    """Returns what finding it took, given what is held."""
    apart: str = "use two runs"
    """How another variant gets a slot of its own."""


@dataclass(frozen=True)
class Prepared:
    """A filled slot: what is in it, and what filling it took."""

    slot: str
    held: dict[str, Any]
    budget: Budget


def fingerprint_of(content: Any) -> str:
    """Return the fingerprint of content that is ready for JSON."""
    return fingerprint(json.dumps(content, sort_keys=True, default=list))


def _entry(key: str, held: dict[str, Any] | None) -> dict[str, str]:
    """Return what the ledger says of a slot."""
    return {"options": key, "held": fingerprint_of(content_of(held))}


def content_of(held: dict[str, Any] | None) -> dict[str, Any]:
    """Return what is held without the time that finding it took, on which nothing depends."""
    return {name: value for name, value in (held or {}).items() if name != "seconds"}


def steps_of(run: Run, variant: Variant, reset: Reset) -> list[Step]:
    """Return what ``variant`` needs under a reset policy, in order; ``run`` has the options of all variants.

    What is found is found with the context that the variant reads with, R with the run's.
    """
    variant, of_all = variant.under(reset), run
    run = run.with_sections(variant.model)
    memory, steps = variant.memory, list[Step]()
    kind = RULES[memory.rule]
    needed = kind.statistics_for(memory)
    if kind.learned and variant.g.needs_statistics:
        needed = SEGMENTS
    if needed is not None:
        steps.append(_statistics(of_all, memory, needed))
    if kind.learned:
        steps += [_rates(run, variant, variant.g.base), _learned(run, variant)]
    elif any(getattr(memory, name) is None for name in kind.searched):
        steps.append(_rates(run, variant, memory.rule))
    if memory.cache != "none":
        steps.append(_fixed_cache(run, variant))
    if memory.cache == "learned":
        steps.append(_gate(run, variant))
    return steps


def check_slots(steps_of_variants: Mapping[str, Sequence[Step]]) -> None:
    """Raise UserError where two variants would fill one slot of the run with different things."""
    filled: dict[str, tuple[str, Step]] = {}
    for variant, steps in steps_of_variants.items():
        for step in steps:
            other, first = filled.setdefault(step.slot, (variant, step))
            if first.options != step.options:
                names = [name for name in step.options if step.options[name] != first.options.get(name)]
                names += [name for name in first.options if name not in step.options]
                what = (
                    f"variants {other!r} and {variant!r} need {step.slot} found with different {current_name(names[0])}"
                )
                raise UserError(what, do=step.apart)


def prepare(
    run: Run,
    steps: Sequence[Step],
    find: bool,
    filled: dict[str, Prepared],
    say: Callable[[str], None] = lambda what: None,
    quiet: bool = True,
) -> list[Prepared]:
    """Fill the slots of ``steps`` one after the other, except those that hold what these options lead to.

    Without ``find`` they are taken as they are; raises UserError for an empty one. ``filled`` has the slots filled for
    other variants, and receives those of ``steps``.
    """
    path, prepared = run.path / _LEDGER, list[Prepared]()
    for step in steps:
        if step.slot not in filled:
            held = step.held()
            if find:
                ledger = read_json(path) if path.exists() else {}
                key = fingerprint_of([step.options, run.fingerprint, [content_of(each.held) for each in prepared]])
                if held is not None and ledger.get(step.slot) == _entry(key, held):
                    say(f"reused: {step.slot}")
                else:
                    say(f"finding {step.slot}")
                    step.find(quiet)
                    held = step.held()
                    write_json(path, {**ledger, step.slot: _entry(key, held)})
            if held is None:
                raise UserError(
                    f"it holds no {step.slot.removeprefix('the ')}",
                    run.path,
                    "leave out --study.tune false to have it found",
                )
            filled[step.slot] = Prepared(step.slot, held, step.budget(held))
        prepared.append(filled[step.slot])
    return prepared


def _statistics(run: Run, own: MemoryOptions, kind: StatisticsKind) -> Step:
    """R of the tensors of the model, or of the factors that the variant moves; of single segments with the run's."""
    tokens = run.section(TuneOptions).statistics_tokens
    memory = run.section(MemoryOptions).replace(**{name: getattr(own, name) for name in _LOW_RANK})
    of = run.with_sections(memory)
    batches = {} if kind.segment is None else {"lanes": kind.lanes}

    def find(quiet: bool) -> None:
        of.store.drop_statistics(kind)
        ensure_statistics(of, kind)

    return Step(
        slot=f"{kind}{_of_factors(run, own)}",
        options={**_options(run), "tokens": tokens, "segment": kind.segment or memory.segment, **batches},
        find=find,
        held=lambda: card_of(of.store.load_statistics(kind)),
        budget=lambda held: Budget(seconds=held.get("seconds")),
    )


def _rates(run: Run, variant: Variant, rule: str) -> Step:
    """Tuned rates of a rule; those that the variant gives are where the search starts."""
    own = variant.memory
    given = {name: getattr(own, name) for name in RULES[rule].searched} if own.rule == rule else {}
    constants = ", ".join(f"{name}: ..." for name in given)
    # Variants with different g share the tuned rule that g starts from.
    memory = _memory_with(run, own, rule=rule, g=run.section(MemoryOptions).g, **given)
    of = run.with_sections(memory, variant.tune)
    return Step(
        slot=f"the rates of {rule} under {own.policy}{_of_factors(run, own)}",
        options=_options(run, memory, variant.tune),
        find=lambda quiet: tune(of, quiet),
        held=lambda: of.store.load_tuned(rule, own.policy),
        budget=_of_a_search,
        apart=f"give one of them its constants (memory: {{{constants}}}), or use two runs" if given else "use two runs",
    )


def _learned(run: Run, variant: Variant) -> Step:
    """The parameters phi of the learned rule."""
    memory = _memory_with(run, variant.memory)
    of = run.with_sections(memory, variant.tune, variant.g, variant.metatrain)
    return Step(
        slot=f"g ({memory.g}) under {memory.reset}{_of_factors(run, memory)}",
        options=_options(run, memory, variant.tune, variant.g, variant.metatrain),
        find=lambda quiet: metatrain(of, quiet),
        held=lambda: card_of(of.store.load_learned(memory.g, memory.reset)),
        # The candidates at the end were read on the tuning articles too.
        budget=lambda held: _of_learning(len(held.get("tuning_nats_per_token", ())), held),
        apart="give one of them another name (memory: {g: NAME})",
    )


def _fixed_cache(run: Run, variant: Variant) -> Step:
    """Window, inverse temperature and share of a fixed cache; a learned gate starts there too."""
    own = variant.memory
    given = {name: getattr(own, name) for name in _CACHE_OPTIONS} if own.cache == "fixed" else {}
    memory = _memory_with(run, own, cache="fixed", **given)
    of = run.with_sections(memory, variant.tune)
    return Step(
        slot=f"the cache beside {rule_stem(own)} under {own.policy}{_of_factors(run, own)}",
        options=_options(run, memory, variant.tune),
        find=lambda quiet: tune_cache(of, quiet),
        held=lambda: of.store.load_fixed_cache(memory),
        budget=_of_a_search,
    )


def _gate(run: Run, variant: Variant) -> Step:
    """The learned gate of a cache."""
    own = variant.memory
    given = {name: getattr(own, name) for name in ("gate", *_CACHE_OPTIONS)}
    memory = _memory_with(run, own, cache="learned", **given)
    of = run.with_sections(memory, variant.tune, variant.metatrain)
    return Step(
        slot=f"the gate{f' ({own.gate})' if own.gate else ''} of the cache beside {rule_stem(own)} under {own.policy}"
        f"{_of_factors(run, own)}",
        options=_options(run, memory, variant.tune, variant.metatrain),
        find=lambda quiet: train_gate(of, quiet),
        held=lambda: card_of(of.store.load_gated_cache(memory)),
        # After each pass it was read on the tuning articles.
        budget=lambda held: _of_learning(held.get("passes_made", held["passes"]), held),
        apart="give one of them another name (memory: {gate: NAME})",
    )


def _memory_with(run: Run, own: MemoryOptions, **changes: Any) -> MemoryOptions:
    """Return the run's memory options with those of the variant's ``own`` that move its weights, and ``changes``."""
    kind = RULES[own.rule]
    constants = kind.constants(own) if kind.name == changes.get("rule", kind.name) else {}
    kept = {name: getattr(own, name) for name in _SHARED}
    kept |= {name: value for name, value in constants.items() if name not in kind.searched}
    return run.section(MemoryOptions).replace(**{**kept, **changes})


def _options(run: Run, *sections: Section) -> dict[str, Any]:
    """Return the options that affect the text, its order and the model's context, and those of ``sections``."""
    reading = {f"model.{name}": value for name, value in run.section(ModelOptions).reading().items()}
    return {**fingerprint_options(run.section(CorpusOptions), *sections), **reading, "seed": run.options.seed}


def _of_factors(run: Run, memory: MemoryOptions) -> str:
    """Return what tells the slots of low-rank factors from those of the model's own tensors."""
    label = memory.targets_of(run.options.seed).label
    return f" of {label}" if label else ""


def _of_a_search(held: dict[str, Any]) -> Budget:
    settings, tokens = held["settings"], held.get("tokens", 0)
    read = held.get("tokens_read", settings * tokens)  # Earlier searches read all tokens with each setting.
    return Budget(settings, tokens, 0, held.get("parameters"), held.get("seconds"), read)


def _of_learning(settings: int, held: dict[str, Any]) -> Budget:
    return Budget(settings, 0, held["tokens"], held.get("parameters"), held.get("seconds"))
