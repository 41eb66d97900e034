"""Records (``Run.record``) of the articles that constants were tuned or learned on, as the files of a run hold them."""

from __future__ import annotations

from typing import Any

from dynlm.data.article_range import format_ranges

Card = dict[str, Any]
"""How something was computed, tuned or learned, as its file says."""


def card_of(stored: tuple[Any, Card] | None) -> Card | None:
    """Return the card of what a ``load_*`` of a ``MemoryStore`` found."""
    return None if stored is None else stored[1]


def records_of(card: Card | None, what: str, how: str) -> list[Card]:
    """Return the records (``Run.record``) in a card.

    Older files have ``split`` and ``articles`` instead of records; without these the one record has no articles.
    """
    card = card or {}
    kept, articles = card.get("tuned_on"), card.get("articles")
    if isinstance(kept, list) and all(isinstance(one, dict) for one in kept):
        return [dict(one) for one in kept]
    record: Card = {"what": what, "how": how, "articles": None}
    if isinstance(articles, list) and all(isinstance(number, int) for number in articles):
        record |= {"corpus": card.get("corpus"), "split": card.get("split"), "articles": format_ranges(articles)}
    return [record]


def borrowed(card: Card, what: str, how: str) -> Card:
    """Return a card with records that say that other tensors moved when ``what`` was found."""
    return {**card, "tuned_on": [{**one, "other_tensors": True} for one in records_of(card, what, how)]}
