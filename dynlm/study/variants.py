"""Variants as named overrides of a run's options, and the readings of each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions, Reset
from dynlm.adapt.rules.registry import RULES
from dynlm.data.options import Order
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.runtime.validation import plain_name, section_of, shortened
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.train.options import MetatrainOptions, TuneOptions

_SECTIONS = ("memory", "model", "tune", "g", "metatrain")
"""Sections that a variant may change; the others decide on the text and the base model, which all variants share. Of
the model it may change the options of reading."""
_BASELINES = ("level 1", "rms")
_PAIRS = (("level 1", "rms"), ("rms", "meta"))


@dataclass(frozen=True)
class Variant:
    """A named set of options, and the reset policies (``resets``) under which it is read."""

    name: str
    resets: tuple[Reset, ...]
    memory: MemoryOptions
    model: ModelOptions
    tune: TuneOptions
    g: LearnedRuleOptions
    metatrain: MetatrainOptions
    over: str | None = None
    """The variant that its gain is given over beside the study's baselines."""
    run: str | None = None
    """The run beside the study's whose static weights it reads with; None: the study's."""

    def under(self, reset: Reset) -> Variant:
        """Return it with the memory options of a reset policy."""
        return dataclasses.replace(self, memory=self.memory.replace(reset=reset))

    @property
    def is_static(self) -> bool:
        """Whether its losses depend on nothing but the model and its context."""
        return (self.memory.rule, self.memory.cache) == ("none", "none")

    @property
    def is_learned(self) -> bool:
        """Whether a part of it is learned by gradients: g, or a gate."""
        return self._learns_g or self.memory.cache == "learned"

    @property
    def _learns_g(self) -> bool:
        return RULES[self.memory.rule].learned and self.metatrain.tokens > 0

    def with_meta_seed(self, seed: int, run_seed: int) -> Variant:
        """Return it with what it learns learned from ``seed``, and kept under a name of its own.

        What is learned from ``run_seed``, the seed of the run, has the name that it has without seeds.
        """
        if not self.is_learned or self.run is not None:
            return self
        own, memory = None if seed == run_seed else seed, self.memory
        if own is not None and self._learns_g:
            memory = memory.replace(g=f"{memory.g}-seed-{own}")
        elif own is not None:
            memory = memory.replace(gate="-".join([*([memory.gate] if memory.gate else []), f"seed-{own}"]))
        return dataclasses.replace(self, memory=memory, metatrain=self.metatrain.replace(seed=own))


@dataclass(frozen=True)
class Reading:
    """One pass of a variant over the articles; ``reset`` and ``order`` are None where losses do not depend on them."""

    variant: Variant
    reset: Reset | None
    order: Order | None

    @property
    def memory(self) -> MemoryOptions:
        """The variant's memory options under the reading's reset policy."""
        return self.variant.under(self.reset or self.variant.resets[0]).memory

    @property
    def stem(self) -> str:
        """The name of its file: variant, reset policy, order."""
        return "-".join(slug(part) for part in (self.variant.name, self.reset, self.order) if part)

    @property
    def label(self) -> str:
        """Variant, reset policy and order, for people."""
        return ", ".join(part for part in (self.variant.name, self.reset, self.order) if part)

    def is_in(self, order: Order) -> bool:
        """Return whether this is what the variant reads when articles are in ``order``."""
        return self.order in (None, order)


def slug(name: str) -> str:
    """Return ``name`` in letters, digits and hyphens, for a file."""
    return "-".join(re.findall(r"\w+", name.casefold()))


def gain_key(name: str) -> str:
    """Return the name of the field of a gain over the baseline ``name``, in tables for programs."""
    return f"gain_over_{slug(name).replace('-', '_')}"


def variants_of(options: StudyOptions) -> list[Variant]:
    """Return the variants that the options name.

    Raises UserError for a variant without a name of its own, an option that does not exist, is shared by all variants
    or has a wrong value, and where baselines, pairs or pictures name an unknown variant.
    """
    study, slugs = options.study, dict[str, str]()
    variants = [_variant(options, entry) for entry in study.variants or []]
    names = [variant.name for variant in variants]
    for name in names:
        if not slug(name):
            raise UserError(f"study.variants has a variant called {name!r}", do="give it a name with a letter in it")
        if (other := slugs.setdefault(slug(name), name)) is not name:
            what = f"study.variants has {other!r} and {name!r}, whose files would have one name"
            raise UserError(what, do="rename one of them")
    named = {"baselines": baselines_of(study), "drawn": study.drawn, "pairs": [n for p in pairs_of(study) for n in p]}
    named |= {"seeded": study.seeded or [], "variants": [each.over for each in variants if each.over is not None]}
    for option, given in named.items():
        if unknown := [name for name in given if name not in names]:
            what = f"study.{option} names {unknown[0]!r}, which is no variant"
            raise UserError(what, do=f"choose among {', '.join(map(repr, names))}")
    return variants


def baselines_of(study: StudyConfig) -> list[str]:
    """Return the names of the baselines; unset, of those default ones that there are."""
    names = [entry.get("name") for entry in study.variants or []]
    return [name for name in _BASELINES if name in names] if study.baselines is None else study.baselines


def pairs_of(study: StudyConfig) -> list[tuple[str, str]]:
    """Return the (lower, higher) names of ``study.pairs``. Raises UserError for malformed ones."""
    if study.pairs is None:
        names = [entry.get("name") for entry in study.variants or []]
        return [pair for pair in _PAIRS if set(pair) <= set(names)]
    pairs = []
    for pair in study.pairs:
        lower, _, higher = (part.strip() for part in pair.partition(":"))
        if not lower or not higher:
            raise UserError(f"study.pairs has {pair!r}", do="write LOWER:HIGHER")
        pairs.append((lower, higher))
    return pairs


def baseline_for(variant: Variant, name: str, variants: Sequence[Variant]) -> str | None:
    """Return the variant over which a gain of ``variant`` over the baseline ``name`` is given; None: there is no gain.

    The gain of a memory is over a variant with the same options of reading, so that it is not one of context: where
    the baseline's differ, over static weights that have them. Static weights are compared with any others.
    """
    (baseline,) = (each for each in variants if each.name == name)
    reading = variant.model.reading()
    if baseline.model.reading() == reading or (baseline.is_static and variant.is_static):
        return name
    same = [each.name for each in variants if each.is_static and not each.run and each.model.reading() == reading]
    return same[0] if baseline.is_static and same else None


def meta_seeds_of(study: StudyConfig) -> list[int | None]:
    """Return the seeds of what is learned; None: each variant's own."""
    return [None] if study.meta_seeds is None else [*study.meta_seeds]


def seeded_variants(variants: Sequence[Variant], study: StudyConfig) -> list[Variant]:
    """Return the variants that are read with all seeds: those of ``study.seeded``, and those that gains are over.

    Weights of another run are those of one training.
    """
    if study.seeded is None:
        return [each for each in variants if each.run is None]
    wanted = {*study.seeded, *baselines_of(study)}
    wanted |= {each.over for each in variants if each.name in study.seeded and each.over is not None}
    return [each for each in variants if each.name in wanted and each.run is None]


def orders_of(study: StudyConfig) -> list[Order]:
    """Return the orders in which articles are read under stream; unset: both."""
    return ["in order", "shuffled"] if study.orders is None else study.orders


def resets_of(study: StudyConfig) -> list[Reset]:
    """Return the reset policies of variants that set none; unset: both."""
    return ["stream", "article"] if study.resets is None else study.resets


def readings_of(variant: Variant, study: StudyConfig) -> list[Reading]:
    """Return the readings of a variant, each distinct one once.

    Reset policy and order do not matter to static weights that know where articles begin, nor does the order where
    memory is reset at each article.
    """
    if variant.is_static and variant.memory.article_boundaries:
        return [Reading(variant, None, None)]
    orders: dict[Reset, list[Order | None]] = {"stream": [*orders_of(study)], "article": [None]}
    return [Reading(variant, reset, order) for reset in variant.resets for order in orders[reset]]


def _variant(options: StudyOptions, entry: dict[str, Any]) -> Variant:
    overrides = dict(entry)
    name = overrides.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"study.variants has a variant without a name: {entry}", do="write name: and what it is called")
    over, run = (_text(name, key, overrides.pop(key, None)) for key in ("over", "run"))
    if over == name:
        raise UserError(f"variant {name!r}: its gain is over itself", do="name another variant, or leave over out")
    if run is not None:
        plain_name(f"variant {name!r}: run", run)
        static = {"rule": "none", "cache": "none"}
        if isinstance(memory := overrides.get("memory", {}), dict):
            overrides["memory"] = {**static, **memory}
    sections: dict[str, Any] = {section: getattr(options, section) for section in _SECTIONS}
    for section, values in overrides.items():
        if section not in sections:
            what = "is shared by all variants" if section in vars(options) else "is no section of options"
            raise UserError(f"variant {name!r}: {section!r} {what}", do=f"choose among {', '.join(sections)}")
        try:
            if not isinstance(values, dict):
                raise UserError(f"{section} is {values!r}", do="write options below it, such as rule: rms")
            old = sections[section]
            own = old.READING.split() if old.READING != "*" else [*vars(old)]
            if shared := [name for name in values if name in vars(old) and name not in own]:
                do = f"choose among {', '.join(own)}" if own else "take it out"
                raise UserError(f"{section}.{shared[0]} is shared by all variants", do=do)
            # Another rule has other options: of the old ones only those that both have are kept.
            kind = type(old).select({**vars(old), **values})
            both = {item.name: getattr(old, item.name) for item in dataclasses.fields(kind) if hasattr(old, item.name)}
            sections[section] = section_of(kind, {**both, **values})
        except UserError as error:
            raise UserError(f"variant {name!r}: {error}") from error
    memory, given = sections["memory"], overrides.get("memory", {})
    if RULES[memory.rule].learned and "g" not in given:
        # Each variant learns a g of its own; variants that name one share it.
        sections["memory"] = memory.replace(g=slug(name))
    if run is not None and memory.rule != "none":
        what = f"variant {name!r}: of another run only static weights are read, memory.rule is {memory.rule!r}"
        raise UserError(what, do="choose rule none, or a study of that run")
    # Without article boundaries no memory is reset at one.
    only = "reset" in given or not memory.article_boundaries
    resets = (memory.reset,) if only else tuple(resets_of(options.study))
    return Variant(name, resets, **sections, over=over, run=run)


def _text(variant: str, key: str, value: object) -> str | None:
    if not isinstance(value, str | None):
        raise UserError(f"variant {variant!r}: {key} is {shortened(value)}", do="write a name")
    return value
