"""What all figures share: palette, fonts, axes, and saving the same figure as the same bytes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from dynlm.report.palette import DASHES, LIGHT, LineStyle
from dynlm.report.token_cells import short
from dynlm.runtime.files import atomic_write
from dynlm.runtime.text import warn

INK, FAINT, GRID = "#222222", "#666666", "#dddddd"
THOUSANDS = StrMethodFormatter("{x:,.0f}")
_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None},
    ".pdf": {"CreationDate": None},
}
"""Suffixes of a figure's files, and what would differ from one writing to the next."""
_MAX_NAMED = 8
"""Characters that a warning names."""


def line_style(style: LineStyle, label: str | None = None) -> dict[str, Any]:
    """Return matplotlib's options of a line: colour and dashes, and its label for the legend."""
    dashes = DASHES[style.dash]
    # Matplotlib counts dashes in widths of the line.
    drawn = {
        "color": LIGHT[style.colour],
        "linestyle": (0, tuple(each * 0.62 for each in dashes)) if dashes else "solid",
    }
    # The space keeps labels that begin with an underscore, which matplotlib leaves out of legends.
    return drawn if label is None else {**drawn, "label": f" {short(label, 36)}"}


@contextlib.contextmanager
def drawing(texts: Iterable[str] = ()) -> Iterator[None]:
    """Set the style of every figure, whatever the user's matplotlibrc contains.

    ``texts`` are drawn in fonts that have their characters, where such are installed.
    Text is never parsed as TeX, since titles and tokens may hold dollar signs.
    """
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        family = _with_fallbacks(["DejaVu Sans"], texts)
        matplotlib.rc("font", family=family, size=9.0)
        # Journals want fonts embedded as TrueType, which other fonts may not be.
        matplotlib.rc("pdf", fonttype=42 if len(family) == 1 else 3)
        matplotlib.rc("text", color=INK, parse_math=False)
        matplotlib.rc("axes", edgecolor=FAINT, labelcolor=INK, titlesize=11.0, titleweight="bold")
        matplotlib.rc("axes.spines", top=False, right=False)
        matplotlib.rc("xtick", color=FAINT, labelcolor=INK)
        matplotlib.rc("ytick", color=FAINT, labelcolor=INK)
        matplotlib.rc("legend", frameon=False)
        matplotlib.rc("svg", hashsalt="dynlm", fonttype="path")
        # Missing characters are drawn as boxes and reported in one line by ``warn_of_missing``.
        warnings.filterwarnings("ignore", message=".*missing from.*font")
        # A fallback font often has one weight, in which bold text is drawn too.
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def new_figure(height: float, heights: tuple[float, ...] = (1,)) -> tuple[Figure, list[Axes]]:
    """Return a figure 9 inches wide with axes below each other, of relative ``heights``, that share the x axis."""
    figure = Figure(figsize=(9.0, height))
    FigureCanvasAgg(figure)
    grid = {"height_ratios": heights, "hspace": 0.12, "left": 0.08, "right": 0.98, "bottom": 0.1, "top": 0.96}
    panels = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw=grid)[:, 0].tolist()
    for axes in panels:
        axes.yaxis.grid(True, color=GRID, linewidth=0.5)
        axes.set_axisbelow(True)
    panels[-1].xaxis.set_major_formatter(THOUSANDS)
    return figure, panels


def size_in_points(axes: Axes) -> tuple[float, float]:
    """Return width and height of the axes in points."""
    box, scale = axes.get_window_extent(), 72 / axes.figure.dpi
    return box.width * scale, box.height * scale


def annotate(axes: Axes, text: str, corner: tuple[float, float], offset: tuple[float, float], **style: Any) -> Any:
    """Write ``text`` at an ``offset`` in points from a ``corner`` of the axes. Return the artist."""
    coordinates: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "annotation_clip": False}
    return axes.annotate(text, corner, offset, **coordinates, **style)


def add_headings(axes: Axes, title: str, subtitle: str, above: float = 0.0) -> None:
    """Write a title and a line of explanation, ``above`` points over the axes."""
    annotate(axes, subtitle, (0, 1), (0, above + 8), color=FAINT, fontsize=8.5)
    annotate(axes, title, (0, 1), (0, above + 22), weight="bold", fontsize=11)


def add_legend(lines: Axes, axes: Axes, below: float = 34.0) -> float:
    """Put the legend of the lines in ``lines`` under ``axes``. Return how far down it reaches, in points."""
    handles, labels = lines.get_legend_handles_labels()
    columns, corner = min(4, len(labels)), (0, -below / size_in_points(axes)[1])
    spacing: Any = {"borderaxespad": 0, "borderpad": 0, "handlelength": 3.4}
    axes.legend(handles, labels, ncols=columns, loc="upper left", bbox_to_anchor=corner, **spacing)
    return below + 14.0 * -(-len(labels) // columns) + 6


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png (150 dots an inch), ``stem``.svg and ``stem``.pdf; the same figure gives the same bytes.

    Raises UserError where they cannot be written.
    """
    paths = []
    for suffix, metadata in _METADATA.items():
        path = stem.with_name(stem.name + suffix)
        with atomic_write(path) as aside:
            figure.savefig(aside, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.12, facecolor="white")
        paths.append(path)
    return paths


def monospace(texts: Iterable[str] = ()) -> list[str]:
    """Return the font family for token grids, with fallbacks for the characters of ``texts``."""
    return _with_fallbacks(["DejaVu Sans Mono", "DejaVu Sans"], texts)


def warn_of_missing(texts: Iterable[str], do: str) -> None:
    """Print one line on standard error that names the characters of ``texts`` that no font has, and what to ``do``."""
    texts = list(texts)
    missing = sorted(_missing(texts, monospace(texts)))
    if missing:
        named = f"{' '.join(missing[:_MAX_NAMED])}{' ...' if len(missing) > _MAX_NAMED else ''}"
        what = f"no installed font has {len(missing)} of the characters ({named}), which are drawn as boxes"
        warn(f"{what}; {do}")


def _with_fallbacks(family: list[str], texts: Iterable[str]) -> list[str]:
    """Return ``family`` and as few other installed fonts as have the characters of ``texts`` that it lacks."""
    missing = _missing(texts, family)
    # A last-resort font has boxes for all characters.
    others = [name for name in font_manager.get_font_names() if "lastresort" not in name.casefold().replace(" ", "")]
    while missing and others:
        best = max(sorted(others), key=lambda name: (len(missing & _characters(name)), name.startswith("Noto Sans")))
        if not missing & _characters(best):
            break
        family, missing = [*family, best], missing - _characters(best)
    return family


def _missing(texts: Iterable[str], family: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*texts).difference(*(_characters(name) for name in family))


@cache
def _characters(name: str) -> frozenset[str]:
    """Return the characters that the font of this name has; none where it cannot be read."""
    try:
        font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties(family=[name])))
        return frozenset(map(chr, font.get_charmap()))
    except (OSError, RuntimeError):
        return frozenset()
