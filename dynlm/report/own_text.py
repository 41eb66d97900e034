"""Texts that were read as score sets: the heat map of one reading, and the comparison of two.

Each text is an article. In a heat map a token is blue where the higher reading loses fewer nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dynlm.errors import UserError
from dynlm.evaluation.compare import Gain, bootstrap_counts, check_same_text, gain_of, unique_labels
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.text_result import TextResult
from dynlm.report.heatmap import HeatMap
from dynlm.report.notebook import DifferenceCurve
from dynlm.report.passages import Passage

_STATEMENTS = {
    "static": "level 1, with the same context",
    "nats": "each token is scored before anything is learned from it",
}
_FEWEST_UNITS = 10
"""Texts or blocks that an interval needs."""
_MOST_COMPARED = 2000
"""Tokens of the heat map of a comparison."""


def scores_of(
    results: Sequence[TextResult], titles: Sequence[str], protocol: Mapping[str, Any], column: str = "nats"
) -> Scores:
    """Return the losses in a ``column`` ("nats" or "static") of texts; ``protocol`` names the ``variant`` that read.

    Texts of which no token was read are left out. Raises UserError where nothing was read, or not by that model.
    """
    named = [(result, title) for result, title in zip(results, titles, strict=True) if len(result)]
    if not named or any(getattr(result, column) is None for result, _ in named):
        raise UserError("there are no two losses of each token to compare", do="read a text, with static=True")
    lengths = [len(result) for result, _ in named]
    article = np.repeat(np.arange(len(named), dtype=np.int32), lengths)
    position = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    token, words, nats = (np.concatenate([getattr(r, name) for r, _ in named]) for name in ("token", "words", column))
    surface = [each for result, _ in named for each in result.surface]
    articles = [{"index": index, "title": title} for index, (_, title) in enumerate(named)]
    common = {**protocol, "text": "", "tokenizer": "", "articles": articles, "statement": _STATEMENTS[column]}
    if column == "static":
        common["variant"] = "static"
    return Scores(common, article, position, np.zeros_like(position), token, words, nats, surface)


def score_pair(
    results: Sequence[TextResult], titles: Sequence[str], protocol: Mapping[str, Any]
) -> tuple[Scores, Scores]:
    """Return the static model's losses and the memory's. Raises UserError as ``scores_of`` does."""
    return scores_of(results, titles, protocol, "static"), scores_of(results, titles, protocol)


def heat_map_of(lower: Scores, higher: Scores, most: int | None = None) -> HeatMap:
    """Return the heat map of whole texts; of more than ``most`` tokens, of the opening and the middle of one.

    That is the text with the largest gain.
    """
    if most is not None and len(lower) > most:
        return HeatMap(lower, higher)
    lengths = np.diff(lower.starts).tolist()
    return HeatMap(lower, higher, [Passage(index, 0, length) for index, length in enumerate(lengths)])


@dataclass(frozen=True)
class ReadingComparison:
    """Two readings of the same texts, and the gain of ``higher`` over ``lower`` in nats per token."""

    lower: Scores
    higher: Scores
    gain: Gain
    units: str
    """What the interval is over, such as ``22 blocks of 100 tokens``."""

    @property
    def labels(self) -> list[str]:
        """The names of both."""
        return unique_labels([self.lower, self.higher])

    def __repr__(self) -> str:
        means = (float(each.nats.mean(dtype=np.float64)) for each in (self.lower, self.higher))
        parts = [f"{label} {mean:.4f}" for label, mean in zip(self.labels, means, strict=True)]
        interval = "no interval" if self.gain.low is None else f"95 % [{self.gain.low:+.4f}, {self.gain.high:+.4f}]"
        gain = f"gain {self.gain.nats:+.4f}, {interval} over {self.units}"
        return f"ReadingComparison({', '.join(parts)} nats/token; {gain})"

    def heat_map(self) -> HeatMap:
        """Return the texts token by token, or passages of long ones."""
        return heat_map_of(self.lower, self.higher, _MOST_COMPARED)

    def plot(self, window: int | None = None) -> DifferenceCurve:
        """Return the curve of the difference in perplexity; ``window`` tokens are averaged over."""
        return DifferenceCurve([self.lower, self.higher], [(self.labels[0], self.labels[1])], window)

    def _repr_html_(self) -> str:
        return self.heat_map()._repr_html_()


def compare_readings(lower: Scores, higher: Scores, block: int = 100, resamples: int = 2000) -> ReadingComparison:
    """Compare two readings of the same texts.

    The interval is the 95 % percentile interval of a paired bootstrap over texts or, of one text, over its blocks of
    ``block`` tokens (the last with what is left over). Over blocks it says how sure the difference is on such text, not
    on other texts. There is none for fewer than 10 texts or blocks. Raises UserError where the texts differ.
    """
    check_same_text([lower, higher])
    if block < 1:
        raise UserError(f"block is {block}", do="choose at least 1")
    starts, unit = lower.starts[:-1], "texts"
    if len(starts) == 1:
        starts, unit = np.arange(max(1, len(lower) // block)) * block, f"blocks of {block:,} tokens"
    saved = np.add.reduceat(lower.nats.astype(np.float64) - higher.nats, starts)
    tokens = np.diff(starts, append=len(lower))
    counts = bootstrap_counts(len(starts), resamples, 0) if len(starts) >= _FEWEST_UNITS else None
    return ReadingComparison(lower, higher, gain_of(saved, tokens, counts), f"{len(starts):,} {unit}")


def compare(
    a: TextResult | Sequence[TextResult], b: TextResult | Sequence[TextResult], block: int = 100, resamples: int = 2000
) -> ReadingComparison:
    """Compare what ``read`` returned for the same text, or texts: the gain of ``b`` over ``a`` in nats per token.

    The interval, and what is raised, are those of ``compare_readings``. The result has a heat map and a curve, and
    displays itself in a notebook. Raises UserError where nothing was read, too.
    """
    scores = []
    for results in ([each] if isinstance(each, TextResult) else list(each) for each in (a, b)):
        protocol = next((getattr(each, "protocol", None) for each in results), None) or {"variant": "adapted"}
        scores.append(scores_of(results, [f"text {number}" for number, _ in enumerate(results, 1)], protocol))
    return compare_readings(scores[0], scores[1], block, resamples)
