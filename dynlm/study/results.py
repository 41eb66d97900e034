"""The figures of a study: each reading's, with its gains over the baselines, and which readings are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dynlm.evaluation.compare import Comparison, Gain, VariantFigures, compare
from dynlm.evaluation.score_file import Scores
from dynlm.study.options import StudyConfig
from dynlm.study.steps import Prepared
from dynlm.study.variants import Reading

SHOWN = 6
"""Variants of a picture: as many as there are lines that can be told apart at a page's width."""


@dataclass(frozen=True)
class Done:
    """A reading that was made, and what was found for its variant before."""

    reading: Reading
    scores: Scores
    prepared: list[Prepared]

    @property
    def nats(self) -> float:
        return float(self.scores.nats.sum(dtype="float64"))


@dataclass(frozen=True)
class Over:
    """A reading's gain over a baseline, and which of the baseline's readings that is; no gain over itself."""

    baseline: Done
    gain: Gain | None


@dataclass(frozen=True)
class Row:
    """One reading's line of the table; ``over`` has an entry for each baseline, in the study's order."""

    done: Done
    figures: VariantFigures
    over: list[Over]


@dataclass(frozen=True)
class Results:
    """All figures of a study; ``text`` compares the readings as they stand, for what they share."""

    rows: list[Row]
    text: Comparison
    order: str
    """The order that variants are judged, drawn and looked into by: the study's first."""

    def best(self, variant: str, order: str | None = None) -> Done:
        """The variant's reading with the lowest loss among those of an order (unset: the study's first)."""
        return best_of([row.done for row in self.rows], variant, order or self.order)

    @property
    def variants(self) -> list[str]:
        """The variants' names, in the study's order."""
        return list(dict.fromkeys(row.done.reading.variant.name for row in self.rows))


def best_of(done: Sequence[Done], variant: str, order: str) -> Done:
    """The variant's reading with the lowest loss: under whichever reset policy suits it better."""
    of_variant = [each for each in done if each.reading.variant.name == variant and each.reading.is_in(order)]
    return min(of_variant, key=lambda each: each.nats)


def results_of(done: Sequence[Done], study: StudyConfig) -> Results:
    """Figures of all readings. A gain is over the baseline in the same order, under its better reset policy.

    Raises UserError where readings are of different texts.
    """
    order = study.orders[0]
    text = compare([each.scores for each in done], resamples=study.resamples, seed=study.seed)
    rows = []
    for each, figures in zip(done, text.variants, strict=True):
        over = []
        for variant in study.baselines or ():
            baseline = best_of(done, variant, each.reading.order or order)
            gain = None
            if baseline is not each:
                pair = compare([baseline.scores, each.scores], 0, study.resamples, study.seed)
                gain = pair.variants[1].gain
            over.append(Over(baseline, gain))
        rows.append(Row(each, figures, over))
    return Results(rows, text, order)


def shown(results: Results, study: StudyConfig) -> list[Done]:
    """The readings that pictures are made of: one of each variant, in the study's order."""
    if study.drawn:
        names = list(study.drawn)
    else:
        first = (study.baselines or [])[:1] or results.variants[:1]
        others = sorted(
            (variant for variant in results.variants if variant not in first),
            key=lambda variant: results.best(variant).nats,
        )
        names = [*first, *others[: SHOWN - 1]]
    return [results.best(variant) for variant in results.variants if variant in names]
