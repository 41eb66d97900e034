"""Options of a study: those of a run, and the variants that are read, under which reset policies and orders."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dynlm.adapt.options import MemoryOptions, Reset
from dynlm.data.options import Order
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.runtime.validation import LARGEST_SEED, Section, bounded, plain_name
from dynlm.train.config import Config


def default_study(model: ModelOptions, memory: MemoryOptions) -> dict[str, Any]:
    """Return the options of a study whose variants are unset.

    A model with a context is read with four kinds of rows, so that context is not taken for memory: static weights with
    disjoint windows, static weights with the memory's own context, and ``memory`` under both reset policies.
    """
    if "stride" not in model.READING.split():
        rules = {"level 1": "none", "rms": "rms", "meta": "meta"}
        return {"variants": [{"name": name, "memory": {"rule": rule}} for name, rule in rules.items()]}
    static = {"rule": "none", "cache": "none", "lora_rank": 0}
    variants: list[dict[str, Any]] = [
        {"name": "static, disjoint windows", "memory": static, "model": {"stride": 0}},
        {"name": "static", "memory": dict(static)},
    ]
    pairs = []
    if (memory.rule, memory.cache) != ("none", "none"):
        parts = [memory.rule] if memory.rule != "none" else []
        parts += [f"LoRA rank {memory.lora_rank}"] if memory.lora_rank and parts else []
        parts += ["cache"] if memory.cache != "none" else []
        name = " + ".join(parts)
        variants.append({"name": name, "memory": {"rule": memory.rule, "g": memory.g}})
        pairs = [f"static:{name}"]
    orders, resets = ["in order"], ["article", "stream"]
    return {"variants": variants, "resets": resets, "orders": orders, "baselines": ["static"], "pairs": pairs}


@dataclass
class StudyConfig(Section):
    """Which variants are read, how, on which articles, and what they are compared with."""

    SECTION = "study"
    COMMON = "name variants resets orders split articles tune baselines base_seeds"

    name: str = "study"
    """Its folder within the run's. Another text needs a study of another name."""
    variants: list[dict[str, Any]] | None = None
    """Each variant: its name, and the options in which it differs (memory: {rule: rms}), section by section. Unset:
    level 1, rms and meta; for a transformer static weights with disjoint windows, static weights, and its memory.
    ``over``: another variant that its gain is given over too. ``run``: static weights of another run beside this one,
    with the same tokenizer and training text."""
    resets: list[Reset] | None = None
    """Reset policies that variants are tuned for and read under; one that sets memory.reset is read under that one.
    Unset: both."""
    orders: list[Order] | None = None
    """Orders in which the articles are read under stream: in order, shuffled. Under article nothing depends on it.
    Unset: both; in order alone where a transformer's variants are unset."""
    seed: int = bounded(0, 0, LARGEST_SEED)
    """Seed of the shuffled order and of the bootstrap."""
    split: str = "valid"
    """Split that is reported on."""
    articles: str = "31-60"
    """Which of its articles, counted from 1, such as 31-60, or all; not those that rates are tuned on."""
    tune: bool = True
    """Whether to train, tune and learn what is not there yet; false takes what the run holds."""
    baselines: list[str] | None = None
    """Variants over which gains are given, each under its better reset policy; unset: level 1 and rms, where named. A
    gain of a memory is over static weights with its own context."""
    pairs: list[str] | None = None
    """LOWER:HIGHER variants that are compared word by word; unset: level 1:rms and rms:meta, where named."""
    base_seeds: list[int] | None = bounded(None, 0, LARGEST_SEED)
    """Seeds of base models: first the run's own; each other is trained with the run's options as NAME-seed-SEED beside
    it. Unset: the run alone."""
    meta_seeds: list[int] | None = bounded(None, 0, LARGEST_SEED)
    """Seeds that g and gates are learned with on each base model (metatrain.seed). Unset: one."""
    seeded: list[str] | None = None
    """Variants that are read with all seeds, with those that their gains are over; the others with the first seeds.
    Unset: all."""
    drawn: list[str] = field(default_factory=list)
    """Variants of the pictures; empty: the first baseline and the five with the lowest losses."""
    resamples: int = bounded(2000, 0, 1_000_000)
    """Bootstrap resamples of the articles."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plain_name("study.name", self.name)
        for option in ("variants", "resets", "orders", "base_seeds", "meta_seeds"):
            if getattr(self, option) == []:
                raise UserError(f"study.{option} is empty", do="name at least one")
        for option in ("base_seeds", "meta_seeds"):
            seeds = getattr(self, option) or []
            if len({*seeds}) < len(seeds):
                raise UserError(f"study.{option} is {seeds}", do="name each seed once")


@dataclass
class StudyOptions(Config):
    """The options of a run, and those of the study of its variants."""

    study: StudyConfig = field(default_factory=StudyConfig)
    base: str | None = None
    """A config file with the options that this one changes; a relative path in a file starts at that file's folder."""

    def __post_init__(self) -> None:
        if self.study.variants is None:
            default = default_study(self.model, self.memory)
            self.study = self.study.replace(**{k: v for k, v in default.items() if getattr(self.study, k) is None})

    def run_options(self) -> Config:
        """Return the options of the run."""
        return Config(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Config)})
