"""The protocol of a scoring: the model, memory, text and order, as a score file keeps them beside the losses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.adapt.dynamic_model import DynamicModel, constants_of
from dynlm.adapt.memory_file import SavedMemory, load_about
from dynlm.adapt.options import LearnedStepOptions, MemoryOptions
from dynlm.adapt.partners.cache_gate import Gate
from dynlm.data.articles import source_name
from dynlm.data.options import ORDERS, CorpusOptions, Order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.run.provenance import made_with
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.renamed import original_options
from dynlm.runtime.validation import earlier_options, one_of

_ORDER = re.compile(r"in order|shuffled, seed (\d{1,19})", re.ASCII)
_DECISIVE = ("model", "tokenizer", "text", "split", "order", "reset", "segment", "reader", "memory")


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


def scoring_protocol(
    run: Run, dynamic_model: DynamicModel, split: str, articles: Sequence[int], order: ArticleOrder
) -> dict[str, Any]:
    """Describe a scoring of ``articles`` (indices from 0) with a fresh memory, as far as it is known before."""
    memory, corpus, text = run.section(MemoryOptions), run.section(CorpusOptions), run.split(split)
    rule, cache, mixture = dynamic_model.rule, dynamic_model.cache, dynamic_model.mixture
    protocol: dict[str, Any] = {
        "run": run.path.name,
        "variant": variant_name(dynamic_model) + ("" if memory.article_boundaries else " without boundaries"),
        "level": rule.level,
        "rule": {"name": rule.name, "rates": rule.describe()},
        "reset": dynamic_model.reset,
        "segment": memory.segment,
        "order": str(order),
        "statement": _statement(dynamic_model, memory, order),
        "reader": constants_of(dynamic_model),
    }
    if not memory.article_boundaries:
        protocol["article_boundaries"] = False
    if reading := dynamic_model.model.options.reading():
        protocol["reading"] = reading
    if mixture is not None:
        protocol["no_regret"] = {"share": mixture.share}
    if cache is not None:
        kind = {"kind": "learned"} if isinstance(cache.gate, Gate) else {"kind": "fixed", "share": cache.gate}
        inverse_temperature = list(cache.inverse_temperatures)
        protocol["cache"] = {**kind, "window": cache.window, "inverse_temperature": inverse_temperature}
    return {
        **protocol,
        "split": split,
        "corpus": source_name(corpus),
        "articles": [{"index": int(index), "title": text.titles[index]} for index in articles],
        "text": text_fingerprint(text, articles),
        "split_text": text.fingerprint,
        "tuned_on": run.store.tuned_on(memory),
        "tokenizer": run.trained.tokenizer.fingerprint,
        "model": run.fingerprint,
        "seed": run.options.seed,
        "options": {"corpus": vars(corpus), "memory": vars(memory)},
        **made_with(run.processes.device),
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


def scoring_key(protocol: Mapping[str, Any]) -> str:
    """Return the fingerprint of what decides on the losses, up to rounding.

    That is the model, how it reads, the text, the order, the rule and the memory options, not versions and the date.
    """
    options = protocol.get("options")
    memory = options.get("memory") if isinstance(options, dict) else None
    if isinstance(memory, dict):
        memory = original_options("memory", earlier_options(LearnedStepOptions, memory))
    decisive = {name: protocol.get(name) for name in _DECISIVE}
    if reading := protocol.get("reading"):  # of models that have no such options, earlier keys stay as they were
        decisive["reading"] = reading
    return fingerprint(json.dumps([decisive, memory], sort_keys=True))


def resume_key(protocol: Mapping[str, Any]) -> str:
    """Return the fingerprint of everything but the date: what an interrupted scoring must share with its checkpoint."""
    return fingerprint(json.dumps({k: value for k, value in protocol.items() if k != "date"}, sort_keys=True))


def _statement(dynamic_model: DynamicModel, memory: MemoryOptions, order: ArticleOrder) -> str:
    by_article = dynamic_model.reset == "article"
    clauses = [
        f"score, then learn: each segment of {memory.segment} tokens is scored once, before anything is learned from it"
    ]
    if dynamic_model.rule.learns:
        runs = "start afresh with each article" if by_article else "run through the whole text"
        clauses.append(f"dynamic weights {runs}")
    if dynamic_model.cache is not None:
        reach = "emptied when an article begins" if by_article else "of earlier articles too"
        clauses.append(f"a cache of the last {dynamic_model.cache.window} tokens, {reach}")
    if dynamic_model.mixture is not None:
        runs = "start evenly with each article" if by_article else "run through the whole text"
        clauses.append(
            "each token's probability is a mixture of the rule's and level 1's by fixed share (Herbster & Warmuth "
            f"1998, share {dynamic_model.mixture.share:g}), with weights that depend on earlier tokens only and {runs}"
        )
    if reading := dynamic_model.model.options.statement():
        clauses.append(reading)
    if memory.article_boundaries:
        clauses.append("the model's state starts afresh with each article, from a start token that is not scored")
    else:
        clauses.append(
            "the articles are read as one text: nothing tells where one begins, segments run across their ends, and "
            "the model's state runs through all of them, from one start token that is not scored"
        )
    return "; ".join(clauses if order.kind == "in order" else [*clauses, f"articles {order}"])
