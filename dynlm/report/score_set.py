"""Scores of several variants on one text: the input of every table, figure and page of this package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dynlm.errors import UserError
from dynlm.evaluation.compare import baseline_of, check_same_text, unique_labels
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.report.palette import LineStyle, line_styles
from dynlm.runtime.text import printable

Pairs = Sequence[tuple[str, str]]
"""Labels of the variants to compare: the lower level's first, then the higher level's."""
_WINDOWS = (100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True, eq=False)
class ScoreSet:
    """Scores of one or more variants on the same tokens.

    Raises UserError where there are none, and where two are of different texts or tokenizers.
    """

    variants: Sequence[Scores]

    def __post_init__(self) -> None:
        if not self.variants:
            raise UserError("no score file is given", do="name at least one")
        check_same_text(self.variants)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> ScoreSet:
        """Load score files. Raises UserError for unreadable ones too."""
        return cls([read_scores(path) for path in paths])

    @property
    def text(self) -> Scores:
        """The first variant, for what all share: tokens, articles and titles."""
        return self.variants[0]

    @cached_property
    def labels(self) -> list[str]:
        """One unique printable label for each variant."""
        return unique_labels(self.variants)

    @cached_property
    def styles(self) -> list[LineStyle]:
        """Colour and dashes of each variant, by its name."""
        return line_styles([printable(each.variant) for each in self.variants])

    @cached_property
    def baseline(self) -> int:
        """Index of the variant that the others are compared with: level 1, else the first."""
        return baseline_of(self.variants)

    @property
    def others(self) -> list[int]:
        """Indices of all variants but the baseline."""
        return [index for index in range(len(self.variants)) if index != self.baseline]

    def pairs(self, labels: Pairs | None = None) -> list[tuple[int, int]]:
        """Return the indices of the pairs with these labels; by default the baseline with each other variant.

        Raises UserError for an unknown label, and for a variant paired with itself.
        """
        if not labels:
            return [(self.baseline, other) for other in self.others]
        if unknown := [label for pair in labels for label in pair if label not in self.labels]:
            do = f"choose among {', '.join(map(repr, self.labels))}"
            raise UserError(f"no variant is called {unknown[0]!r}", do=do)
        if same := [lower for lower, higher in labels if lower == higher]:
            raise UserError(f"a pair compares {same[0]!r} with itself", do="name two variants")
        return [(self.labels.index(lower), self.labels.index(higher)) for lower, higher in labels]

    def window(self, tokens: int | None = None) -> int:
        """Return a smoothing window of ``tokens``, by default about a hundredth of the text.

        Raises UserError where it does not fit the text.
        """
        count = len(self.text)
        if tokens is None:
            return default_window(count)
        if not 1 <= tokens <= count:
            raise UserError(f"the smoothing window is {tokens}", do=f"choose from 1 to the text's {count} tokens")
        return tokens

    def shown_texts(self) -> list[str]:
        """Return the labels and titles, so that fonts with their characters can be found."""
        return [*self.labels, *(self.text.title(int(article)) for article in self.text.articles)]


def default_window(tokens: int) -> int:
    """Return about a hundredth of the text, rounded to 100, 200, 500, ... 5,000; all of a text of fewer than 100."""
    hundredth = max(1.0, tokens / 100)
    return min(tokens, min(_WINDOWS, key=lambda window: abs(math.log(window / hundredth))))
