"""Arms as named overrides of a run's options, and the readings that each asks for."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any

from dynlm.config import Config, is_of
from dynlm.errors import UserError
from dynlm.study.options import StudyConfig, StudyOptions

SHARED = ("run", "corpus", "tokenizer", "model", "regularisation", "pretrain", "finetune")
"""Sections that no arm may change: all arms read the same text with the same base model."""


@dataclass(frozen=True)
class Arm:
    """A name and the whole of the options that the arm reads by; ``resets`` are the policies that it is read under."""

    name: str
    config: Config
    resets: tuple[str, ...]

    def under(self, reset: str) -> Config:
        """Its options under a reset policy."""
        return dataclasses.replace(self.config, memory=dataclasses.replace(self.config.memory, reset=reset))


@dataclass(frozen=True)
class Reading:
    """One pass of an arm over the articles. ``reset`` and ``order`` are None where the losses do not depend on them."""

    arm: Arm
    reset: str | None
    order: str | None

    @property
    def config(self) -> Config:
        return self.arm.under(self.reset or self.arm.resets[0])

    @property
    def stem(self) -> str:
        """Its file's name: arm, reset policy, order."""
        parts = [plain(self.arm.name), self.reset, self.order and plain(self.order)]
        return "-".join(part for part in parts if part)

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.arm.name, self.reset, self.order) if part)

    def is_in(self, order: str) -> bool:
        """Whether it is what the arm reads when articles are in this order."""
        return self.order in (None, order)


def plain(name: str) -> str:
    """``name`` in letters, digits and hyphens, for a file."""
    return "-".join(re.findall(r"\w+", name.casefold()))


def arms_of(options: StudyOptions) -> list[Arm]:
    """The arms that the options name.

    Raises UserError for an arm without a name of its own, an option that does not exist or is not the arms' to change,
    a value of the wrong type, and where baselines, pairs or pictures name an arm that is not there.
    """
    arms = [_arm(options, entry) for entry in options.study.arms]
    seen: dict[str, str] = {}
    for arm in arms:
        if not plain(arm.name):
            raise UserError(f"study.arms has an arm called {arm.name!r}", do="give it a name with a letter in it")
        if plain(arm.name) in seen:
            raise UserError(
                f"study.arms has {seen[plain(arm.name)]!r} and {arm.name!r}, whose files would have one name",
                do="rename one of them",
            )
        seen[plain(arm.name)] = arm.name
    study, names = options.study, {arm.name for arm in arms}
    named = {"baselines": study.baselines or [], "drawn": study.drawn, "pairs": [n for p in pairs_of(study) for n in p]}
    for option, given in named.items():
        if missing := [name for name in given if name not in names]:
            known = ", ".join(map(repr, (arm.name for arm in arms)))
            raise UserError(f"study.{option} names {missing[0]!r}, and no arm is called so", do=f"choose among {known}")
    return arms


def pairs_of(study: StudyConfig) -> list[tuple[str, str]]:
    """(lower, higher) arms of ``study.pairs``. Raises UserError for what is no pair."""
    pairs = []
    for pair in study.pairs or ():
        lower, separator, higher = pair.partition(":")
        if not separator or not lower.strip() or not higher.strip():
            raise UserError(f"study.pairs has {pair!r}", do="write LOWER:HIGHER")
        pairs.append((lower.strip(), higher.strip()))
    return pairs


def readings_of(arm: Arm, study: StudyConfig) -> list[Reading]:
    """The passes that tell all there is to tell of an arm.

    Where no weights move neither reset policy nor order matters, and where memory starts afresh with each article the
    articles' order does not: such a reading is made once.
    """
    if (arm.config.memory.rule, arm.config.memory.cache) == ("none", "none"):
        return [Reading(arm, None, None)]
    readings = []
    for reset in arm.resets:
        orders: list[Any] = list(study.orders) if reset == "stream" else [None]
        readings += [Reading(arm, reset, order) for order in orders]
    return readings


def _arm(options: StudyOptions, entry: dict[str, Any]) -> Arm:
    overrides = dict(entry)
    name = overrides.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"study.arms has an arm without a name: {entry}", do="write name: and what it is called")
    config = options.run_options()
    sections = [item.name for item in dataclasses.fields(Config) if item.name not in SHARED]
    for section, values in overrides.items():
        if section not in sections:
            shared = " is shared by all arms" if section in SHARED else " is no section of options"
            raise UserError(f"arm {name!r}: {section!r}{shared}", do=f"choose among {', '.join(sections)}")
        if not isinstance(values, dict):
            raise UserError(f"arm {name!r}: {section} is {values!r}", do="write options below it, such as rule: rms")
        old = getattr(config, section)
        kinds = typing.get_type_hints(type(old))
        for option, value in values.items():
            if option not in kinds:
                raise UserError(
                    f"arm {name!r}: there is no option {section}.{option}", do=f"choose among {', '.join(kinds)}"
                )
            if not is_of(value, kinds[option]):
                raise UserError(f"arm {name!r}: {section}.{option} is {value!r}", do="give a value of its type")
        try:
            config = dataclasses.replace(config, **{section: dataclasses.replace(old, **values)})
        except UserError as error:
            raise UserError(f"arm {name!r}: {error}") from error
    if config.memory.rule == "meta" and "g" not in overrides.get("memory", {}):
        # Each arm learns a g of its own; arms that name one share it.
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, g=plain(name)))
    own = overrides.get("memory", {}).get("reset")
    return Arm(name, config, (own,) if own else tuple(options.study.resets))
