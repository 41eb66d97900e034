"""What a variant needs before it may read: an ordered list of steps, each done once and kept in the run.

A step fills one slot of the run (the rates of rms under ``stream``, say). ``memory/prepared.json`` tells with which
options a slot was filled, so that a study that was stopped goes on, and one with other options fills it anew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.run import rule_store as memory_folder
from dynlm.run.cache_store import load_fixed, load_gated, rule_stem
from dynlm.run.folder import TrainedModel
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.validation import fingerprint_options
from dynlm.study.variants import Variant
from dynlm.train.cache import tune_cache
from dynlm.train.config import Config
from dynlm.train.gate import train_gate
from dynlm.train.metatrain import metatrain
from dynlm.train.tune import START, ensure_statistics, tune

CACHE_OPTIONS = ("cache_window", "cache_flatness", "cache_share")
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
    """What of the run it fills, as people call it; two variants with the same slot share what is found."""
    options: Mapping[str, Any]
    """All options that decide what is found."""
    find: Callable[[bool], object]
    """Finds and keeps it; is told whether to be quiet."""
    held: Callable[[], dict[str, Any] | None]
    """What the run holds in the slot, fit for JSON; None where it is empty."""
    budget: Callable[[dict[str, Any]], Budget]
    """What finding it read."""


@dataclass(frozen=True)
class Prepared:
    """A slot that is filled: what is in it, and what filling it read."""

    slot: str
    held: dict[str, Any]
    budget: Budget


def steps_of(folder: Path, base: Config, variant: Variant, reset: str, trained: TrainedModel) -> list[Step]:
    """What ``variant`` needs under a reset policy, in the order in which it is found.

    ``base`` are the options that all variants share.
    """
    config = variant.under(reset)
    memory, steps = config.memory, []
    if memory.rule in ("rms", "meta"):
        steps.append(_statistics(folder, base, trained))
    if memory.rule == "meta":
        steps += [_rates(folder, base, config, "rms", trained), _learned(folder, base, config, trained)]
    elif memory.rule in START and any(getattr(memory, name) is None for name in START[memory.rule]):
        steps.append(_rates(folder, base, config, memory.rule, trained))
    if memory.cache != "none":
        steps.append(_fixed_cache(folder, base, config, trained))
    if memory.cache == "learned":
        steps.append(_gate(folder, base, config, trained))
    return steps


def check_slots(steps_of_variants: Mapping[str, Sequence[Step]]) -> None:
    """Raise UserError where two variants would fill one slot of the run with different things."""
    filled: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for variant, steps in steps_of_variants.items():
        for step in steps:
            other, options = filled.setdefault(step.slot, (variant, step.options))
            if options != step.options:
                raise UserError(
                    f"variants {other!r} and {variant!r} need {step.slot} found with different options",
                    do="give one of them its rates (memory: {rate: ...}), or study them in runs of their own",
                )


def prepare(
    folder: Path,
    steps: Sequence[Step],
    trained: TrainedModel,
    find: bool,
    say: Callable[[str], None] = lambda what: None,
    quiet: bool = True,
    filled: dict[str, Prepared] | None = None,
) -> list[Prepared]:
    """Fill the steps' slots one after the other, passing over those that hold what these options lead to.

    Without ``find`` they are taken as they are; raises UserError for one that is empty. ``filled`` are the slots that
    were seen to already, for other variants; those of ``steps`` are put into it.
    """
    path, prepared = folder / _LEDGER, list[Prepared]()
    filled = {} if filled is None else filled
    for step in steps:
        if step.slot in filled:
            prepared.append(filled[step.slot])
            continue
        held = step.held()
        if not find:
            if held is None:
                raise UserError(f"it holds no {step.slot}", folder, "leave out --study.tune false to have it found")
        else:
            ledger = read_json(path) if path.exists() else {}
            key = _mark([step.options, trained.fingerprint, [each.held for each in prepared]])
            if held is None or ledger.get(step.slot) != {"options": key, "held": _mark(held)}:
                say(f"finding {step.slot}")
                step.find(quiet)
                held = step.held()
                assert held is not None
                write_json(path, {**ledger, step.slot: {"options": key, "held": _mark(held)}})
            else:
                say(f"reused: {step.slot}")
        filled[step.slot] = Prepared(step.slot, held, step.budget(held))
        prepared.append(filled[step.slot])
    return prepared


def _statistics(folder: Path, base: Config, trained: TrainedModel) -> Step:
    def find(quiet: bool) -> None:
        memory_folder.drop_statistics(folder)
        ensure_statistics(folder, trained, base)

    return Step(
        slot="gradient statistics R",
        options={**_text_of(base), "tokens": base.tune.statistics_tokens, "segment": base.memory.segment},
        find=find,
        held=lambda: memory_folder.statistics_card(folder, trained),
        budget=lambda held: Budget(),
    )


def _rates(folder: Path, base: Config, config: Config, rule: str, trained: TrainedModel) -> Step:
    """A hand-made rule's rates; those that the variant gives are where the search starts."""
    variant = config.memory
    given = {name: getattr(variant, name) for name in START[rule]} if variant.rule == rule else {}
    # The name of the variant's g is nothing to a rule that is made by hand: variants share its rates.
    memory = dataclasses.replace(_weights_alone(base, config), rule=rule, g=base.memory.g, **given)
    return Step(
        slot=f"the rates of {rule} under {variant.reset}",
        options={**_text_of(config), "tune": dataclasses.asdict(config.tune), "memory": dataclasses.asdict(memory)},
        find=lambda quiet: tune(folder, dataclasses.replace(config, memory=memory), quiet),
        held=lambda: memory_folder.load_tuned(folder, rule, variant.reset, trained),
        budget=lambda held: Budget(held["settings"], held.get("tokens", 0)),
    )


def _learned(folder: Path, base: Config, config: Config, trained: TrainedModel) -> Step:
    """phi of the learned rule."""
    config = dataclasses.replace(config, memory=_weights_alone(base, config))

    def held() -> dict[str, Any] | None:
        learned = memory_folder.load_learned(folder, config.memory.g, config.memory.reset, trained)
        return None if learned is None else learned[1]

    return Step(
        slot=f"g ({config.memory.g}) under {config.memory.reset}",
        options={**_text_of(config), **_sections(config, "memory", "tune", "g", "metatrain")},
        find=lambda quiet: metatrain(folder, config, quiet),
        held=held,
        # What it chose between at the end was read on the tuning articles too.
        budget=lambda held: Budget(len(held.get("tuning_nats_per_token", ())), learned_on=held["tokens"]),
    )


def _fixed_cache(folder: Path, base: Config, config: Config, trained: TrainedModel) -> Step:
    """Window, flatness and share of a cache beside the variant's rule; a learned gate starts there too."""
    memory, alone = config.memory, _weights_alone(base, config)
    given = {name: getattr(memory, name) for name in CACHE_OPTIONS} if memory.cache == "fixed" else {}
    config = dataclasses.replace(config, memory=dataclasses.replace(alone, cache="fixed", **given))
    return Step(
        slot=f"the cache beside {rule_stem(memory)} under {memory.reset}",
        options={**_text_of(config), **_sections(config, "memory", "tune")},
        find=lambda quiet: tune_cache(folder, config, quiet),
        held=lambda: load_fixed(folder, config.memory, trained),
        budget=lambda held: Budget(held["settings"], held.get("tokens", 0)),
    )


def _gate(folder: Path, base: Config, config: Config, trained: TrainedModel) -> Step:
    """The gate of a cache beside the variant's rule."""
    memory, alone = config.memory, _weights_alone(base, config)
    given = {name: getattr(memory, name) for name in CACHE_OPTIONS}
    config = dataclasses.replace(config, memory=dataclasses.replace(alone, cache="learned", **given))

    def held() -> dict[str, Any] | None:
        gated = load_gated(folder, config.memory, trained)
        return None if gated is None else gated[1]

    return Step(
        slot=f"the gate of the cache beside {rule_stem(memory)} under {memory.reset}",
        options={**_text_of(config), **_sections(config, "memory", "tune", "metatrain")},
        find=lambda quiet: train_gate(folder, config, quiet),
        held=held,
        budget=lambda held: Budget(held["passes"], learned_on=held["tokens"]),
    )


def _weights_alone(base: Config, config: Config) -> MemoryOptions:
    """How a variant's weights move, without what it does besides: variants that move them alike share what is found."""
    names = ("rule", "g", "reset", "lanes", "segment", "dynamic")
    return dataclasses.replace(base.memory, **{name: getattr(config.memory, name) for name in names})


def _sections(config: Config, *names: str) -> dict[str, dict[str, Any]]:
    """Sections of the options, without those that change nothing of what is found."""
    return {
        name: {full.partition(".")[2]: value for full, value in fingerprint_options(getattr(config, name)).items()}
        for name in names
    }


def _text_of(config: Config) -> dict[str, Any]:
    """What decides the text and its order."""
    return {"corpus": {**dataclasses.asdict(config.corpus), "num_proc": 1}, "seed": config.run.seed}


def _mark(content: Any) -> str:
    return fingerprint(json.dumps(content, sort_keys=True, default=list))
