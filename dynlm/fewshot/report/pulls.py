"""A heat map of how often each arm of one bandit is pulled over time.

Drawn from ``examples/`` of few-shot runs. Legend: N pulls, A arms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynlm.fewshot.report.returns import title_of
from dynlm.report.drawing import INK, drawing, save_figure
from dynlm.report.palette import BETTER

_COLUMNS = 3
_MOST_MARKS = 60
"""Pulls up to which those of a single copy are marked."""


def pulls_of(examples: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the examples that have shares of pulls, those of the same bandit together."""
    same: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in examples:
        if one["tasks"] and "shares" in one["tasks"][0]:
            means = one["tasks"][0]["parameters"]["means"]
            same.setdefault((one["protocol"]["task"], one["protocol"]["size"], *means), []).append(one)
    return list(same.values())


def plot_pulls(examples: Sequence[dict[str, Any]], stem: Path, task: int = 0) -> list[Path]:
    """Draw a panel for each learner: arms, the best on top, against pulls; ``stem`` is a path without .png and .svg.

    Colour is the share of copies of the bandit that pull the arm then. Dots are the pulls of one copy, filled where it
    got a reward. ``examples`` are of the same bandit.
    """
    first = examples[0]
    columns = min(_COLUMNS, len(examples))
    rows = math.ceil(len(examples) / columns)
    means_A = np.asarray(first["tasks"][task]["parameters"]["means"])
    order_A = np.argsort(-means_A)
    with drawing():
        figure = Figure(figsize=(2.9 * columns + 1.6, (0.17 * len(means_A) + 0.75) * rows + 0.65), layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        colours = LinearSegmentedColormap.from_list("shares", ["#ffffff", BETTER])
        image: Any = None
        for axes, one in zip(panels.flat, examples, strict=False):
            shares_NA = np.asarray(one["tasks"][task]["shares"])
            extent = (0.5, len(shares_NA) + 0.5, len(order_A) - 0.5, -0.5)
            image = axes.imshow(
                shares_NA.T[order_A], cmap=colours, vmin=0, vmax=1, aspect="auto", extent=extent, interpolation="none"
            )
            _mark(axes, one["tasks"][task]["acted"][0], np.argsort(order_A))
            axes.set_title(one["protocol"]["label"], fontsize=9, loc="left", weight="normal")
            axes.set_yticks(range(len(order_A)), [f"{mean:.2f}" for mean in means_A[order_A]], fontsize=7)
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        for axes in list(panels.flat)[len(examples) :]:
            axes.set_axis_off()
        for axes in list(panels.flat)[len(examples) - columns : len(examples)]:  # The lowest of each column.
            axes.xaxis.set_tick_params(labelbottom=True)
        figure.supxlabel(first["protocol"]["unit"], fontsize=9)
        figure.supylabel("arm: its probability of a reward", fontsize=9)
        copies = first["tasks"][task]["copies"]
        figure.colorbar(image, ax=panels, label=f"share of {copies:,} copies", shrink=0.9)
        title = f"Arms pulled over time in one bandit ({title_of(first['protocol'])})"
        if len(first["tasks"][task]["shares"]) <= _MOST_MARKS:
            title += "\nDots: the pulls of one copy, filled where it got a reward"
        figure.suptitle(title, x=0.01, ha="left", fontsize=9, weight="bold")
        return save_figure(figure, stem)


def _mark(axes: Axes, acted: dict[str, Any], row_A: np.ndarray) -> None:
    """Mark the pulls of a single copy."""
    pulls_N = np.arange(1, len(acted["actions"]) + 1)
    if len(pulls_N) > _MOST_MARKS:
        return
    rows_N, won_N = row_A[np.asarray(acted["actions"], dtype=int)], np.asarray(acted["rewards"]) > 0
    faces = [INK if won else "white" for won in won_N]
    axes.scatter(pulls_N, rows_N, s=9, c=faces, edgecolors=INK, linewidths=0.7, zorder=3)
