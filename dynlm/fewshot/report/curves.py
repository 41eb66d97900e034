"""Few-shot regression as pictures: the fit on a new curve step by step, and the error against steps.

Legend: K steps, N places of the grid. What is drawn comes from ``examples/`` and ``scores/`` of few-shot runs.
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
from dynlm.report.drawing import COLOURS, DASHES, FAINT, GRID, INK, drawing, line_style, save_figure
from dynlm.runtime.files import atomic_write

_DOTS = 90
"""Dots an inch of an animation."""
_MILLISECONDS, _PAUSE = 180, 1800
_STRIP = (0, 1, 2, 5, 10, 30)


def check_same_curves(examples: Sequence[dict[str, Any]]) -> None:
    """Raise UserError unless all were asked to fit the same curves."""
    for one in examples[1:]:
        if one["grid"] != examples[0]["grid"] or [t["true"] for t in one["tasks"]] != [
            t["true"] for t in examples[0]["tasks"]
        ]:
            names = f"{examples[0]['protocol']['run']} and {one['protocol']['run']}"
            raise UserError(
                f"{names} show different curves", do="evaluate both with the same task, seed and shown_tasks"
            )


def animate_fits(examples: Sequence[dict[str, Any]], path: Path, task: int = 0) -> Path:
    """Write a GIF: the fit of each learner on a new curve after 0, 1, ..., K steps, side by side.

    Raises UserError where the learners' curves differ.
    """
    check_same_curves(examples)
    frames = []
    steps = max(len(one["tasks"][task]["fits"]) for one in examples)
    with drawing():
        figure = Figure(figsize=(3.1 * len(examples) + 0.3, 3.0))
        canvas = FigureCanvasAgg(figure)
        panels = figure.subplots(1, len(examples), sharey=True, squeeze=False)[0]
        lines = [_panel(axes, one, task, index) for index, (axes, one) in enumerate(zip(panels, examples, strict=True))]
        for axes in panels:
            axes.set_xlabel("x")
        panels[0].set_ylabel("y")
        figure.subplots_adjust(left=0.65 / figure.get_figwidth(), right=0.98, top=0.84, bottom=0.18, wspace=0.08)
        for step in range(steps):
            for (line, title), one in zip(lines, examples, strict=True):
                own = min(step, len(one["tasks"][task]["fits"]) - 1)
                line.set_ydata(one["tasks"][task]["fits"][own])
                title.set_text(_title(one, task, own))
            buffer = io.BytesIO()
            canvas.print_figure(buffer, dpi=_DOTS, format="png", facecolor="white")
            frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=48))
    durations = [_MILLISECONDS * (4 if step == 0 else 1) for step in range(steps)]
    durations[-1] = _PAUSE
    with atomic_write(path) as aside:
        frames[0].save(aside, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return path


def _title(example: dict[str, Any], task: int, step: int) -> str:
    error = example["tasks"][task]["errors"][step]
    steps = "1 step" if step == 1 else f"{step} steps"
    return f"{example['protocol']['label']}\n{steps}: error {error:.3f}"


def _panel(axes: Axes, example: dict[str, Any], task: int, index: int) -> Any:
    shown = example["tasks"][task]
    grid, true = np.asarray(example["grid"]), np.asarray(shown["true"])
    support = np.asarray(shown["support"])
    axes.plot(grid, true, color=INK, linewidth=1.0, linestyle=DASHES[1], label="the curve", zorder=2)
    axes.plot(support[:, 0], support[:, 1], linestyle="none", marker="o", markersize=2.6, color=FAINT, zorder=1)
    (line,) = axes.plot(grid, shown["fits"][0], linewidth=2.0, zorder=3, color=COLOURS[index % len(COLOURS)])
    room = 0.25 * (true.max() - true.min()) + 0.5
    axes.set_ylim(true.min() - room, true.max() + room)
    axes.set_xlim(grid[0], grid[-1])
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, prune="both"))
    axes.grid(True, color=GRID, linewidth=0.5)
    title = axes.set_title(_title(example, task, 0), fontsize=9, loc="left", weight="normal")
    return line, title


def plot_strip(examples: Sequence[dict[str, Any]], stem: Path, task: int = 0) -> list[Path]:
    """Draw the same as stills: a row for each learner, a column for each of some numbers of steps.

    ``stem`` is a path without .png and .svg. Raises UserError where the learners' curves differ.
    """
    check_same_curves(examples)
    most = max(len(one["tasks"][task]["fits"]) for one in examples) - 1
    columns = [step for step in _STRIP if step <= most]
    with drawing():
        figure = Figure(figsize=(1.75 * len(columns) + 0.4, 1.75 * len(examples) + 0.3))
        FigureCanvasAgg(figure)
        panels = figure.subplots(
            len(examples),
            len(columns),
            sharex=True,
            sharey=True,
            squeeze=False,
            gridspec_kw={"wspace": 0.06, "hspace": 0.3},
        )
        for row, one in enumerate(examples):
            for column, step in enumerate(columns):
                axes = panels[row, column]
                own = min(step, len(one["tasks"][task]["fits"]) - 1)
                line, title = _panel(axes, one, task, row)
                line.set_ydata(one["tasks"][task]["fits"][own])
                error = one["tasks"][task]["errors"][own]
                title.set_text(f"step {own}: {error:.3f}" if row else f"step {own}: error {error:.3f}")
                title.set_fontsize(8)
            panels[row, 0].set_ylabel(f"{one['protocol']['label']}\ny")
        for axes in panels[-1]:
            axes.set_xlabel("x")
        return save_figure(figure, stem)


def plot_errors(scores: Sequence[EpisodeScores], stem: Path) -> list[Path]:
    """Draw the mean error against inner steps with 95 % bands over tasks; ``stem`` is a path without .png and .svg."""
    with drawing():
        figure = Figure(figsize=(6.4, 3.8))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for index, one in enumerate(scores):
            points = [one.at(step) for step in one.steps]
            mean, half = (np.asarray(values) for values in zip(*points, strict=True))
            style = line_style(index)
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
        told = scores[0].protocol
        axes.set_title(f"{told['episodes']:,} new tasks ({told['task']}, {told['shots']} support points)", loc="left")
        axes.legend(handlelength=3.4)
        return save_figure(figure, stem)
