"""Compare variants that read the same text: sums of nats, divided once, with paired intervals over articles."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dynlm.errors import UserError
from dynlm.evaluation.overlap import Overlap, overlaps
from dynlm.evaluation.score_file import Scores
from dynlm.runtime.perplexity import perplexity
from dynlm.runtime.text import printable

_SHOWN_OF_PROTOCOL: tuple[str, ...] = ("level", "rule", "cache", "reset", "segment", "reading", "statement", "run")
_SHOWN_OF_PROTOCOL += ("model", "update_filter", "cost")
_COLUMNS = {"article": "articles", "position": "positions", "token": "tokens", "words": "words"}


@dataclass(frozen=True)
class Gain:
    """Nats per token below the baseline, and the 95 % interval where there is one."""

    nats: float
    low: float | None = None
    high: float | None = None


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


def compare(scores: Sequence[Scores], baseline: int | None = None, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Compare variants that read the same tokens.

    ``baseline`` is an index into ``scores``, by default ``baseline_of`` them. A gain's interval is the 95 % percentile
    interval of a paired bootstrap: articles are drawn with replacement, the same for both variants, and their sums
    divided; there is none for fewer than two articles. Raises UserError as ``check_same_text`` does.
    """
    if not scores:
        raise UserError("nothing to compare", do="name at least one score file")
    check_same_text(scores)
    base = baseline_of(scores) if baseline is None else baseline
    first = scores[0]
    tokens, words, size = len(first), int(first.words.sum(dtype=np.int64)), int(first.bytes.sum())
    counts = bootstrap_counts(len(first.articles), resamples, seed)
    tokens_A, base_nats_A = np.diff(first.starts), scores[base].sums(scores[base].nats)
    variants = []
    for index, (each, label) in enumerate(zip(scores, unique_labels(scores), strict=True)):
        nats = float(each.nats.sum(dtype=np.float64))
        variants.append(
            VariantFigures(
                label=label,
                nats=nats,
                nats_per_token=nats / tokens,
                perplexity_per_token=perplexity(nats, tokens),
                perplexity_per_word=perplexity(nats, words),
                bits_per_byte=nats / math.log(2) / size if size else None,
                gain=None if index == base else gain_of(base_nats_A - each.sums(each.nats), tokens_A, counts),
                overlap=overlaps(each.protocol),
                protocol={key: each.protocol[key] for key in _SHOWN_OF_PROTOCOL if key in each.protocol},
            )
        )
    articles = [{"index": int(index), "title": first.title(int(index))} for index in first.articles]
    split, corpus = first.protocol.get("split"), first.protocol.get("corpus")
    return Comparison(variants, base, tokens, words, size, split, corpus, articles, resamples, seed)


def check_same_text(scores: Sequence[Scores]) -> None:
    """Raise UserError, naming both files, unless all ``scores`` are of the same tokens of the same text."""
    for other in scores[1:]:
        if difference := _difference(scores[0], other):
            what = f"{scores[0].name} and {other.name} cannot be compared: {difference}"
            raise UserError(what, do="score the same articles with both variants, and the same tokenizer")


def baseline_of(scores: Sequence[Scores]) -> int:
    """Return the index of the plain level-1 variant (rule ``none``, no cache), else of any of level 1, else 0.

    Of several the first that reads as a memory does, with the same context.
    """

    def is_level_1(protocol: Mapping[str, Any]) -> bool:
        rule = protocol.get("rule")
        return protocol.get("level") == 1 or (rule.get("name") if isinstance(rule, dict) else rule) == "none"

    memories = [reading_of(each.protocol) for each in scores if not is_level_1(each.protocol)]

    def rank(index: int) -> tuple[bool, bool, bool]:
        protocol = scores[index].protocol
        return not is_level_1(protocol), bool(protocol.get("cache")), reading_of(protocol) not in memories

    return min(range(len(scores)), key=rank)


def reading_of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model's options of a reading, such as context and stride, by name; none for a model without them."""
    reading = protocol.get("reading")
    return reading if isinstance(reading, dict) else {}


def reading_text(protocol: Mapping[str, Any]) -> str:
    """Return the options of ``reading_of`` for people, without those that are 0; empty where there are none."""
    return ", ".join(f"{name} {value}" for name, value in reading_of(protocol).items() if value)


def unique_labels(scores: Sequence[Scores]) -> list[str]:
    """Return the variants' labels; equal ones get what differs among them, else numbers.

    That is their context, reset policy and order, then the memory's options, then the run.
    """
    labels = [printable(each.variant) for each in scores]
    for describe, template in _MARKS:
        marked = [
            template.format(label=label, mark=printable(mark)) if mark else label
            for label, mark in zip(labels, describe(labels, scores), strict=True)
        ]
        # A mark that all equal labels share tells none of them apart.
        marks = {label: {m for m, other in zip(marked, labels, strict=True) if other == label} for label in labels}
        labels = [m if len(marks[label]) > 1 else label for m, label in zip(marked, labels, strict=True)]
    counts, seen = Counter(labels), Counter[str]()
    for index, label in enumerate(labels):
        if counts[label] > 1:
            seen[label] += 1
            labels[index] = f"{label} #{seen[label]}"
    return labels


def _of_protocols(key: str, default: str = "") -> Callable[[Sequence[str], Sequence[Scores]], list[str]]:
    """Return a function that returns the protocols' values of ``key`` as text."""
    return lambda labels, scores: [str(each.protocol.get(key) or default) for each in scores]


def _memory_differences(labels: Sequence[str], scores: Sequence[Scores]) -> list[str]:
    """Return each variant's memory options and tuned rates that differ among those with its label, such as "lr 0.1"."""
    options = []
    for each in scores:
        found = each.protocol.get("options")
        memory = found.get("memory") if isinstance(found, dict) else None
        options.append({**(memory if isinstance(memory, dict) else {}), **_common_rates(each.protocol)})
    described = []
    for label, own in zip(labels, options, strict=True):
        others = [other for other_label, other in zip(labels, options, strict=True) if other_label == label]
        unused = [name for name in own if name.startswith("lora_") and not own.get("lora_rank")]
        differing = [name for name in own if any(other.get(name) != own[name] for other in others)]
        shown = [name for name in differing if name not in unused and own[name] not in (None, False)]
        described.append(", ".join(f"{name} {own[name]}" for name in shown))
    return described


def _common_rates(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return the learning rate and the decay of a rule with the same ones for all tensors; none for other rules."""
    rule = protocol.get("rule")
    rates = rule.get("rates") if isinstance(rule, dict) else None
    of_tensors = [*rates.values()] if isinstance(rates, dict) else []
    same = of_tensors and isinstance(of_tensors[0], dict) and all(one == of_tensors[0] for one in of_tensors)
    return of_tensors[0] if same else {}


_MARKS = (
    (lambda labels, scores: [reading_text(each.protocol) for each in scores], "{label}, {mark}"),
    (_of_protocols("reset"), "{label}, {mark}"),
    (_of_protocols("order", "in order"), "{label}, {mark}"),
    (_memory_differences, "{label}, {mark}"),
    (_of_protocols("run"), "{mark}: {label}"),
)
"""What tells equal labels apart, one after the other."""


def bootstrap_counts(articles: int, resamples: int, seed: int) -> np.ndarray | None:
    """Return how often each article is drawn, (resamples, articles); None where there is nothing to resample."""
    if articles < 2 or resamples < 1:
        return None
    return np.random.default_rng(seed).multinomial(articles, np.full(articles, 1 / articles), size=resamples)


def gain_of(saved_A: np.ndarray, tokens_A: np.ndarray, counts: np.ndarray | None) -> Gain:
    """Return the gain of A articles from their saved nats and their tokens, with the interval of ``counts``.

    There is no interval where a resample may hold no token.
    """
    nats = float(saved_A.sum() / tokens_A.sum())
    if counts is None or not (counts @ tokens_A).all():
        return Gain(nats)
    low, high = np.percentile((counts @ saved_A) / (counts @ tokens_A), [2.5, 97.5])
    return Gain(nats, float(low), float(high))


def _difference(first: Scores, other: Scores) -> str | None:
    for key in ("tokenizer", "text"):
        if first.protocol[key] != other.protocol[key]:
            return f"their {key}s differ"
    if len(first) != len(other):
        return f"they hold {len(first)} and {len(other)} tokens"
    for column, name in _COLUMNS.items():
        rows = np.flatnonzero(getattr(first, column) != getattr(other, column))
        if len(rows):
            return f"their {name} differ from row {rows[0]} on"
    return None if np.array_equal(first.bytes, other.bytes) else "their tokens differ in length"
