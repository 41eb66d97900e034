"""What the memory itself did: its rates of each tensor, its distance from theta_0, and its flushes.

The rates are in every score file of a rule that learns (protocol ``rule.rates``); distance and flushes only where the
reading recorded them (the score file's optional columns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.compare import unique_labels
from dynlm.evaluation.score_file import Scores
from dynlm.report.curve_data import binned
from dynlm.runtime.text import printable

_BINS = 1200
FLUSHED = 0.5
"""A step that moves the weights at least this far back to theta_0 is counted as a flush."""


@dataclass(frozen=True)
class RatesTable:
    """Learning rate and pull-back of each tensor: one row per tensor, and per arm the two, None where it has none."""

    arms: list[str]
    rows: list[tuple[str, list[tuple[float, float] | None]]]


@dataclass(frozen=True)
class Recorded:
    """One arm's memory over the text, in equal stretches of it.

    ``row`` is the middle of each stretch; ``distance`` the mean and ``flush`` the largest value there, None where not
    recorded. ``flushes`` is how many segments began with a flush.
    """

    arm: int
    row: np.ndarray
    distance: np.ndarray | None
    flush: np.ndarray | None
    flushes: int | None


def rates_table(scores_list: Sequence[Scores]) -> RatesTable | None:
    """The rates of all arms that have some; None where no arm has. Entries that are no rates are left out."""
    found = [
        (label, rates)
        for label, arm in zip(unique_labels(scores_list), scores_list, strict=True)
        if (rates := _rates(arm))
    ]
    if not found:
        return None
    names = list(dict.fromkeys(name for _, rates in found for name in rates))
    rows = [(printable(name), [rates.get(name) for _, rates in found]) for name in names]
    return RatesTable([label for label, _ in found], rows)


def recorded(scores_list: Sequence[Scores]) -> list[Recorded]:
    """What each arm recorded of its memory; arms that recorded nothing are left out."""
    return [_recorded(index, arm) for index, arm in enumerate(scores_list) if _has_recorded(arm)]


def _has_recorded(scores: Scores) -> bool:
    return scores.distance is not None or scores.flush is not None


def _recorded(index: int, scores: Scores) -> Recorded:
    row, _ = binned(scores.nats, _BINS)
    distance = None if scores.distance is None else binned(scores.distance, _BINS)[1]
    if scores.flush is None:
        return Recorded(index, row, distance, None, None)
    begins = np.flatnonzero(np.diff(scores.segment, prepend=scores.segment[0] - 1))
    flushes = int((np.asarray(scores.flush)[begins] >= FLUSHED).sum())
    return Recorded(index, row, distance, binned(scores.flush, _BINS, largest=True)[1], flushes)


def _rates(scores: Scores) -> dict[str, tuple[float, float]]:
    rule = scores.protocol.get("rule")
    rates = rule.get("rates") if isinstance(rule, dict) else None
    if not isinstance(rates, dict):
        return {}
    return {
        str(name): (float(entry["lr"]), float(entry["decay"]))
        for name, entry in rates.items()
        if isinstance(entry, dict) and all(isinstance(entry.get(key), (int, float)) for key in ("lr", "decay"))
    }
