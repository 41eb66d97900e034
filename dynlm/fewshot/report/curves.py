"""Figures of few-shot regression: the fit on a new curve step by step, and the error against steps.

Drawn from ``examples/`` and ``scores/`` of few-shot runs. Legend: K steps, N points of the grid.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator, ScalarFormatter
from PIL import Image

from dynlm.errors import UserError
from dynlm.fewshot.results import EpisodeScores
from dynlm.report.drawing import FAINT, GRID, INK, add_headings, add_legend, drawing, line_style, save_figure
from dynlm.report.palette import LIGHT, LineStyle, learner_styles
from dynlm.runtime.files import atomic_write

_GIF_DPI = 90
_FRAME_MS, _LAST_FRAME_MS = 180, 1800
_STRIP_STEPS = (0, 1, 2, 5, 10, 30)


def check_same_curves(examples: Sequence[dict[str, Any]]) -> None:
    """Raise UserError unless all examples have the same curves."""
    first, *others = examples
    for other in others:
        curves, first_curves = ([task["true"] for task in one["tasks"]] for one in (other, first))
        if other["grid"] != first["grid"] or curves != first_curves:
            names = f"{first['protocol']['run']} and {other['protocol']['run']}"
            do = "evaluate both with the same task, seed and shown_tasks"
            raise UserError(f"{names} show different curves", do=do)


def animate_fits(examples: Sequence[dict[str, Any]], path: Path, task: int = 0) -> Path:
    """Write a GIF of each learner's fit on a new curve after 0, 1, ..., K steps, side by side.

    Raises UserError where the learners' curves differ.
    """
    check_same_curves(examples)
    frames = []
    steps = max(len(one["tasks"][task]["fits"]) for one in examples)
    with drawing():
        figure = Figure(figsize=(3.1 * len(examples) + 0.3, 3.0))
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(examples), sharey=True, squeeze=False)[0]
        lines = [_panel(*panel, task) for panel in zip(panels, examples, _styles(examples), strict=True)]
        for axes in panels:
            axes.set_xlabel("x")
        panels[0].set_ylabel("y")
        figure.subplots_adjust(left=0.65 / figure.get_figwidth(), right=0.98, top=0.84, bottom=0.18, wspace=0.08)
        for step in range(steps):
            for (line, title), one in zip(lines, examples, strict=True):
                shown = min(step, len(one["tasks"][task]["fits"]) - 1)
                line.set_ydata(one["tasks"][task]["fits"][shown])
                title.set_text(_title(one, task, shown))
            buffer = io.BytesIO()
            canvas.print_figure(buffer, dpi=_GIF_DPI, format="png", facecolor="white")
            frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=48))
    durations = [_FRAME_MS * (4 if step == 0 else 1) for step in range(steps)]
    durations[-1] = _LAST_FRAME_MS
    with atomic_write(path) as staged:
        frames[0].save(staged, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return path


def _title(example: dict[str, Any], task: int, step: int) -> str:
    error = example["tasks"][task]["errors"][step]
    return f"{example['protocol']['label']}\n{step} step{'s' * (step != 1)}: error {error:.3f}"


def _styles(examples: Sequence[dict[str, Any]]) -> list[LineStyle]:
    return learner_styles([one["protocol"]["label"] for one in examples])


def _panel(axes: Axes, example: dict[str, Any], style: LineStyle, task: int) -> Any:
    """Draw curve, support points and the fit before any step; return the fit's line and the title."""
    shown = example["tasks"][task]
    grid, true, support = (np.asarray(values) for values in (example["grid"], shown["true"], shown["support"]))
    axes.plot(grid, true, color=INK, linewidth=1.0, linestyle="--", label="the curve", zorder=2)
    axes.plot(*support.T[:2], "o", color=FAINT, markersize=2.6, label="points to learn from", zorder=1)
    (line,) = axes.plot(grid, shown["fits"][0], linewidth=2.0, zorder=3, color=LIGHT[style.colour])
    margin = 0.25 * (true.max() - true.min()) + 0.5
    axes.set_ylim(true.min() - margin, true.max() + margin)
    axes.set_xlim(grid[0], grid[-1])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="both"))
    axes.grid(True, color=GRID, linewidth=0.5)
    title = axes.set_title(_title(example, task, 0), fontsize=9, loc="left", weight="normal")
    return line, title


def plot_strip(examples: Sequence[dict[str, Any]], stem: Path, task: int = 0) -> list[Path]:
    """Draw the fits as stills: a row for each learner, a column for each of some numbers of steps.

    ``stem`` is a path without .png and .svg. Raises UserError where the learners' curves differ.
    """
    check_same_curves(examples)
    most = max(len(one["tasks"][task]["fits"]) for one in examples) - 1
    columns = [step for step in _STRIP_STEPS if step <= most]
    with drawing():
        figure = Figure(figsize=(1.75 * len(columns) + 0.4, 1.75 * len(examples) + 0.3))
        FigureCanvasAgg(figure)
        grid = {"wspace": 0.06, "hspace": 0.3}
        size = len(examples), len(columns)
        panels = figure.subplots(*size, sharex=True, sharey=True, squeeze=False, gridspec_kw=grid)
        for row, (one, style) in enumerate(zip(examples, _styles(examples), strict=True)):
            for axes, step in zip(panels[row], columns, strict=True):
                shown = min(step, len(one["tasks"][task]["fits"]) - 1)
                line, title = _panel(axes, one, style, task)
                line.set_ydata(one["tasks"][task]["fits"][shown])
                error = one["tasks"][task]["errors"][shown]
                title.set_text(f"step {shown}: {error:.3f}" if row else f"step {shown}: error {error:.3f}")
                title.set_fontsize(8)
            panels[row, 0].set_ylabel(f"{one['protocol']['label']}\ny")
        for axes in panels[-1]:
            axes.set_xlabel("x")
        subtitle = "Each learner's fit; error: mean squared error of points that it did not see."
        add_headings(panels[0, 0], f"A new curve after 0 to {columns[-1]} gradient steps", subtitle, above=16)
        add_legend(panels[0, 0], panels[-1, 0], below=44)
        return save_figure(figure, stem)


def plot_errors(scores: Sequence[EpisodeScores], stem: Path) -> list[Path]:
    """Draw the mean error against inner steps with 95 % bands over tasks; ``stem`` is a path without .png and .svg."""
    with drawing():
        figure = Figure(figsize=(6.4, 3.8))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for one, drawn in zip(scores, learner_styles([one.label for one in scores]), strict=True):
            mean, half = np.asarray([one.at(step) for step in one.steps]).T
            style = line_style(drawn)
            axes.plot(one.steps, mean, linewidth=1.6, label=one.label, **style)
            axes.fill_between(one.steps, mean - half, mean + half, color=style["color"], alpha=0.18, linewidth=0)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(True, color=GRID, linewidth=0.5)
        axes.set_xlim(0, max(max(one.steps) for one in scores) or 1)
        axes.set_xlabel("inner gradient steps on the support set")
        axes.set_ylabel("mean squared error of the query set")
        protocol = scores[0].protocol
        tasks = f"{protocol['task']}, {protocol['shots']} support points"
        axes.set_title(f"{protocol['episodes']:,} new tasks ({tasks})", loc="left")
        add_legend(axes, axes)
        return save_figure(figure, stem)
