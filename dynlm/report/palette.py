"""Colours and dashes: a variant, or a few-shot learner, has the same colour in every picture and on every page.

After Okabe & Ito's palette, safe for colour-blind readers, with darker tones on white and lighter ones on black, so
that letters in them can be read (contrast at least 4.5). Dashes distinguish lines without colour.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

LIGHT = ("#0072b2", "#a33000", "#007a5a", "#b8518d", "#957000", "#5f3dc4", "#000000")
"""On white: figures, prints and pages in light mode."""
DARK = ("#4da3e6", "#ff8a4c", "#35c99d", "#eb9fca", "#f2d06b", "#c4b5ff", "#ffffff")
"""The same hues on a dark page."""
BETTER, WORSE = "#2166ac", "#b2182b"
"""Areas where a variant is better, and worse, than another: the ends of the heat map's scale."""
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (8, 3),
    (2, 2),
    (9, 3, 2, 3),
    (14, 4),
    (5, 2, 2, 2, 2, 2),
)
"""Lengths of marks and gaps in pixels; none: solid."""
_USUAL = {
    "level 1": 0,
    "static": 0,
    "sgd": 1,
    "rms": 2,
    "level 3": 3,
    "meta": 3,
    "level 3 + cache": 4,
    "level 3 + fixed cache": 4,
    "level 3 + gated cache": 4,
    "level 2": 5,
    "no-regret": 6,
}
"""Colours of variants that studies have, by name."""
_LEARNERS = (
    ("random initialisation", "random actions", "LSTM optimiser"),
    ("MAML", "RL²"),
    ("Reptile", "Thompson sampling", "PSRL", "nearest neighbour"),
    ("FOMAML", "UCB1", "optimistic PSRL", "prototypical network"),
    ("Meta-SGD", "pretrained", "greedy", "epsilon-greedy", "epsilon-greedy on the mean model"),
    ("ANIL", "guided search", "Gittins index", "meta-parameter controller"),
    ("MAML++", "LSTM that reads", "oracle"),
)
"""Labels of the kinds of few-shot learners by colour. Those that share one are alike, or seldom in one picture."""


class LineStyle(NamedTuple):
    """Indices into ``LIGHT`` and ``DARK``, and into ``DASHES``."""

    colour: int
    dash: int


def line_styles(variants: Sequence[str]) -> list[LineStyle]:
    """Return the style of the lines of variants with these names, in their order.

    A name's colour is its own wherever it is drawn. Two names that would share one get different colours while there
    are some left: names that studies have come first, then the others by name, so that the order of the files does not
    matter. Lines of equal names (other reset policies, other orders) differ in their dashes.
    """
    taken: dict[str, int] = {}
    uses: Counter[int] = Counter()
    for name in sorted(set(variants), key=lambda name: (name not in _USUAL, name)):
        wanted = _USUAL.get(name, _colour_of_other(name))
        # The wanted one, or the next after it that the fewest names have.
        taken[name] = min(range(wanted, wanted + len(LIGHT)), key=lambda slot: uses[slot % len(LIGHT)]) % len(LIGHT)
        uses[taken[name]] += 1
    return _dashed([taken[name] for name in variants])


def learner_styles(labels: Sequence[str]) -> list[LineStyle]:
    """Return the style of the lines of few-shot learners with these labels, in their order.

    A kind's colour depends on its label alone, and not on what else is drawn: there are more kinds than colours, and
    lines that share one differ in their dashes. What follows " + " in a label is not the kind.
    """
    known = {kind: colour for colour, kinds in enumerate(_LEARNERS) for kind in kinds}
    own = [label.partition(" + ")[0] for label in labels]
    return _dashed([known.get(kind, _colour_of_other(kind)) for kind in own])


def _colour_of_other(name: str) -> int:
    return zlib.crc32(name.encode("utf-8", "backslashreplace")) % len(LIGHT)


def _dashed(colours: Sequence[int]) -> list[LineStyle]:
    """Return styles with these colours; lines of one colour, whatever their names, have different dashes."""
    drawn: Counter[int] = Counter()
    styles = []
    for colour in colours:
        styles.append(LineStyle(colour, (colour + drawn[colour]) % len(DASHES)))
        drawn[colour] += 1
    return styles
