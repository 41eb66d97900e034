"""The figures of a study: each reading's, with its gains over the baselines, and the readings of the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynlm.data.options import Order
from dynlm.evaluation.compare import Comparison, Gain, VariantFigures, compare
from dynlm.evaluation.score_file import Scores
from dynlm.runtime.cost import Cost
from dynlm.study.options import StudyConfig
from dynlm.study.steps import Prepared
from dynlm.study.variants import Reading, baseline_for, baselines_of, orders_of

SHOWN = 6
"""Variants of a picture: as many lines as can be distinguished at a page's width."""


@dataclass(frozen=True)
class Done:
    """A reading with its scores, and what was prepared for it."""

    reading: Reading
    scores: Scores
    prepared: list[Prepared]

    @property
    def nats(self) -> float:
        """The sum of the losses."""
        return float(self.scores.nats.sum(dtype="float64"))

    @property
    def cost(self) -> Cost | None:
        """What reading took; None where the score file does not say."""
        return Cost.of(self.scores.protocol.get("cost"))


@dataclass(frozen=True)
class GainOver:
    """A reading's gain over the baseline ``name``, None over itself, and over which reading that is (``baseline_for``).

    There is neither where the baseline has another context and no static variant has this one.
    """

    name: str
    baseline: Done | None
    gain: Gain | None


@dataclass(frozen=True)
class Row:
    """One reading's line of the table; ``over`` has an entry for each baseline, in the study's order."""

    done: Done
    figures: VariantFigures
    over: list[GainOver]


@dataclass(frozen=True)
class Results:
    """All figures of a study; ``text`` is the comparison of all readings, ``order`` the study's first order."""

    rows: list[Row]
    text: Comparison
    order: Order

    def best(self, variant: str) -> Done:
        """Return the variant's reading with the lowest loss in the study's first order."""
        return best_of([row.done for row in self.rows], variant, self.order)


def best_of(done: Sequence[Done], variant: str, order: Order) -> Done:
    """Return the variant's reading with the lowest loss in ``order``: under whichever reset policy is better for it."""
    own = [each for each in done if each.reading.variant.name == variant and each.reading.is_in(order)]
    return min(own, key=lambda each: each.nats)


def results_of(done: Sequence[Done], study: StudyConfig) -> Results:
    """Compute the figures of all readings. A gain is over the baseline in the same order, under its better policy.

    Raises UserError where readings are of different texts.
    """
    order = orders_of(study)[0]
    variants = [*{each.reading.variant.name: each.reading.variant for each in done}.values()]
    text = compare([each.scores for each in done], resamples=study.resamples, seed=study.seed)
    rows = []
    for each, figures in zip(done, text.variants, strict=True):
        over = []
        for name in baselines_of(study):
            baseline, gain = None, None
            if (own := baseline_for(each.reading.variant, name, variants)) is not None:
                baseline = best_of(done, own, each.reading.order or order)
            if baseline is not None and baseline is not each:
                pair = compare([baseline.scores, each.scores], 0, study.resamples, study.seed)
                gain = pair.variants[1].gain
            over.append(GainOver(name, baseline, gain))
        rows.append(Row(each, figures, over))
    return Results(rows, text, order)


def shown(results: Results, study: StudyConfig) -> list[Done]:
    """Return the readings of the pictures: one of each variant, in the study's order."""
    best = {name: results.best(name) for name in [row.done.reading.variant.name for row in results.rows]}
    drawn = study.drawn
    if not drawn:
        first = baselines_of(study)[:1] or [*best][:1]
        others = sorted((name for name in best if name not in first), key=lambda name: best[name].nats)
        drawn = [*first, *others[: SHOWN - 1]]
    return [done for name, done in best.items() if name in drawn]
