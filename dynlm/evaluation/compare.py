"""Variants that read the same text, side by side: sums of nats, divided once, with paired intervals over articles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynlm.errors import UserError
from dynlm.evaluation.overlap import Overlap, overlaps
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.tables import markdown_table, text_table
from dynlm.runtime.perplexity import perplexity
from dynlm.runtime.text import printable

_SHOWN_OF_PROTOCOL = ("level", "rule", "cache", "reset", "segment", "statement", "run", "model", "guard")


@dataclass(frozen=True)
class Gain:
    """Nats per token by which a variant is below the baseline, and the 95 % interval where there is one."""

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
    """Articles of the text that the variant was tuned, learned or picked on."""
    protocol: dict[str, Any]
    """Level, rule, reset, segment and the protocol in words, as far as the score file tells them."""


@dataclass(frozen=True)
class Comparison:
    """Figures of all variants on one text."""

    variants: list[VariantFigures]
    baseline: int
    """Index into ``variants``."""
    tokens: int
    words: int
    """Words that start in the text, an end of line counted as one."""
    bytes: int
    split: str | None
    corpus: Any
    articles: list[dict[str, Any]]
    """Index in the split (from 0) and title of each article read."""
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """A table of at most 100 columns, with the protocol in words below it."""
        return text_table(self)

    def to_markdown(self) -> str:
        """The same as a Markdown table."""
        return markdown_table(self)


def compare(scores: Sequence[Scores], baseline: int | None = None, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare variants that read the same tokens.

    ``baseline`` is an index into ``scores``; unset, it is the level-1 variant, else the first. A gain's interval is the
    95 % percentile interval of a bootstrap that draws articles with replacement, the same ones for both variants, and
    divides the drawn articles' sums; there is none with fewer than two articles.
    Raises UserError where two files are of different texts or tokenizers, naming both.
    """
    if not scores:
        raise UserError("nothing to compare", do="name at least one score file")
    check_same_text(scores)
    base = baseline_of(scores) if baseline is None else baseline
    first = scores[0]
    tokens, words, size = len(first), int(first.words.sum(dtype=np.int64)), int(first.bytes.sum())
    drawn = drawn_articles(len(first.articles), resamples, seed)
    labels = unique_labels(scores)
    variants = []
    for index, variant in enumerate(scores):
        nats = float(variant.nats.sum(dtype=np.float64))
        variants.append(
            VariantFigures(
                label=labels[index],
                nats=nats,
                nats_per_token=nats / tokens,
                perplexity_per_token=perplexity(nats, tokens),
                perplexity_per_word=perplexity(nats, words),
                bits_per_byte=nats / math.log(2) / size if size else None,
                gain=None if index == base else _gain(scores[base], variant, drawn),
                overlap=overlaps(variant.protocol),
                protocol={key: variant.protocol[key] for key in _SHOWN_OF_PROTOCOL if key in variant.protocol},
            )
        )
    return Comparison(
        variants=variants,
        baseline=base,
        tokens=tokens,
        words=words,
        bytes=size,
        split=first.protocol.get("split"),
        corpus=first.protocol.get("corpus"),
        articles=[{"index": int(index), "title": first.title(int(index))} for index in first.articles],
        resamples=resamples,
        seed=seed,
    )


def check_same_text(scores: Sequence[Scores]) -> None:
    """Raise UserError, naming both files, unless all ``scores`` are of the same tokens of the same text."""
    first = scores[0]
    for other in scores[1:]:
        difference = _difference(first, other)
        if difference:
            raise UserError(
                f"{first.name} and {other.name} cannot be compared: {difference}",
                do="score the same articles with both variants, and the same tokenizer",
            )


def baseline_of(scores: Sequence[Scores]) -> int:
    """Index of the plain level-1 variant (rule ``none``, no cache), else of any level-1 variant, else 0."""

    def rank(index: int) -> tuple[bool, bool]:
        protocol = scores[index].protocol
        rule = protocol.get("rule")
        rule_name = rule.get("name") if isinstance(rule, dict) else rule
        return not (protocol.get("level") == 1 or rule_name == "none"), bool(protocol.get("cache"))

    return min(range(len(scores)), key=rank)


def unique_labels(scores: Sequence[Scores]) -> list[str]:
    """Return the variants' labels; equal ones get the reset policy, the order, the run and at last a number added."""
    labels = [printable(variant.variant) for variant in scores]
    for marked in (
        lambda variant, label: (
            f"{label}, {printable(str(variant.protocol['reset']))}" if variant.protocol.get("reset") else label
        ),
        lambda variant, label: f"{label}, {printable(str(variant.protocol.get('order', 'in order')))}",
        lambda variant, label: (
            f"{printable(str(variant.protocol['run']))}: {label}" if variant.protocol.get("run") else label
        ),
    ):
        counts = Counter(labels)
        told = [marked(variant, label) for variant, label in zip(scores, labels, strict=True)]
        # A mark that all of the alike share tells none of them apart.
        apart = {label for label in counts if len({t for t, own in zip(told, labels, strict=True) if own == label}) > 1}
        labels = [t if own in apart else own for t, own in zip(told, labels, strict=True)]
    counts = Counter(labels)
    seen: Counter[str] = Counter()
    for index, label in enumerate(labels):
        if counts[label] > 1:
            seen[label] += 1
            labels[index] = f"{label} #{seen[label]}"
    return labels


def _difference(first: Scores, other: Scores) -> str | None:
    for key, what in (("tokenizer", "tokenizers"), ("text", "texts")):
        if first.protocol[key] != other.protocol[key]:
            return f"their {what} differ"
    if len(first) != len(other):
        return f"they hold {len(first)} and {len(other)} tokens"
    for column, what in (("article", "articles"), ("position", "positions"), ("token", "tokens"), ("words", "words")):
        rows = np.flatnonzero(getattr(first, column) != getattr(other, column))
        if len(rows):
            return f"their {what} differ from row {rows[0]} on"
    if not np.array_equal(first.bytes, other.bytes):
        return "their tokens differ in length"
    return None


def drawn_articles(articles: int, resamples: int, seed: int) -> np.ndarray | None:
    """How often each article is drawn, (resamples, articles), or None where there is nothing to draw."""
    if articles < 2 or resamples < 1:
        return None
    return np.random.default_rng(seed).multinomial(articles, np.full(articles, 1 / articles), size=resamples)


def gain_of(saved_A: np.ndarray, tokens_A: np.ndarray, drawn: np.ndarray | None) -> Gain:
    """Sum of the articles' saved nats over the sum of their tokens, with the interval of the ``drawn`` articles.

    There is none where a resample may hold no token at all: with too few articles that have any.
    """
    nats = float(saved_A.sum() / tokens_A.sum())
    if drawn is None or not (drawn @ tokens_A).all():
        return Gain(nats, None, None)
    low, high = np.percentile((drawn @ saved_A) / (drawn @ tokens_A), [2.5, 97.5])
    return Gain(nats, float(low), float(high))


def _gain(base: Scores, variant: Scores, drawn: np.ndarray | None) -> Gain:
    return gain_of(base.sums(base.nats) - variant.sums(variant.nats), np.diff(base.starts), drawn)
