"""Trajectories on the plane of navigation after 0, 1, ... inner steps, as stills and as an animation.

Drawn from ``examples/`` of runs whose learners take steps. Legend: N steps of an episode.
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
from PIL import Image

from dynlm.errors import UserError
from dynlm.report.drawing import FAINT, GRID, INK, drawing, save_figure
from dynlm.report.palette import LIGHT, learner_styles
from dynlm.runtime.files import atomic_write

_GIF_DPI = 90
_FRAME_MS, _LAST_FRAME_MS = 80, 1800
_MOST_FRAMES = 60
_EDGE = 0.75
"""The plane that is shown; a point that leaves it is outside of the figure."""


def trajectories_of(examples: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the examples of navigation by learners that take steps, those of tasks of the same size together."""
    same: dict[str, list[dict[str, Any]]] = {}
    for one in examples:
        protocol = one["protocol"]
        if protocol["task"] == "navigation" and protocol["adapts"] == "by steps" and one["tasks"]:
            same.setdefault(protocol["size"], []).append(one)
    return list(same.values())


def trajectories(example: dict[str, Any], task: int) -> list[tuple[int, np.ndarray, float]]:
    """Return (inner steps, positions (N, 2) until the end of the episode, return) of each episode of a task."""
    found = []
    for acted in example["tasks"][task]["acted"]:
        valid_N = np.asarray(acted["valid"], dtype=bool)
        positions_N2 = np.asarray(acted["observations"], dtype=float)[valid_N]
        found.append((int(acted["step"]), positions_N2, float(np.sum(acted["rewards"]))))
    return found


def check_same_goals(examples: Sequence[dict[str, Any]]) -> None:
    """Raise UserError unless all examples have the same goals."""
    first, *others = examples
    for other in others:
        goals, first_goals = ([task["parameters"] for task in one["tasks"]] for one in (other, first))
        if goals != first_goals:
            names = f"{first['protocol']['run']} and {other['protocol']['run']}"
            do = "evaluate both with the same task, seed and shown_tasks"
            raise UserError(f"{names} show different goals", do=do)


def plot_trajectories(examples: Sequence[dict[str, Any]], stem: Path, task: int = 0, most_steps: int = 3) -> list[Path]:
    """Draw an episode after each number of inner steps: a row for each learner, a column for each number.

    ``stem`` is a path without .png and .svg. Raises UserError where the learners' goals differ.
    """
    check_same_goals(examples)
    rows = [[one for one in trajectories(each, task) if one[0] <= most_steps] for each in examples]
    columns = max(map(len, rows))
    with drawing():
        figure = Figure(figsize=(1.9 * columns + 0.4, 1.95 * len(examples) + 0.3))
        FigureCanvasAgg(figure)
        grid = {"wspace": 0.08, "hspace": 0.25}
        panels = figure.subplots(len(examples), columns, sharex=True, sharey=True, squeeze=False, gridspec_kw=grid)
        for index, (one, row, colour) in enumerate(zip(examples, rows, _colours(examples), strict=True)):
            for axes in panels[index, len(row) :]:
                axes.set_axis_off()
            for axes, (step, positions_N2, total) in zip(panels[index], row, strict=False):
                _plane(axes, one, task)
                axes.plot(*positions_N2.T, color=colour, linewidth=1.2, zorder=3)
                axes.set_title(f"step {step}: {total:.1f}", fontsize=8, loc="left", weight="normal")
            panels[index, 0].set_ylabel(one["protocol"]["label"])
        return save_figure(figure, stem)


def animate_trajectories(examples: Sequence[dict[str, Any]], path: Path, task: int = 0) -> Path:
    """Write a GIF of an episode before and one after the first inner step, a column for each learner.

    Raises UserError where the learners' goals differ.
    """
    check_same_goals(examples)
    shown = [trajectories(one, task)[:2] for one in examples]
    longest = max(len(positions_N2) for pair in shown for _, positions_N2, _ in pair)
    stride = -(-longest // _MOST_FRAMES)
    ends = [*range(1, longest, stride), longest]
    frames = []
    with drawing():
        figure = Figure(figsize=(2.3 * len(examples) + 0.4, 5.0))
        canvas = FigureCanvasAgg(figure)
        grid = {"wspace": 0.08, "hspace": 0.22, "left": 0.16 if len(examples) == 1 else 0.09, "right": 0.98}
        panels = figure.subplots(2, len(examples), sharex=True, sharey=True, squeeze=False, gridspec_kw=grid)
        drawn = []
        for index, (one, pair, colour) in enumerate(zip(examples, shown, _colours(examples), strict=True)):
            for axes, (step, positions_N2, total) in zip(panels[:, index], pair, strict=False):
                _plane(axes, one, task)
                (line,) = axes.plot([], [], color=colour, linewidth=1.2, zorder=3)
                (point,) = axes.plot([], [], color=colour, marker="o", markersize=5, zorder=4)
                name = f"{one['protocol']['label']}\n" if step == 0 else ""
                axes.set_title(f"{name}step {step}: return {total:.1f}", fontsize=8, loc="left", weight="normal")
                drawn.append((line, point, positions_N2))
        for end in ends:
            for line, point, positions_N2 in drawn:
                line.set_data(*positions_N2[:end].T)
                point.set_data(*positions_N2[:end][-1:].T)
            buffer = io.BytesIO()
            canvas.print_figure(buffer, dpi=_GIF_DPI, format="png", facecolor="white")
            frames.append(Image.open(buffer).convert("P", palette=Image.Palette.ADAPTIVE, colors=48))
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    with atomic_write(path) as staged:
        frames[0].save(staged, save_all=True, append_images=frames[1:], duration=durations, loop=0, optimize=True)
    return path


def _colours(examples: Sequence[dict[str, Any]]) -> list[str]:
    return [LIGHT[style.colour] for style in learner_styles([one["protocol"]["label"] for one in examples])]


def _plane(axes: Axes, example: dict[str, Any], task: int) -> None:
    """Draw the start and the goal."""
    x, y = example["tasks"][task]["parameters"]["goals"]
    axes.plot(0, 0, marker="+", markersize=7, color=FAINT, linestyle="none", zorder=2)
    axes.plot(x, y, marker="*", markersize=10, color=INK, linestyle="none", zorder=5)
    axes.set(xlim=(-_EDGE, _EDGE), ylim=(-_EDGE, _EDGE), aspect="equal", xticks=(-0.5, 0, 0.5), yticks=(-0.5, 0, 0.5))
    axes.grid(True, color=GRID, linewidth=0.5)
