"""The figures of a study: each reading's, with its gains over the baselines, over seeds, and the pictures' readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dynlm.data.options import Order
from dynlm.evaluation.compare import Comparison, Gain, VariantFigures, compare
from dynlm.evaluation.score_file import Scores
from dynlm.runtime.cost import Cost
from dynlm.study.budget import Budget
from dynlm.study.options import StudyConfig
from dynlm.study.prepare import Prepared
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
    """One reading's line of the table.

    ``over`` has an entry for each baseline, in the study's order; ``own`` is the gain over the variant's ``over``.
    """

    done: Done
    figures: VariantFigures
    over: list[GainOver]
    own: GainOver | None = None

    @property
    def gains(self) -> list[GainOver]:
        """All gains."""
        return [*self.over, *([self.own] if self.own else [])]

    @property
    def budget(self) -> Budget:
        """What finding all that the reading needs took."""
        return Budget.total([each.budget for each in self.done.prepared])


class CellFigures(NamedTuple):
    """Nats per token of a reading in one cell, and of its gain over each baseline; ``own``: over the variant's own."""

    base_seed: int
    meta_seed: int | None
    """None: each variant's own."""
    nats: float
    gains: dict[str, float]
    own: float | None


class Spread(NamedTuple):
    """Mean, lowest and highest of a figure."""

    mean: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return that of ``values``; None where there are none."""
        return cls(sum(values) / len(values), min(values), max(values)) if values else None


@dataclass(frozen=True)
class GainOverSeeds:
    """A gain over the baseline ``name``: its spread over seeds, and that with the first seeds, with its interval."""

    name: str
    spread: Spread | None
    first: Gain | None


@dataclass(frozen=True)
class SeedRow:
    """A reading over seeds; ``meta_seeds`` is None for a variant that learns nothing."""

    reading: Reading
    bases: int
    meta_seeds: int | None
    nats: Spread
    gains: list[GainOverSeeds]
    own: GainOverSeeds | None
    cells: list[CellFigures]


@dataclass(frozen=True)
class Results:
    """All figures of a study; ``text`` is the comparison of all readings, ``order`` the study's first order.

    ``over_seeds`` are those over seeds, where there are several.
    """

    rows: list[Row]
    text: Comparison
    order: Order
    over_seeds: Sequence[SeedRow] = ()

    def best(self, variant: str) -> Done:
        """Return the variant's reading with the lowest loss in the study's first order."""
        return best_of([row.done for row in self.rows], variant, self.order)


def best_of(done: Sequence[Done], variant: str, order: Order) -> Done:
    """Return the variant's reading with the lowest loss in ``order``: under whichever reset policy is better for it."""
    own = [each for each in done if each.reading.variant.name == variant and each.reading.is_in(order)]
    return min(own, key=lambda each: each.nats)


def results_of(done: Sequence[Done], study: StudyConfig) -> Results:
    """Compute the figures of all readings. A gain is over the baseline in the same order, under its better policy.

    Baselines that were not read are left out. Raises UserError where readings are of different texts.
    """
    order = orders_of(study)[0]
    variants = [*{each.reading.variant.name: each.reading.variant for each in done}.values()]
    text = compare([each.scores for each in done], resamples=study.resamples, seed=study.seed)
    names = {variant.name for variant in variants}

    def gain_over(each: Done, name: str) -> GainOver:
        baseline, gain = None, None
        if (own := baseline_for(each.reading.variant, name, variants)) is not None:
            baseline = best_of(done, own, each.reading.order or order)
        if baseline is not None and baseline is not each:
            gain = compare([baseline.scores, each.scores], 0, study.resamples, study.seed).variants[1].gain
        return GainOver(name, baseline, gain)

    rows = []
    for each, figures in zip(done, text.variants, strict=True):
        over, own = [gain_over(each, name) for name in baselines_of(study) if name in names], each.reading.variant.over
        rows.append(Row(each, figures, over, gain_over(each, own) if own in names else None))
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
