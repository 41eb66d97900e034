"""Tables of returns, and curves of the regret over the episodes of a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dynlm.fewshot.results import EpisodeScores, interval
from dynlm.report.drawing import GRID, add_headings, add_legend, drawing, line_style, save_figure
from dynlm.report.fewshot_results import Table
from dynlm.report.palette import learner_styles


def title_of(protocol: dict[str, Any]) -> str:
    """Return the name of the tasks with their size."""
    return f"{protocol['task']}, {str(protocol['size']).replace('-', ' ')}"


def return_table(scores: Sequence[EpisodeScores]) -> Table:
    """Return a table of the returns of some learners on the same kind of tasks, the best last."""
    protocol = scores[0].protocol
    note = f"{protocol['episodes']:,} new tasks of the {protocol['split']} split, 95 % normal intervals over tasks. "
    ordered = sorted(scores, key=lambda one: one.total()[0])
    if all(one.adapts_while_acting for one in scores):
        columns = ["learner", "constant", f"return of all {protocol['unit']}s", "regret"]
        rows = [[one.label, _constant(one), _shown(one.total()), _final_regret(one)] for one in ordered]
        note += "Regret: the best policy's expected return minus the return. "
        note += "Constants of yardsticks are the best of a grid on the valid split."
        return Table(f"Return on {title_of(protocol)}", columns, rows, note)
    steps = sorted({step for one in scores if not one.adapts_while_acting for step in one.steps})
    ordered = sorted(scores, key=lambda one: _episode_mean(one)[0])
    columns = ["learner", *(f"after {step} step{'s' * (step != 1)}" for step in steps), "mean of all episodes"]
    rows = []
    for one in ordered:
        taken = [] if one.adapts_while_acting else one.steps
        cells = [_shown(one.at(step)) if step in taken else "-" for step in steps]
        rows.append([one.label, *cells, _shown(_episode_mean(one)) if one.adapts_while_acting else "-"])
    note += "Mean return of an episode, after some inner steps or, for policies with a memory, of all their episodes."
    return Table(f"Return on {title_of(protocol)}", columns, rows, note)


def _episode_mean(one: EpisodeScores) -> tuple[float, float]:
    return interval(one.values_EJ.mean(1)) if one.adapts_while_acting else one.at()


def _constant(one: EpisodeScores) -> str:
    tuned = dict(one.protocol.get("tuned") or {})
    return ", ".join(f"{name} {tuned[name]:g}" for name in list(tuned)[:1]) or "-"


def _shown(value: tuple[float, float]) -> str:
    return "{:.4g} ± {:.2g}".format(*value)


def _final_regret(one: EpisodeScores) -> str:
    regret = one.regret()
    return "-" if regret is None else _shown(tuple(regret[:, -1]))


def plot_regret(scores: Sequence[EpisodeScores], stem: Path) -> list[Path]:
    """Draw the regret so far against the episode, with 95 % bands over tasks; ``stem`` is a path without .png and .svg.

    ``scores`` are of learners that adapt while acting, on tasks whose best policies are known.
    """
    protocol = scores[0].protocol
    with drawing():
        figure = Figure(figsize=(6.4, 3.8))
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for one, drawn in zip(scores, learner_styles([one.label for one in scores]), strict=True):
            regret = one.regret()
            assert regret is not None
            mean, half = regret
            style = line_style(drawn)
            axes.plot(one.steps, mean, linewidth=1.6, label=one.label, **style)
            axes.fill_between(one.steps, mean - half, mean + half, color=style["color"], alpha=0.18, linewidth=0)
        axes.grid(True, color=GRID, linewidth=0.5)
        axes.set_xlim(1, max(2, *(one.steps[-1] for one in scores)))
        axes.set_xlabel(f"{protocol['unit']} of a task")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("regret so far, sum of rewards")
        subtitle = f"Mean of {protocol['episodes']:,} new tasks; band: 95 %, normal"
        add_headings(axes, f"Regret while acting ({title_of(protocol)})", subtitle)
        add_legend(axes, axes)
        return save_figure(figure, stem)
