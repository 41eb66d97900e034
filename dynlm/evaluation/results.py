"""The figures of variants that read the same text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from dynlm.evaluation.overlap import Overlap


@dataclass(frozen=True)
class Gain:
    """Nats per token below the baseline, and the 95 % interval where there is one."""

    nats: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class VariantFigures:
    """One variant's figures. Each average is the sum of nats divided once; None where its denominator is zero."""

    label: str
    nats: float
    nats_per_token: float
    perplexity_per_token: float | None
    perplexity_per_word: float | None
    bits_per_byte: float | None
    gain: Gain | None
    """None for the baseline."""
    overlap: list[Overlap]
    """Articles of the text that the variant was tuned, trained or selected on."""
    protocol: dict[str, Any]
    """Level, rule, reset, segment and the statement of the protocol, where the score file has them."""


@dataclass(frozen=True)
class Comparison:
    """Figures of all variants on one text."""

    variants: list[VariantFigures]
    baseline: int
    """Index into ``variants``."""
    tokens: int
    words: int
    """Words that start in the text; an end of line counts as one."""
    bytes: int
    split: str | None
    corpus: Any
    articles: list[dict[str, Any]]
    """Index in the split (from 0) and title of each article read."""
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return asdict(self)
