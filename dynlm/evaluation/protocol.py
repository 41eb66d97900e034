"""The protocol of a reading: the model, memory, text and order, as a score file keeps them beside the losses."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.adapt.constants import constants_of
from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.memory_file import SavedMemory, load_about
from dynlm.adapt.partners.cache_gate import Gate
from dynlm.data.options import ORDERS, Order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.validation import one_of

_ORDER = re.compile(r"in order|shuffled, seed (\d{1,19})", re.ASCII)


@dataclass(frozen=True)
class ArticleOrder:
    """The order that articles are read in: the text's own, or shuffled by a seed. Raises UserError for another kind."""

    kind: Order = "in order"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of("order", self.kind, ORDERS)

    def __str__(self) -> str:
        return self.kind if self.kind == "in order" else f"{self.kind}, seed {self.seed}"

    @classmethod
    def parse(cls, text: str) -> ArticleOrder | None:
        """Return the order that ``str`` wrote as ``text``; None for any other text."""
        if (found := _ORDER.fullmatch(text)) is None:
            return None
        return cls() if found[1] is None else cls("shuffled", int(found[1]))

    def apply(self, articles: Sequence[int]) -> list[int]:
        """Return ``articles`` in this order."""
        if self.kind == "in order":
            return list(articles)
        return [articles[index] for index in np.random.default_rng(self.seed).permutation(len(articles))]


def variant_name(dynamic_model: DynamicModel) -> str:
    """Return what tables call a model, such as "rms + cache"."""
    name = dynamic_model.rule.name if dynamic_model.rule.learns else "level 1"
    if dynamic_model.cache is not None:
        name += " + gated cache" if isinstance(dynamic_model.cache.gate, Gate) else " + cache"
    return name if dynamic_model.mixture is None else f"no-regret ({name})"


def dynamic_model_protocol(dynamic_model: DynamicModel, segment: int, order: ArticleOrder) -> dict[str, Any]:
    """Describe what reads: its level, rule, cache, mixture and reset policy, in fields and as a sentence."""
    rule, cache = dynamic_model.rule, dynamic_model.cache
    protocol: dict[str, Any] = {
        "variant": variant_name(dynamic_model),
        "level": rule.level,
        "rule": {"name": rule.name, "rates": rule.describe()},
        "reset": dynamic_model.reset,
        "segment": segment,
        "order": str(order),
        "statement": _statement(dynamic_model, segment, order),
        "reader": constants_of(dynamic_model),
    }
    if dynamic_model.mixture is not None:
        protocol["no_regret"] = {"share": dynamic_model.mixture.share}
    if cache is not None:
        protocol["cache"] = {"kind": "learned", "window": cache.window}
        protocol["cache"]["inverse_temperature"] = list(cache.inverse_temperatures)
        if not isinstance(cache.gate, Gate):
            protocol["cache"] |= {"kind": "fixed", "share": cache.gate}
    return protocol


def text_protocol(text: TokenisedSplit, articles: Sequence[int]) -> dict[str, Any]:
    """Describe the text: its articles (indices from 0) and fingerprints."""
    return {
        "articles": [{"index": int(index), "title": text.titles[index]} for index in articles],
        "text": text_fingerprint(text, articles),
        "split_text": text.fingerprint,
    }


def start_protocol(path: Path, start: SavedMemory, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Describe the memory file that a reading starts with, given the rest of its protocol."""
    before = f"starting with a memory of {start.tokens} tokens of {start.articles} articles read before"
    return {
        "variant": f"{protocol['variant']} after {path.stem}",
        "statement": f"{protocol['statement']}; {before}",
        "memory": {"content": load_about(path)[0].content, "tokens": start.tokens, "articles": start.articles},
    }


def text_fingerprint(text: TokenisedSplit, articles: Sequence[int]) -> str:
    """Return the fingerprint of the tokens of ``articles``, in the split's own order."""
    return fingerprint(text.fingerprint, *(str(index) for index in articles))


def _statement(dynamic_model: DynamicModel, segment: int, order: ArticleOrder) -> str:
    by_article = dynamic_model.reset == "article"
    clauses = [
        f"score, then learn: each segment of {segment} tokens is scored once, before anything is learned from it",
    ]
    if dynamic_model.rule.learns:
        clauses.append(
            f"dynamic weights {'start afresh with each article' if by_article else 'run through the whole text'}"
        )
    if dynamic_model.cache is not None:
        reach = "emptied when an article begins" if by_article else "of earlier articles too"
        clauses.append(f"a cache of the last {dynamic_model.cache.window} tokens, {reach}")
    if dynamic_model.mixture is not None:
        clauses.append(
            "each token's probability is a mixture of the rule's and level 1's by fixed share (Herbster & Warmuth "
            f"1998, share {dynamic_model.mixture.share:g}), with weights that depend on earlier tokens only and "
            + ("start evenly with each article" if by_article else "run through the whole text")
        )
    clauses.append("the model's state starts afresh with each article, from a start token that is not scored")
    if order.kind != "in order":
        clauses.append(f"articles {order}")
    return "; ".join(clauses)
