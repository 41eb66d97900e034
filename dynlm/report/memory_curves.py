"""What the memory did over a text, where score files recorded it: distance from theta_0, and flushes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from dynlm.errors import UserError
from dynlm.evaluation.compare import check_same_text, unique_labels
from dynlm.evaluation.score_file import Scores
from dynlm.report.drawing import GRID, drawing, line_style, save_figure, short
from dynlm.report.memory_stats import FLUSHED, Recorded, recorded


def plot_memory(scores_list: Sequence[Scores], path: Path) -> list[Path]:
    """Draw each arm's distance from theta_0 along the text, and below it where its weights were flushed.

    ``path`` is a stem for .png and .svg. Returns what was written.
    Raises UserError for arms that read different texts, and where none recorded its memory.
    """
    check_same_text(scores_list)
    records, labels = recorded(scores_list), unique_labels(scores_list)
    if not records:
        raise UserError(
            "no score file records what its memory did", do="docs/report.md tells which columns do; draw other curves"
        )
    with drawing(labels):
        figure = Figure(figsize=(9.0, 3.6 + 0.22 * len(records)))
        FigureCanvasAgg(figure)
        above, below = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (3, 1), "hspace": 0.12})
        for one in records:
            if one.distance is not None:
                label = f" {short(labels[one.arm])}"
                above.plot(one.row + 1, one.distance, linewidth=1.2, label=label, **line_style(one.arm))
        above.set_ylabel("distance from θ₀,\nrelative", ma="center")
        above.yaxis.grid(True, color=GRID, linewidth=0.5)
        if above.lines:
            above.legend(loc="upper left", ncols=4, handlelength=3.4)
        _flushes(below, records, labels)
        below.set_xlim(1, max(2, len(scores_list[0])))
        below.set_xlabel("tokens read")
        below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        return save_figure(figure, path)


def _flushes(axes: Axes, records: Sequence[Recorded], labels: Sequence[str]) -> None:
    """One row of marks for each arm: the stretches of the text in which it was flushed."""
    for place, one in enumerate(records):
        if one.flush is not None:
            rows = one.row[np.flatnonzero(one.flush >= FLUSHED)] + 1
            axes.plot(rows, np.full(len(rows), place), linestyle="none", marker="|", color=line_style(one.arm)["color"])
    axes.set_yticks(range(len(records)), [short(labels[one.arm]) for one in records])
    axes.set_ylim(len(records) - 0.4, -0.6)
    axes.set_ylabel("flushes")
