"""Whether a reading's articles are those that its rates, g, cache or gate were tuned, learned or picked on.

Figures of such articles are better than those of other text would be: whoever shows them says so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from dynlm.runtime.text import printable

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


class Overlap(TypedDict):
    """``articles`` of the ``of`` articles that were read are those that ``what`` was tuned, learned or picked on."""

    what: str
    how: str
    articles: int
    of: int


def tuned_records(protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A protocol's records of what was tuned, learned and picked on what; what is none is left out.

    In older files it is one record, of the rates.
    """
    told = protocol.get("tuned_on")
    if isinstance(told, dict) and protocol.get("level") != 1:
        articles = told.get("articles")
        told = [{"what": "rates", "how": "tuned", **told, "articles": "all" if articles is None else articles}]
    if not isinstance(told, list):
        return []
    return [one for one in told if isinstance(one, dict) and all(isinstance(one.get(k), str) for k in ("what", "how"))]


def overlaps(protocol: Mapping[str, Any]) -> list[Overlap]:
    """For each record of the same text: how many of the reading's articles are in it. Those with none are left out."""
    found: list[Overlap] = []
    read = {entry["index"] + 1 for entry in protocol["articles"]}
    for one in tuned_records(protocol):
        inside = len(read & _among(read, one.get("articles"))) if _same_text(one, protocol) else 0
        if inside:
            found.append({"what": one["what"], "how": one["how"], "articles": inside, "of": len(read)})
    return found


def overlap_notes(found: list[Overlap]) -> list[str]:
    """A clause for each: "9 of 30 articles are those its rates were tuned on"."""
    return [
        f"{one['articles']:,} of {one['of']:,} article{'s' * (one['of'] != 1)} "
        f"{'are' if one['articles'] != 1 else 'is'} among those its {printable(one['what'])} "
        f"{'were' if one['what'].endswith('s') else 'was'} {printable(one['how'])} on"
        for one in found
    ]


def tuned_notes(protocol: Mapping[str, Any], with_corpus: bool = False) -> list[str]:
    """Each record in words, such as "rates tuned on valid, articles 1-30".

    The corpus, which may be a path of somebody's computer, is named only ``with_corpus``.
    """
    told = []
    for one in tuned_records(protocol):
        what = f"{one['what']} {one['how']}"
        if one["how"] != "given":
            split, articles = one.get("split"), one.get("articles")
            corpus = f"{one.get('corpus')}, " if with_corpus else ""
            if isinstance(split, str) and isinstance(articles, str):
                what += f" on {corpus}{split}, articles {articles.replace(',', ', ')}"
            else:
                what += ", not told on which articles"
        told.append(printable(what))
    return told


def _same_text(one: Mapping[str, Any], protocol: Mapping[str, Any]) -> bool:
    """The whole split is the same by its content, wherever it lies, or at least by its name."""
    if isinstance(one.get("split_text"), str) and one["split_text"] == protocol.get("split_text"):
        return True
    named = ("corpus", "split")
    return all(isinstance(one.get(name), str) and one[name] == protocol.get(name) for name in named)


def _among(read: set[int], articles: object) -> set[int]:
    """Those of ``read`` that a list such as "1-30,32" names."""
    if articles == "all":
        return read
    found: set[int] = set()
    for part in articles.split(",") if isinstance(articles, str) else ():
        if (match := _RANGE.fullmatch(part.strip())) is not None:
            low = int(match[1])
            high = int(match[2] or low)
            found |= {number for number in read if low <= number <= high}
    return found
