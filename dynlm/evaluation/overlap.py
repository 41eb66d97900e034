"""Which articles of a reading its rates, g, cache or gate were tuned, learned or picked on.

Figures of such articles are better than those of other text would be: tables and pictures say so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from dynlm.runtime.text import printable

_RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?", re.ASCII)


class Overlap(TypedDict):
    """``articles`` of the ``of`` articles read are those that ``what`` was ``how`` (tuned, learned, picked) on."""

    what: str
    how: str
    articles: int
    of: int


def tuned_records(protocol: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a protocol's records of what was tuned, learned and picked on what; malformed ones are left out.

    Older files hold one record, of the rates.
    """
    records = protocol.get("tuned_on")
    if isinstance(records, dict) and protocol.get("level") != 1:
        articles = records.get("articles")
        records = [{"what": "rates", "how": "tuned", **records, "articles": "all" if articles is None else articles}]
    if not isinstance(records, list):
        return []
    records = [one for one in records if isinstance(one, dict)]
    return [one for one in records if isinstance(one.get("what"), str) and isinstance(one.get("how"), str)]


def overlaps(protocol: Mapping[str, Any]) -> list[Overlap]:
    """Return, for each record of the same split, how many of the articles read are in it, if any.

    A split is the same by its content, or at least by the names of corpus and split.
    """
    read = {entry["index"] + 1 for entry in protocol["articles"]}
    found: list[Overlap] = []
    for one in tuned_records(protocol):
        by_text, by_corpus, by_split = (
            isinstance(one.get(key), str) and one[key] == protocol.get(key) for key in ("split_text", "corpus", "split")
        )
        inside = _among(read, one.get("articles")) if by_text or (by_corpus and by_split) else ()
        if inside:
            found.append({"what": one["what"], "how": one["how"], "articles": len(inside), "of": len(read)})
    return found


def overlap_notes(found: list[Overlap]) -> list[str]:
    """Return a clause for each: "9 of 30 articles are among those its rates were tuned on"."""
    return [
        f"{one['articles']:,} of {one['of']:,} article{'s' * (one['of'] != 1)} "
        f"{'are' if one['articles'] != 1 else 'is'} among those its {printable(one['what'])} "
        f"{'were' if one['what'].endswith('s') else 'was'} {printable(one['how'])} on"
        for one in found
    ]


def tuned_notes(protocol: Mapping[str, Any], with_corpus: bool = False) -> list[str]:
    """Return each record in words, such as "rates tuned on valid, articles 1-30".

    The corpus, which may be a private path, is named only ``with_corpus``.
    """
    notes = []
    for one in tuned_records(protocol):
        split, articles, where = one.get("split"), one.get("articles"), ""
        corpus = f"{one.get('corpus')}, " if with_corpus else ""
        if isinstance(split, str) and isinstance(articles, str):
            where = f" on {corpus}{split}, articles {articles.replace(',', ', ')}"
        elif one["how"] != "given":
            where = " on unknown articles"
        others = ", where other tensors moved" if one.get("other_tensors") is True else ""
        notes.append(printable(f"{one['what']} {one['how']}{where}{others}"))
    return notes


def _among(read: set[int], articles: object) -> set[int]:
    """Return those of ``read`` that a list such as "1-30,32" names."""
    if articles == "all":
        return read
    parts = articles.split(",") if isinstance(articles, str) else ()
    matches = [match for part in parts if (match := _RANGE.fullmatch(part.strip()))]
    ranges = [(int(match[1]), int(match[2] or match[1])) for match in matches]
    return {number for number in read if any(low <= number <= high for low, high in ranges)}
