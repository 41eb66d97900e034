"""Variants as named overrides of a run's options, and the readings that each asks for."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass
from typing import Any

from dynlm.errors import UserError
from dynlm.runtime.validation import is_of
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.train.config import Config

SHARED = ("run", "corpus", "tokenizer", "model", "regularisation", "pretrain", "finetune")
"""Sections that no variant may change: all variants read the same text with the same base model."""


@dataclass(frozen=True)
class Variant:
    """A name, the options that the variant reads by, and the reset policies (``resets``) that it is read under."""

    name: str
    config: Config
    resets: tuple[str, ...]

    def under(self, reset: Any) -> Config:
        """Its options under a reset policy."""
        return dataclasses.replace(self.config, memory=dataclasses.replace(self.config.memory, reset=reset))


@dataclass(frozen=True)
class Reading:
    """One pass of a variant over the articles; ``reset`` and ``order`` are None where losses do not depend on them."""

    variant: Variant
    reset: str | None
    order: str | None

    @property
    def config(self) -> Config:
        return self.variant.under(self.reset or self.variant.resets[0])

    @property
    def stem(self) -> str:
        """Its file's name: variant, reset policy, order."""
        parts = [plain(self.variant.name), self.reset, self.order and plain(self.order)]
        return "-".join(part for part in parts if part)

    @property
    def label(self) -> str:
        return ", ".join(part for part in (self.variant.name, self.reset, self.order) if part)

    def is_in(self, order: str) -> bool:
        """Whether it is what the variant reads when articles are in this order."""
        return self.order in (None, order)


def plain(name: str) -> str:
    """``name`` in letters, digits and hyphens, for a file."""
    return "-".join(re.findall(r"\w+", name.casefold()))


def variants_of(options: StudyOptions) -> list[Variant]:
    """The variants that the options name.

    Raises UserError for a variant without a name of its own, an option that does not exist or is shared by all,
    a value of the wrong type, and where baselines, pairs or pictures name a variant that is not there.
    """
    variants = [_variant(options, entry) for entry in options.study.arms]
    seen: dict[str, str] = {}
    for variant in variants:
        if not plain(variant.name):
            raise UserError(
                f"study.arms has a variant called {variant.name!r}", do="give it a name with a letter in it"
            )
        if plain(variant.name) in seen:
            raise UserError(
                f"study.arms has {seen[plain(variant.name)]!r} and {variant.name!r}, whose files would have one name",
                do="rename one of them",
            )
        seen[plain(variant.name)] = variant.name
    study, names = options.study, {variant.name for variant in variants}
    named = {"baselines": study.baselines or [], "drawn": study.drawn, "pairs": [n for p in pairs_of(study) for n in p]}
    for option, given in named.items():
        if missing := [name for name in given if name not in names]:
            known = ", ".join(map(repr, (variant.name for variant in variants)))
            raise UserError(
                f"study.{option} names {missing[0]!r}, and no variant is called so", do=f"choose among {known}"
            )
    return variants


def pairs_of(study: StudyConfig) -> list[tuple[str, str]]:
    """(lower, higher) variants of ``study.pairs``. Raises UserError for what is no pair."""
    pairs = []
    for pair in study.pairs or ():
        lower, separator, higher = pair.partition(":")
        if not separator or not lower.strip() or not higher.strip():
            raise UserError(f"study.pairs has {pair!r}", do="write LOWER:HIGHER")
        pairs.append((lower.strip(), higher.strip()))
    return pairs


def readings_of(variant: Variant, study: StudyConfig) -> list[Reading]:
    """The passes that tell all there is to tell of a variant.

    Where no weights move neither reset policy nor order matters, and where memory starts afresh with each article the
    articles' order does not: such a reading is made once.
    """
    if (variant.config.memory.rule, variant.config.memory.cache) == ("none", "none"):
        return [Reading(variant, None, None)]
    readings = []
    for reset in variant.resets:
        orders: list[Any] = list(study.orders) if reset == "stream" else [None]
        readings += [Reading(variant, reset, order) for order in orders]
    return readings


def _variant(options: StudyOptions, entry: dict[str, Any]) -> Variant:
    overrides = dict(entry)
    name = overrides.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"study.arms has a variant without a name: {entry}", do="write name: and what it is called")
    config = options.run_options()
    sections = [item.name for item in dataclasses.fields(Config) if item.name not in SHARED]
    for section, values in overrides.items():
        if section not in sections:
            shared = " is shared by all variants" if section in SHARED else " is no section of options"
            raise UserError(f"variant {name!r}: {section!r}{shared}", do=f"choose among {', '.join(sections)}")
        if not isinstance(values, dict):
            raise UserError(
                f"variant {name!r}: {section} is {values!r}", do="write options below it, such as rule: rms"
            )
        old = getattr(config, section)
        kinds = typing.get_type_hints(type(old))
        for option, value in values.items():
            if option not in kinds:
                raise UserError(
                    f"variant {name!r}: there is no option {section}.{option}", do=f"choose among {', '.join(kinds)}"
                )
            if not is_of(value, kinds[option]):
                raise UserError(f"variant {name!r}: {section}.{option} is {value!r}", do="give a value of its type")
        try:
            config = dataclasses.replace(config, **{section: dataclasses.replace(old, **values)})
        except UserError as error:
            raise UserError(f"variant {name!r}: {error}") from error
    if config.memory.rule == "meta" and "g" not in overrides.get("memory", {}):
        # Each variant learns a g of its own; variants that name one share it.
        config = dataclasses.replace(config, memory=dataclasses.replace(config.memory, g=plain(name)))
    own = overrides.get("memory", {}).get("reset")
    return Variant(name, config, (own,) if own else tuple(options.study.resets))
