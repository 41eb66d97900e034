"""Figures of curves: difference in instant perplexity, loss against position, and what the memory did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from dynlm.errors import UserError
from dynlm.report.article_labels import MAX_TITLED, label_articles, list_largest_gains
from dynlm.report.curve_data import (
    RESET_SHARE,
    PositionCurve,
    memory_records,
    overlapping,
    overlapping_positions,
    perplexity_difference,
    position_curve,
    position_note,
)
from dynlm.report.drawing import (
    INK,
    THOUSANDS,
    add_headings,
    add_legend,
    drawing,
    line_style,
    new_figure,
    save_figure,
    warn_of_missing,
)
from dynlm.report.palette import BETTER, DASHES, WORSE, LineStyle
from dynlm.report.score_set import Pairs, ScoreSet
from dynlm.report.token_cells import short

TITLES = {
    "difference": "Difference in instant perplexity over successive articles",
    "position": "Loss against the position in the article",
    "memory": "Distance from the static weights, and resets, along the text",
}
"""Title of each figure, by the stem of its files."""
_POINTS = 1500


def plot_run(paths: Sequence[Path], out: Path, window: int | None = None, pairs: Pairs | None = None) -> list[Path]:
    """Draw the score files' curves into the folder ``out``: difference.{png,svg} and position.{png,svg}.

    Where a score file has a record of its memory, memory.{png,svg} too. With one file there is no difference to draw.
    ``window`` (tokens) and ``pairs`` are those of ``plot_difference``. Returns what was written.
    Raises UserError for unreadable files, files of different texts, an unknown variant or a window that does not fit.
    """
    scores, out = ScoreSet.load(paths), Path(out)
    written = []
    if len(scores.variants) > 1 or pairs:
        written += plot_difference(scores, out / "difference", window, pairs)
    written += plot_position(scores, out / "position")
    if memory_records(scores.variants):
        written += plot_memory(scores, out / "memory")
    warn_of_missing(scores.shown_texts(), "install one, or make the page of dynlm report, which needs none")
    return written


def plot_difference(scores: ScoreSet, path: Path, window: int | None = None, pairs: Pairs | None = None) -> list[Path]:
    """Draw perplexity(lower) - perplexity(higher) along the text, one line for each pair of variants.

    Perplexity is that of the mean loss in a centred ``window`` of tokens, by default a hundredth of the text;
    ``pairs`` are by default the baseline with each other variant. ``path`` is a stem for .png and .svg.
    Raises UserError for an unknown label or a window that does not fit.
    """
    window, indices, text, labels = scores.window(window), scores.pairs(pairs), scores.text, scores.labels
    one_pair, one_lower = len(indices) == 1, len({lower for lower, _ in indices}) == 1
    lower_name = labels[indices[0][0]] if one_lower else "lower level"
    higher_name = labels[indices[0][1]] if one_pair else "higher level"
    rows = np.unique(np.linspace(0, len(text) - 1, min(len(text), _POINTS)).round().astype(int))
    lines = [perplexity_difference(scores.variants[low], scores.variants[high], window)[rows] for low, high in indices]
    near = overlapping(lines, 1.3 / 230 * float(np.ptp([0, *np.concatenate(lines)])))
    styles = _pair_styles(scores, indices)
    with drawing(scores.shown_texts()):
        figure, panels = new_figure(5.4 if near else 3.9, (3, 1) if near else (1,))
        axes = panels[0]
        for (lower, higher), style, line in zip(indices, styles, lines, strict=True):
            label = labels[higher] if one_lower else f"{labels[lower]} \N{MINUS SIGN} {labels[higher]}"
            # A single difference is black over blue and red areas, as on the page.
            drawn: dict[str, Any] = {"color": INK} if one_pair else line_style(style, label)
            axes.plot(rows + 1, line, linewidth=1.3, zorder=3, **drawn)
            if one_pair:
                axes.fill_between(rows + 1, line, 0, where=line >= 0, color=BETTER, alpha=0.2, linewidth=0)
                axes.fill_between(rows + 1, line, 0, where=line <= 0, color=WORSE, alpha=0.25, linewidth=0)
        for low, high in near:
            difference = _difference(labels[indices[low][1]], labels[indices[high][1]])
            panels[1].plot(rows + 1, lines[high] - lines[low], linewidth=1.3, **line_style(styles[high], difference))
        for panel in panels:
            panel.axhline(0, color=INK, linewidth=0.8, zorder=2)
        axes.set(xlim=(1, max(2, len(text))))
        panels[-1].set_xlabel("tokens read")
        axes.set_ylabel(
            f"perplexity({short(lower_name)}) \N{MINUS SIGN} perplexity({short(higher_name)}),\nper token", ma="center"
        )
        _name_overlapping(panels[1:], "perplexity")
        below = 34.0 if one_pair else add_legend(axes, panels[-1])
        above = label_articles(axes, text)
        if len(text.articles) > MAX_TITLED:
            largest = max(range(len(lines)), key=lambda n: float(lines[n].mean()))
            lower, higher = indices[largest]
            list_largest_gains(
                panels[-1], scores.variants[lower], scores.variants[higher], short(labels[higher]), below
            )
        subtitle = f"Above zero {'' if one_pair else 'the '}{short(higher_name)} predicts better. "
        subtitle += f"Perplexity of the mean loss over {window:,} tokens; letters are articles."
        add_headings(axes, TITLES["difference"], subtitle, above)
        return save_figure(figure, path)


def plot_position(scores: ScoreSet, path: Path) -> list[Path]:
    """Draw the loss against the position in the article, and below it each variant's gain over the baseline.

    Lines are means over articles with equal weights, with a 95 % normal band. ``path`` is a stem for .png and .svg.
    """
    baseline, several = scores.variants[scores.baseline], len(scores.variants) > 1
    curves = [position_curve(each) for each in scores.variants]
    near = overlapping_positions(curves, 1.5 / 170)
    with drawing(scores.shown_texts()):
        figure, panels = new_figure(3.6 + 2.6 * several + 1.6 * bool(near), (5, 5, 3)[: 1 + several + bool(near)])
        for index, (label, curve) in enumerate(zip(scores.labels, curves, strict=True)):
            _plot_band(panels[0], curve, line_style(scores.styles[index], label))
            if index != scores.baseline:
                gain = position_curve(scores.variants[index], baseline)
                _plot_band(panels[1], gain, line_style(scores.styles[index]))
        for better, worse in near:
            difference = _difference(scores.labels[worse], scores.labels[better])
            curve = position_curve(scores.variants[better], scores.variants[worse])
            _plot_band(panels[2], curve, line_style(scores.styles[better], difference))
        panels[0].set_ylabel("nats per token")
        for panel in panels:
            panel.set_xscale("log")
            panel.margins(x=0.01)
        panels[-1].xaxis.set(major_locator=LogLocator(base=10, subs=(1, 2, 5)), major_formatter=THOUSANDS)
        panels[-1].xaxis.set(minor_locator=NullLocator(), minor_formatter=NullFormatter())
        panels[-1].set_xlabel("position in the article, tokens")
        for panel in panels[1:]:
            panel.axhline(0, color=INK, linewidth=0.8)
        _name_overlapping(panels[2:], "nats per token")
        if several:
            panels[1].set_ylabel(f"nats per token below\n{short(scores.labels[scores.baseline], 40)}", ma="center")
            add_legend(panels[0], panels[-1])
        note = position_note(len(scores.text.articles))
        add_headings(panels[0], TITLES["position"], note if several else f"{short(scores.labels[0], 40)}. {note}")
        return save_figure(figure, path)


def plot_memory(scores: ScoreSet, path: Path) -> list[Path]:
    """Draw each variant's distance from theta_0 along the text, and below it where its weights were reset.

    ``path`` is a stem for .png and .svg. Returns what was written. Raises UserError where no memory was recorded.
    """
    records = memory_records(scores.variants)
    if not records:
        raise UserError("no score file has a record of its memory", do="score with --memory.track true")
    moved = any(record.distance is not None for record in records)
    with_resets = [record for record in records if record.reset is not None]
    with drawing(scores.shown_texts()):
        heights = (3.0,) * moved + (max(0.6, 0.3 * len(with_resets)),) * bool(with_resets)
        figure, panels = new_figure(0.6 + sum(heights), heights)
        for record in records:
            if record.distance is not None:
                style = line_style(scores.styles[record.variant], scores.labels[record.variant])
                panels[0].plot(record.row + 1, record.distance, linewidth=1.2, **style)
        for index, record in enumerate(with_resets):
            rows = record.row[np.asarray(record.reset) >= RESET_SHARE] + 1
            colour = line_style(scores.styles[record.variant])["color"]
            panels[-1].plot(rows, np.full(len(rows), index), linestyle="none", marker="|", color=colour)
        subtitle = "Distance relative to the norm of the static weights."
        if with_resets:
            panels[-1].yaxis.grid(False)
            names = [short(scores.labels[record.variant]) for record in with_resets]
            panels[-1].set_yticks(range(len(names)), names)
            panels[-1].set(ylim=(len(names) - 0.4, -0.6), ylabel="resets")
            marks = "Marks: the weights were" if any(each.resets for each in with_resets) else "The weights were never"
            subtitle = f"{marks} moved at least {100 * RESET_SHARE:.0f} % of the way back to the static weights."
        panels[-1].set(xlim=(1, max(2, len(scores.text))), xlabel="tokens read")
        if moved:
            panels[0].set_ylabel("distance from θ₀,\nrelative", ma="center")
            add_legend(panels[0], panels[-1])
        add_headings(panels[0], TITLES["memory"], subtitle)
        return save_figure(figure, path)


def _pair_styles(scores: ScoreSet, pairs: Sequence[tuple[int, int]]) -> list[LineStyle]:
    """Return the style of each pair's line: that of its higher level, and other dashes where that is drawn again."""
    drawn: Counter[int] = Counter()
    styles = []
    for _, higher in pairs:
        colour, dash = scores.styles[higher]
        styles.append(LineStyle(colour, (dash + drawn[higher]) % len(DASHES)))
        drawn[higher] += 1
    return styles


def _difference(worse: str, better: str) -> str:
    return f"{short(worse, 17)} \N{MINUS SIGN} {short(better, 17)}"


def _name_overlapping(panels: Sequence[Axes], quantity: str) -> None:
    """Label the panel, if there is one, of differences between lines that hide each other."""
    for panel in panels:
        panel.set_ylabel(f"{quantity},\ndifference", ma="center")
        panel.margins(y=0.15)
        # Above the panel; as an artist of its own it stays beside the legend of all lines.
        above: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0, "borderpad": 0.2}
        panel.add_artist(panel.legend(ncols=3, fontsize=8, handlelength=3.4, **above))


def _plot_band(axes: Axes, curve: PositionCurve, style: dict[str, Any]) -> None:
    axes.plot(curve.position, curve.mean, linewidth=1.5, **style)
    axes.fill_between(curve.position, curve.low, curve.high, color=style["color"], alpha=0.13, linewidth=0)
