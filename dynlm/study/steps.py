"""What a variant needs before it reads: an ordered list of steps, which variants share."""

from __future__ import annotations

from typing import Any

from dynlm.adapt.options import MemoryOptions, Reset
from dynlm.adapt.rules.registry import RULES, SEGMENTS, StatisticsKind
from dynlm.data.options import CorpusOptions
from dynlm.models.options import ModelOptions
from dynlm.run.memory_store import ALL, rule_stem
from dynlm.run.records import card_of
from dynlm.run.run import Run
from dynlm.runtime.validation import Section, fingerprint_options
from dynlm.study.budget import Budget
from dynlm.study.prepare import Step
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
        slot=f"the rates of {rule} under {own.policy}{_of_tensors(own)}{_of_factors(run, own)}",
        options=_options(run, memory, variant.tune),
        find=lambda quiet: tune(of, quiet),
        held=lambda: of.store.load_tuned(rule, own.policy, own.targets),
        budget=Budget.of_search,
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
        budget=lambda held: Budget.of_learning(held, len(held.get("tuning_nats_per_token", ()))),
        apart="give one of them another name (memory: {g: NAME})",
    )


def _fixed_cache(run: Run, variant: Variant) -> Step:
    """Window, inverse temperature and share of a fixed cache; a learned gate starts there too."""
    own = variant.memory
    given = {name: getattr(own, name) for name in _CACHE_OPTIONS} if own.cache == "fixed" else {}
    memory = _memory_with(run, own, cache="fixed", **given)
    of = run.with_sections(memory, variant.tune)
    return Step(
        slot=f"the cache beside {rule_stem(own)} under {own.policy}{_of_tensors(own)}{_of_factors(run, own)}",
        options=_options(run, memory, variant.tune),
        find=lambda quiet: tune_cache(of, quiet),
        held=lambda: of.store.load_fixed_cache(memory),
        budget=Budget.of_search,
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
        budget=lambda held: Budget.of_learning(held, held.get("passes_made", held["passes"])),
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


def _of_tensors(memory: MemoryOptions) -> str:
    """Return what tells the slots of rates for some tensors from those of rates for all."""
    return "" if [*memory.targets] == [*ALL] else f" of {', '.join(memory.targets)}"


def _of_factors(run: Run, memory: MemoryOptions) -> str:
    """Return what tells the slots of low-rank factors from those of the model's own tensors."""
    label = memory.targets_of(run.options.seed).label
    return f" of {label}" if label else ""
