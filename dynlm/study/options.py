"""The options of a study: a run's own, and which variants are read under which policies."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dynlm.adapt.options import RESETS
from dynlm.data.options import ORDERS
from dynlm.errors import UserError
from dynlm.runtime.validation import LARGEST_SEED, check_values, one_of, plain_name, within
from dynlm.train.config import Config

_BASELINES = ("level 1", "rms")
_PAIRS = (("level 1", "rms"), ("rms", "meta"))


def _arms() -> list[dict[str, Any]]:
    return [
        {"name": "level 1", "memory": {"rule": "none"}},
        {"name": "rms", "memory": {"rule": "rms"}},
        {"name": "meta", "memory": {"rule": "meta"}},
    ]


@dataclass
class StudyConfig:
    """Which variants are read, how, on which articles, and what they are compared with."""

    name: str = "study"
    """Its folder within the run's. Another text needs a study of another name."""
    arms: list[dict[str, Any]] = field(default_factory=_arms)
    """Each variant: its name, and the options in which it differs (memory: {rule: rms}), section by section."""
    resets: list[str] = field(default_factory=lambda: ["stream", "article"])
    """Reset policies of the variants; a variant that sets memory.reset is read under that one only."""
    orders: list[str] = field(default_factory=lambda: ["in order", "shuffled"])
    """Orders in which the articles are read under stream: in order, shuffled. Under article nothing depends on it."""
    seed: int = 0
    """Seed of the shuffled order and of the bootstrap."""
    split: str = "valid"
    """Split that is reported on."""
    articles: str = "31-60"
    """Which of its articles, counted from 1, such as 31-60, or all; not those that rates are tuned on."""
    tune: bool = True
    """Whether to train, tune and learn what is not there yet; false takes what the run holds."""
    baselines: list[str] | None = None
    """Variants that gains are given over, each under its better reset policy; unset: level 1 and rms, where there."""
    pairs: list[str] | None = None
    """LOWER:HIGHER variants that are compared word by word; unset: level 1:rms and rms:meta, where there."""
    drawn: list[str] = field(default_factory=list)
    """Variants of the pictures; empty: the first baseline and the five with the lowest losses."""
    resamples: int = 2000
    """Bootstrap resamples of the articles."""

    def __post_init__(self) -> None:
        check_values("study", self)
        plain_name("study.name", self.name)
        for option in ("arms", "resets", "orders"):
            if not getattr(self, option):
                raise UserError(f"study.{option} is empty", do="name at least one")
        for reset in self.resets:
            one_of("study.resets", reset, RESETS)
        for order in self.orders:
            one_of("study.orders", order, ORDERS)
        names = [variant.get("name") for variant in self.arms]
        if self.baselines is None:
            self.baselines = [name for name in _BASELINES if name in names]
        if self.pairs is None:
            self.pairs = [f"{lower}:{higher}" for lower, higher in _PAIRS if lower in names and higher in names]
        within("study.resamples", self.resamples, 0, 1_000_000)
        within("study.seed", self.seed, 0, LARGEST_SEED)


@dataclass
class StudyOptions(Config):
    """A run's options, and those of the study of its variants."""

    study: StudyConfig = field(default_factory=StudyConfig)
    base: str | None = None
    """A config file whose options these stand on; in a file it is named from that file's own folder."""

    def run_options(self) -> Config:
        """The run's part."""
        return Config(**{item.name: getattr(self, item.name) for item in dataclasses.fields(Config)})
