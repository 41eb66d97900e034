"""Numbers behind the curves: instant perplexity along a text, and loss against the position in an article.

Letters in names of arrays: N tokens, A articles, K bins of positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dynlm.evaluation.score_file import Scores

PASSAGE = 180
"""Tokens of a passage, unless another length is asked for."""


@dataclass(frozen=True)
class Passage:
    """``length`` tokens of one article: its index in the split and the first token's position, both from 0."""

    article: int
    start: int
    length: int


@dataclass(frozen=True)
class PositionCurve:
    """Nats per token against position: one entry per bin, each the mean over the articles that reach it."""

    position: np.ndarray
    """Geometric centre of each bin, in tokens read so far (the first token has 1)."""
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    """95 % band of the mean over articles: +-1.96 standard errors (normal); NaN with one article."""
    articles: np.ndarray
    """How many articles each bin's mean is over."""


def default_window(tokens: int) -> int:
    """A smoothing window of about one hundredth of the text: 1, 2 or 5 times a power of ten, from 100 to 5,000.

    A text of fewer than 100 tokens is one window.
    """
    wanted = max(1.0, tokens / 100)
    return min(tokens, min((100, 200, 500, 1000, 2000, 5000), key=lambda step: abs(math.log(step / wanted))))


def moving_mean(values_N: np.ndarray, window: int) -> np.ndarray:
    """Centred mean over ``window`` tokens; at the text's two ends, over those of them that exist.

    It runs across article borders: what it shows is the reading, which does not stop there.
    """
    if window < 1:
        raise ValueError("the window is shorter than a token")
    count = len(values_N)
    sums = np.concatenate([[0.0], np.cumsum(values_N, dtype=np.float64)])
    centre = np.arange(count)
    low = np.maximum(0, centre - (window - 1) // 2)
    high = np.minimum(count, centre + window // 2 + 1)
    return (sums[high] - sums[low]) / (high - low)


def perplexity_difference(lower: Scores, higher: Scores, window: int) -> np.ndarray:
    """Instant perplexity of ``lower`` less that of ``higher``, per token: positive where ``higher`` is better."""
    return np.exp(moving_mean(lower.nats, window)) - np.exp(moving_mean(higher.nats, window))


def position_loss(scores: Scores, per_octave: int = 2) -> PositionCurve:
    """Nats per token in bins of the position, geometric with ``per_octave`` bins to a doubling.

    Each article counts alike. Bins that less than half of the articles reach are left out: a curve whose articles
    change under it tells of the articles, not of the position.
    """
    return _position_curve(scores, scores.nats, per_octave)


def position_gain(lower: Scores, higher: Scores, per_octave: int = 2) -> PositionCurve:
    """Like ``position_loss`` for the paired difference lower - higher: positive where ``higher`` is better."""
    return _position_curve(lower, lower.nats.astype(np.float64) - higher.nats, per_octave)


def article_gains(lower: Scores, higher: Scores) -> np.ndarray:
    """Nats that ``higher`` saves over each article, in the order of the rows."""
    return lower.sums(lower.nats) - higher.sums(higher.nats)


def most_gained(lower: Scores, higher: Scores) -> int:
    """The index of the article with the largest total gain."""
    return int(lower.articles[np.argmax(article_gains(lower, higher))])


def default_passages(lower: Scores, higher: Scores, length: int = PASSAGE) -> list[Passage]:
    """The opening and the middle of the article with the largest total gain; all of it where it is that short."""
    return article_passages(lower, most_gained(lower, higher), length)


def article_passages(scores: Scores, article: int, length: int = PASSAGE) -> list[Passage]:
    """The opening and the middle of the article with this index; all of it where it is that short."""
    rows = scores.rows(article)
    first, count = int(scores.position[rows.start]), rows.stop - rows.start
    if count <= length:
        return [Passage(article, first, count)]
    if count < 2 * length:
        length = count // 2
    middle = max(length, (count - length) // 2)
    # The second passage begins with a word, not within one.
    beginnings = np.flatnonzero(scores.words[rows][length : middle + 1] > 0)
    if len(beginnings):
        middle = length + int(beginnings[-1])
    return [Passage(article, first, length), Passage(article, first + middle, length)]


def binned(values_N: np.ndarray, bins: int, largest: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Rows in the middle of at most ``bins`` equal stretches of a text, and the mean (or largest) value in each."""
    edges = np.unique(np.linspace(0, len(values_N), min(bins, len(values_N)) + 1).round().astype(np.int64))
    values = values_N.astype(np.float64)
    of_each = np.maximum.reduceat(values, edges[:-1]) if largest else np.add.reduceat(values, edges[:-1])
    return (edges[:-1] + edges[1:] - 1) / 2, of_each if largest else of_each / np.diff(edges)


def _position_curve(scores: Scores, values_N: np.ndarray, per_octave: int) -> PositionCurve:
    edges = _bin_edges(int(scores.position.max()) + 1, per_octave)
    bin_N = np.searchsorted(edges, scores.position + 1, side="right") - 1
    shape = (len(scores.articles), len(edges) - 1)
    article_N = np.repeat(np.arange(shape[0]), np.diff(scores.starts))
    flat_N = article_N * shape[1] + bin_N
    counts_AK = np.bincount(flat_N, minlength=shape[0] * shape[1]).reshape(shape)
    sums_AK = np.bincount(flat_N, weights=values_N, minlength=shape[0] * shape[1]).reshape(shape)
    reached_K = (counts_AK > 0).sum(0)
    kept_K = reached_K >= max(1, math.ceil(shape[0] / 2))
    counts_AK, sums_AK, reached_K = counts_AK[:, kept_K], sums_AK[:, kept_K], reached_K[kept_K]
    means_AK = np.divide(sums_AK, counts_AK, out=np.full(counts_AK.shape, np.nan), where=counts_AK > 0)
    mean_K = np.nansum(means_AK, 0) / reached_K
    variance_K = np.nansum((means_AK - mean_K) ** 2, 0) / np.maximum(1, reached_K - 1)
    half_K = np.where(reached_K > 1, 1.96 * np.sqrt(variance_K / reached_K), np.nan)
    centre_K = np.sqrt(edges[:-1] * (edges[1:] - 1.0))[kept_K]
    return PositionCurve(centre_K, mean_K, mean_K - half_K, mean_K + half_K, reached_K)


def _bin_edges(longest: int, per_octave: int) -> np.ndarray:
    """Whole-number borders growing geometrically from 1 past ``longest``, the first bins at least 8 tokens wide."""
    edges = [1]
    while edges[-1] <= longest:
        edges.append(max(edges[-1] + 8, round(edges[-1] * 2 ** (1 / per_octave))))
    return np.array(edges, dtype=np.int64)
