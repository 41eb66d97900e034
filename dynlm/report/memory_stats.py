"""Statistics of the memory: its constants for each tensor, its distance from theta_0, and its resets.

The constants are in every score file of a rule that learns (protocol ``rule.rates``); distance and resets only where
they were recorded (the score file's optional columns).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.score_file import Scores
from dynlm.report.curve_data import bin_equally
from dynlm.report.fewshot_results import Table
from dynlm.report.score_set import ScoreSet
from dynlm.runtime.text import printable

_BINS = 1200
RESET_SHARE = 0.5
"""A step that moves the weights at least this share of the way back to theta_0 is counted as a reset."""


@dataclass(frozen=True)
class MemoryRecord:
    """One variant's memory over the text, in equal parts of it."""

    variant: int
    """Index of the variant."""
    row: np.ndarray
    """Middle of each part."""
    distance: np.ndarray | None
    """Mean distance from theta_0 in each part, relative to its norm; None where not recorded."""
    reset: np.ndarray | None
    """Largest share of the way back to theta_0 in each part; None where not recorded."""
    resets: int | None
    """Number of segments that began with a reset."""


def constants_table(scores: ScoreSet) -> Table | None:
    """Return the learning rate and decay of each tensor for all variants that have some; None where none has."""
    found = {
        label: rates for label, each in zip(scores.labels, scores.variants, strict=True) if (rates := _rates(each))
    }
    if not found:
        return None
    tensors = dict.fromkeys(name for rates in found.values() for name in rates)
    return Table(
        "Learning rate, and decay toward the static weights, of each tensor",
        ["tensor", *(f"{label}, {what}" for label in found for what in ("lr", "decay"))],
        [
            [printable(name), *(cell for rates in found.values() for cell in rates.get(name, ("-", "-")))]
            for name in tensors
        ],
    )


def memory_records(scores: ScoreSet) -> list[MemoryRecord]:
    """Return what each variant recorded of its memory; variants without a record are left out."""
    records = []
    for index, variant in enumerate(scores.variants):
        distance, reset_share = variant.distance, variant.reset_share
        if distance is None and reset_share is None:
            continue
        row, _ = bin_equally(variant.nats, _BINS)
        mean_distance = None if distance is None else bin_equally(distance, _BINS)[1]
        largest_reset, resets = None, None
        if reset_share is not None:
            largest_reset = bin_equally(reset_share, _BINS, largest=True)[1]
            segment_starts = np.flatnonzero(np.diff(variant.segment, prepend=variant.segment[0] - 1))
            resets = int((np.asarray(reset_share)[segment_starts] >= RESET_SHARE).sum())
        records.append(MemoryRecord(index, row, mean_distance, largest_reset, resets))
    return records


def _rates(scores: Scores) -> dict[str, tuple[str, str]]:
    """Return the learning rate and decay of each tensor as text; entries of another form are left out."""
    rule = scores.protocol.get("rule")
    rates = rule.get("rates") if isinstance(rule, dict) else None
    return {
        str(name): (f"{entry['lr']:.3g}", f"{entry['decay']:.3g}")
        for name, entry in (rates.items() if isinstance(rates, dict) else ())
        if isinstance(entry, dict) and all(isinstance(entry.get(key), (int, float)) for key in ("lr", "decay"))
    }
