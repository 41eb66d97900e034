"""Records of the articles that something was tuned, learned or selected on; stored with it and in score files.

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
    """Return the record that ``what`` (rates, g, cache, gate) was tuned, learned or picked on articles of a split."""
    return {
        "what": what,
        "how": how,
        "corpus": source_name(corpus),
        "split": split,
        "articles": format_ranges(int(index) + 1 for index in indices),
        "split_text": text.fingerprint,
    }


def records_of(stored: Mapping[str, Any], what: str, how: str) -> list[dict[str, Any]]:
    """Return the records stored with something tuned or learned.

    Older files have ``split`` and ``articles`` instead of records; without these the one record has no articles.
    """
    kept, articles = stored.get("tuned_on"), stored.get("articles")
    if isinstance(kept, list) and all(isinstance(one, dict) for one in kept):
        return [dict(one) for one in kept]
    records: dict[str, Any] = {"what": what, "how": how, "articles": None}
    if isinstance(articles, list) and all(isinstance(number, int) for number in articles):
        records |= {"corpus": stored.get("corpus"), "split": stored.get("split"), "articles": format_ranges(articles)}
    return [records]


def tuned_on(folder: Path, trained: TrainedModel, memory: MemoryOptions) -> list[dict[str, Any]] | None:
    """Return the records of ``memory``'s rule and cache in this run; None for level 1.

    Constants given as options have the record {what, how: "given"}. Raises UserError for damaged files.
    """
    if (memory.rule, memory.cache) == ("none", "none"):
        return None
    records: list[dict[str, Any]] = []
    kind = RULES[memory.rule]
    if kind.learned:
        learned = load_learned(folder, memory.g, memory.reset, trained)
        records += records_of(learned[1] if learned else {}, "g", "learned")
    elif kind.searched:
        given = all(getattr(memory, name) is not None for name in kind.searched)
        rates = None if given else load_tuned(folder, memory.rule, memory.reset, trained)
        records += [{"what": "rates", "how": "given"}] if given else records_of(rates or {}, "rates", "tuned")
    if memory.cache == "learned":
        gated = load_gated(folder, memory, trained)
        records += records_of(gated[1] if gated else {}, "gate", "learned")
    elif memory.cache == "fixed":
        given = all(getattr(memory, option) is not None for option in FIXED.values())
        cache = None if given else load_fixed(folder, memory, trained)
        records += [{"what": "cache", "how": "given"}] if given else records_of(cache or {}, "cache", "tuned")
    return records
