"""Numbers behind the curves: instant perplexity along a text, loss against position, and the memory's records.

Legend: N tokens, A articles, K bins of positions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dynlm.evaluation.score_file import Scores

_BIN_GROWTH = 2**0.5
_MIN_BIN = 8
"""Tokens of the first bins of positions, before they grow."""
_PARTS = 1200
_MAX_OVERLAPPING = 3
RESET_SHARE = 0.5
"""A step that moves the weights at least this share of the way back to theta_0 is counted as a reset."""


@dataclass(frozen=True)
class PositionCurve:
    """Nats per token against position: one entry per bin, each the mean over the articles that reach it."""

    position: np.ndarray
    """Geometric centre of each bin, in tokens; the first token of an article has position 1."""
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % band of the mean over articles: +-1.96 standard errors (normal); NaN with one article."""
    articles: np.ndarray
    """Number of articles in each bin."""


@dataclass(frozen=True)
class MemoryRecord:
    """One variant's memory over the text, in equal parts of it; None where it was not recorded."""

    variant: int
    """Index of the variant."""
    row: np.ndarray
    """Middle of each part."""
    distance: np.ndarray | None
    """Mean distance from theta_0 in each part, relative to its norm."""
    reset: np.ndarray | None
    """Largest share of the way back to theta_0 in each part."""
    resets: int | None
    """Number of segments that began with a reset."""


def moving_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Return the centred mean over ``window`` tokens, truncated at the ends of the text but not of articles."""
    count = len(values_N)
    sums = np.concatenate([[0.0], np.cumsum(values_N, dtype=np.float64)])
    centre = np.arange(count)
    low = np.maximum(0, centre - (window - 1) // 2)
    high = np.minimum(count, centre + window // 2 + 1)
    return (sums[high] - sums[low]) / (high - low)


def perplexity_difference(lower: Scores, higher: Scores, window: int) -> np.ndarray:
    """Return the instant perplexity of ``lower`` minus that of ``higher`` per token: above 0, ``higher`` is better."""
    return np.exp(moving_mean(lower.nats, window)) - np.exp(moving_mean(higher.nats, window))


def position_curve(scores: Scores, baseline: Scores | None = None) -> PositionCurve:
    """Return nats per token in geometric bins of the position, or with ``baseline`` the paired difference.

    The difference is baseline - scores: above 0, ``scores`` is better. Each article has the same weight. Bins that
    less than half of the articles reach are left out, since there the curve would follow the mix of articles.
    """
    values_N = scores.nats if baseline is None else baseline.nats.astype(np.float64) - scores.nats
    borders = [1]
    while borders[-1] <= scores.position.max() + 1:
        borders.append(max(borders[-1] + _MIN_BIN, round(borders[-1] * _BIN_GROWTH)))
    edges = np.array(borders, dtype=np.int64)
    bin_N = np.searchsorted(edges, scores.position + 1, side="right") - 1
    shape = (len(scores.articles), len(edges) - 1)
    flat_N = np.repeat(np.arange(shape[0]), np.diff(scores.starts)) * shape[1] + bin_N
    counts_AK = np.bincount(flat_N, minlength=shape[0] * shape[1]).reshape(shape)
    sums_AK = np.bincount(flat_N, weights=values_N, minlength=shape[0] * shape[1]).reshape(shape)
    reached_K = (counts_AK > 0).sum(0)
    kept_K = reached_K >= math.ceil(shape[0] / 2)
    counts_AK, sums_AK, reached_K = counts_AK[:, kept_K], sums_AK[:, kept_K], reached_K[kept_K]
    means_AK = np.divide(sums_AK, counts_AK, out=np.full(counts_AK.shape, np.nan), where=counts_AK > 0)
    mean_K = np.nansum(means_AK, 0) / reached_K
    variance_K = np.nansum((means_AK - mean_K) ** 2, 0) / np.maximum(1, reached_K - 1)
    half_K = np.where(reached_K > 1, 1.96 * np.sqrt(variance_K / reached_K), np.nan)
    centre_K = np.sqrt(edges[:-1] * (edges[1:] - 1.0))[kept_K]
    return PositionCurve(centre_K, mean_K, mean_K - half_K, mean_K + half_K, reached_K)


def overlapping(curves: Sequence[np.ndarray], tolerance: float) -> list[tuple[int, int]]:
    """Return the pairs of curves within ``tolerance`` of each other at three of four points, the lower curve first.

    Of many curves on each other, only those that follow each other in height are paired; at most three pairs. Drawn
    with lines as wide as ``tolerance``, the curves of a pair hide each other, and their difference should be drawn.
    """
    order = sorted(range(len(curves)), key=lambda index: float(np.mean(curves[index])))
    near = [
        pair
        for pair in pairwise(order)
        if np.quantile(np.abs(np.asarray(curves[pair[1]]) - curves[pair[0]]), 0.75) <= tolerance
    ]
    return near[:_MAX_OVERLAPPING]


def overlapping_positions(curves: Sequence[PositionCurve], line: float) -> list[tuple[int, int]]:
    """Return ``overlapping`` pairs, the better one first, where a line's width is ``line`` of the chart's height."""
    bounds = np.concatenate([np.r_[each.mean, each.low, each.high] for each in curves])
    bounds = bounds[np.isfinite(bounds)]
    return overlapping([each.mean for each in curves], line * float(np.ptp(bounds)))


def position_note(articles: int) -> str:
    """Return what the curves of loss against position are means of."""
    if articles == 1:
        return "One article, so there is no band."
    means = f"Mean over {articles} articles with equal weights; band: 95 %, normal."
    return f"{means} Bins that at least half of them reach."


def memory_records(variants: Sequence[Scores]) -> list[MemoryRecord]:
    """Return what each variant recorded of its memory; variants without a record are left out."""
    records = []
    for index, each in enumerate(variants):
        if each.distance is None and each.reset_share is None:
            continue
        distance, reset, resets = None, None, None
        if each.distance is not None:
            _, distance = bin_equally(each.distance, _PARTS)
        if each.reset_share is not None:
            _, reset = bin_equally(each.reset_share, _PARTS, largest=True)
            segment_starts = np.flatnonzero(np.diff(each.segment, prepend=each.segment[0] - 1))
            resets = int((np.asarray(each.reset_share)[segment_starts] >= RESET_SHARE).sum())
        records.append(MemoryRecord(index, bin_equally(each.nats, _PARTS)[0], distance, reset, resets))
    return records


def bin_equally(values_N: np.ndarray, bins: int, largest: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into at most ``bins`` equal parts; return the middle row and the mean (or largest) value of each."""
    edges = np.unique(np.linspace(0, len(values_N), min(bins, len(values_N)) + 1).round().astype(np.int64))
    values, middle = values_N.astype(np.float64), (edges[:-1] + edges[1:] - 1) / 2
    if largest:
        return middle, np.maximum.reduceat(values, edges[:-1])
    return middle, np.add.reduceat(values, edges[:-1]) / np.diff(edges)
