"""What a variant needs before it reads: an ordered list of steps, each done once and kept in the run.

A step fills one slot of the run (the rates of rms under ``stream``, say). ``memory/prepared.json`` records the options
with which each slot was filled, so that a study that was stopped resumes, and one with other options fills it anew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions, Reset
from dynlm.adapt.rules.registry import RULES
from dynlm.errors import UserError
from dynlm.run.memory_store import rule_stem
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.validation import Section, fingerprint_options
from dynlm.study.variants import Variant
from dynlm.train.cache import tune_cache
from dynlm.train.config import Config
from dynlm.train.gate import train_gate
from dynlm.train.metatrain import metatrain
from dynlm.train.tune import ensure_statistics, tune

_CACHE_OPTIONS = ("cache_window", "cache_inverse_temperature", "cache_share")
_LEDGER = Path("memory") / "prepared.json"


@dataclass(frozen=True)
class Budget:
    """What a step read: ``settings`` tried on ``tokens`` each, and training tokens that were ``learned_on``."""

    settings: int = 0
    tokens: int = 0
    learned_on: int = 0


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
    """Returns what finding it read, given what is held."""


@dataclass(frozen=True)
class Prepared:
    """A filled slot: what is in it, and what filling it read."""

    slot: str
    held: dict[str, Any]
    budget: Budget


def steps_of(run: Run, base: Config, variant: Variant, reset: Reset) -> list[Step]:
    """Return what ``variant`` needs under a reset policy, in order; ``base`` has the options of all variants."""
    config = variant.under(reset)
    memory, find = config.memory, _Finder(run, base, config)
    steps = []
    kind = RULES[memory.rule]
    if kind.needs_statistics:
        steps.append(find.statistics())
    if kind.starts_from is not None:
        steps += [find.rates(kind.starts_from), find.learned()]
    elif any(getattr(memory, name) is None for name in kind.searched):
        steps.append(find.rates(memory.rule))
    if memory.cache != "none":
        steps.append(find.fixed_cache())
    if memory.cache == "learned":
        steps.append(find.gate())
    return steps


def check_slots(steps_of_variants: Mapping[str, Sequence[Step]]) -> None:
    """Raise UserError where two variants would fill one slot of the run with different things."""
    filled: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for variant, steps in steps_of_variants.items():
        for step in steps:
            other, options = filled.setdefault(step.slot, (variant, step.options))
            if options != step.options:
                what = f"variants {other!r} and {variant!r} need {step.slot} found with different options"
                raise UserError(what, do="give one of them its rates (memory: {rate: ...}), or use two runs")


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
                key = _fingerprint([step.options, run.fingerprint, [each.held for each in prepared]])
                if held is not None and ledger.get(step.slot) == {"options": key, "held": _fingerprint(held)}:
                    say(f"reused: {step.slot}")
                else:
                    say(f"finding {step.slot}")
                    step.find(quiet)
                    held = step.held()
                    write_json(path, {**ledger, step.slot: {"options": key, "held": _fingerprint(held)}})
            if held is None:
                raise UserError(f"it holds no {step.slot}", run.path, "leave out --study.tune false to have it found")
            filled[step.slot] = Prepared(step.slot, held, step.budget(held))
        prepared.append(filled[step.slot])
    return prepared


@dataclass(frozen=True)
class _Finder:
    """Builds the steps of a variant with the options ``config``."""

    run: Run
    base: Config
    config: Config

    def statistics(self) -> Step:
        base, run = self.base, self.run

        def find(quiet: bool) -> None:
            run.store.drop_statistics()
            ensure_statistics(run, base.memory, base.tune.statistics_tokens)

        return Step(
            slot="gradient statistics R",
            options={**_text_of(base), "tokens": base.tune.statistics_tokens, "segment": base.memory.segment},
            find=find,
            held=lambda: _card(run.store.load_statistics()),
            budget=lambda held: Budget(),
        )

    def rates(self, rule: str) -> Step:
        """Tuned rates of a rule; those that the variant gives are where the search starts."""
        own = self.config.memory
        given = {name: getattr(own, name) for name in RULES[rule].searched} if own.rule == rule else {}
        # Variants with different g share the tuned rule that g starts from.
        config = self._with_memory(rule=rule, g=self.base.memory.g, **given)
        return Step(
            slot=f"the rates of {rule} under {own.reset}",
            options=_options(config, config.memory, config.tune),
            find=lambda quiet: tune(self.run, config.memory, config.tune, quiet),
            held=lambda: self.run.store.load_tuned(rule, own.reset),
            budget=lambda held: Budget(held["settings"], held.get("tokens", 0)),
        )

    def learned(self) -> Step:
        """The parameters phi of the learned rule."""
        config = self._with_memory()
        memory = config.memory

        return Step(
            slot=f"g ({memory.g}) under {memory.reset}",
            options=_options(config, memory, config.tune, config.g, config.metatrain),
            find=lambda quiet: metatrain(self.run, memory, config.g, config.metatrain, config.tune, quiet),
            held=lambda: _card(self.run.store.load_learned(memory.g, memory.reset)),
            # The candidates at the end were read on the tuning articles too.
            budget=lambda held: Budget(len(held.get("tuning_nats_per_token", ())), learned_on=held["tokens"]),
        )

    def fixed_cache(self) -> Step:
        """Window, inverse temperature and share of a fixed cache; a learned gate starts there too."""
        own = self.config.memory
        given = {name: getattr(own, name) for name in _CACHE_OPTIONS} if own.cache == "fixed" else {}
        config = self._with_memory(cache="fixed", **given)
        return Step(
            slot=f"the cache beside {rule_stem(own)} under {own.reset}",
            options=_options(config, config.memory, config.tune),
            find=lambda quiet: tune_cache(self.run, config.memory, config.tune, quiet),
            held=lambda: self.run.store.load_fixed_cache(config.memory),
            budget=lambda held: Budget(held["settings"], held.get("tokens", 0)),
        )

    def gate(self) -> Step:
        """The learned gate of a cache."""
        own = self.config.memory
        config = self._with_memory(cache="learned", **{name: getattr(own, name) for name in _CACHE_OPTIONS})

        return Step(
            slot=f"the gate of the cache beside {rule_stem(own)} under {own.reset}",
            options=_options(config, config.memory, config.tune, config.metatrain),
            find=lambda quiet: train_gate(self.run, config.memory, config.metatrain, config.tune, quiet),
            held=lambda: _card(self.run.store.load_gated_cache(config.memory)),
            budget=lambda held: Budget(held["passes"], learned_on=held["tokens"]),
        )

    def _with_memory(self, **changes: Any) -> Config:
        """Return the variant's options with the memory options that move its weights, and ``changes``.

        Variants that differ in nothing else share what is found.
        """
        names = ("rule", "g", "reset", "lanes", "segment", "dynamic")
        own = {name: getattr(self.config.memory, name) for name in names}
        kind = RULES[self.config.memory.rule]
        constants = kind.constants(self.config.memory) if kind.name == changes.get("rule", kind.name) else {}
        constants = {name: value for name, value in constants.items() if name not in kind.searched}
        memory: MemoryOptions = self.base.memory.replace(**{**own, **constants, **changes})
        return dataclasses.replace(self.config, memory=memory)


def _card(stored: tuple[Any, dict[str, Any]] | None) -> dict[str, Any] | None:
    return None if stored is None else stored[1]


def _options(config: Config, *sections: Section) -> dict[str, Any]:
    return {**_text_of(config), **fingerprint_options(*sections)}


def _text_of(config: Config) -> dict[str, Any]:
    """Return the options that affect the text and its order."""
    return {**fingerprint_options(config.corpus), "seed": config.run.seed}


def _fingerprint(content: Any) -> str:
    return fingerprint(json.dumps(content, sort_keys=True, default=list))
