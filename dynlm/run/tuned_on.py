"""On which articles something was tuned, learned or picked: records that are kept with it, and go into score files.

A record is {what, how, corpus, split, articles, split_text}: ``articles`` counted from 1, such as "1-30,32";
``split_text`` the fingerprint of the whole split. ``evaluation.overlap`` reads them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.registry import RULES
from dynlm.data.article_range import format_ranges
from dynlm.data.articles import source_name
from dynlm.data.options import CorpusOptions
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.run.cache_store import FIXED, load_fixed, load_gated
from dynlm.run.folder import TrainedModel
from dynlm.run.rule_store import load_learned, load_tuned


def record(
    what: str, how: str, corpus: CorpusOptions, split: str, text: TokenisedSplit, indices: Iterable[int]
) -> dict[str, Any]:
    """That ``what`` ("rates", "g", "cache", "gate") was tuned, learned or picked on these articles of a split."""
    return {
        "what": what,
        "how": how,
        "corpus": source_name(corpus),
        "split": split,
        "articles": format_ranges(int(index) + 1 for index in indices),
        "split_text": text.fingerprint,
    }


def records_of(held: Mapping[str, Any], what: str, how: str) -> list[dict[str, Any]]:
    """What is kept with something tuned or learned; made of its ``split`` and ``articles`` where it is older.

    Where it does not tell, the one record has no articles.
    """
    kept, articles = held.get("tuned_on"), held.get("articles")
    if isinstance(kept, list) and all(isinstance(one, dict) for one in kept):
        return [dict(one) for one in kept]
    told: dict[str, Any] = {"what": what, "how": how, "articles": None}
    if isinstance(articles, list) and all(isinstance(number, int) for number in articles):
        told |= {"corpus": held.get("corpus"), "split": held.get("split"), "articles": format_ranges(articles)}
    return [told]


def tuned_on(folder: Path, trained: TrainedModel, memory: MemoryOptions) -> list[dict[str, Any]] | None:
    """What ``memory``'s rule and cache were tuned, learned and picked on, as the run keeps it; None for level 1.

    What the options give by hand has the record {what, how: "given"}. Raises UserError where what is kept cannot be
    read.
    """
    if (memory.rule, memory.cache) == ("none", "none"):
        return None
    told: list[dict[str, Any]] = []
    kind = RULES[memory.rule]
    if kind.learned:
        learned = load_learned(folder, memory.g, memory.reset, trained)
        told += records_of(learned[1] if learned else {}, "g", "learned")
    elif kind.searched:
        given = all(getattr(memory, name) is not None for name in kind.searched)
        rates = None if given else load_tuned(folder, memory.rule, memory.reset, trained)
        told += [{"what": "rates", "how": "given"}] if given else records_of(rates or {}, "rates", "tuned")
    if memory.cache == "learned":
        gated = load_gated(folder, memory, trained)
        told += records_of(gated[1] if gated else {}, "gate", "learned")
    elif memory.cache == "fixed":
        given = all(getattr(memory, option) is not None for option in FIXED.values())
        cache = None if given else load_fixed(folder, memory, trained)
        told += [{"what": "cache", "how": "given"}] if given else records_of(cache or {}, "cache", "tuned")
    return told
