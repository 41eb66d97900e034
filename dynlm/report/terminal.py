"""The heat map in a terminal: colours where the terminal has them, plus and minus signs where it has none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console, Group
from rich.style import Style
from rich.text import Text

from dynlm.report.heatmap import HeatMapData, load_heatmap
from dynlm.report.passages import Request
from dynlm.report.scale import Step, all_steps
from dynlm.report.token_cells import wrap_cells

_MAX_COLUMNS = 100
_FAINT, _BOLD = Style(dim=True), Style(bold=True)


def print_heatmap(paths: Sequence[Path], request: Request = (None, None, None), console: Console | None = None) -> None:
    """Print two score files' heat map; arguments and errors are those of ``heatmap.heatmap_run``."""
    console = console or Console(highlight=False)
    console.print(heatmap_text(load_heatmap(paths, request), console), soft_wrap=True)


def heatmap_text(data: HeatMapData, console: Console) -> Group:
    """Return the passages as text for ``console``, as wide as it is, at most 100 columns.

    A token's background shows its gain; where the console has no colours, one to three plus or minus signs after the
    token do. Words that occurred before in the article are underlined.
    """
    coloured, columns = console.color_system is not None, min(_MAX_COLUMNS, console.width)
    lines = [Text(data.title, _BOLD), *_legend(data, coloured)]
    for passage in data.passages:
        lines += [Text(), Text(passage.heading, _BOLD), Text(passage.caption, _FAINT)]
        cells, steps = passage.cells, [data.step(cell) for cell in passage.cells]
        if not coloured:
            signs = (("+" if step.index > 0 else "-") * step.thickness for step in steps)
            cells = [replace(cell, text=cell.text + sign) for cell, sign in zip(cells, signs, strict=True)]
        underlines = (Style(underline=cell.repeated) for cell in cells)
        styles = [_style(step) + each if coloured else each for step, each in zip(steps, underlines, strict=True)]
        lines += wrap_cells(cells, columns, styles)
    return Group(*lines)


def _legend(data: HeatMapData, coloured: bool) -> list[Text]:
    if not coloured:
        more = f"- to ---: more. Three: about {data.end} or more."
        return [Text(f"+ to +++: {data.higher} loses fewer nats on the token. {more}")]
    bar = Text(f"{data.higher} worse by {data.end} ")
    for step in all_steps():
        bar.append(" a", _style(step))
    bar.append(f" better by {data.end}")
    return [bar, Text("Underlined: the word occurred before in this article.", _FAINT)]


def _style(step: Step) -> Style:
    if not step.index:
        return Style()
    # COLORFGBG ends in 7 or 15 in a terminal with a light background; most are dark.
    is_light = os.environ.get("COLORFGBG", "").rpartition(";")[2] in ("7", "15")
    background, letters = step.light if is_light else step.dark
    return Style(color=letters, bgcolor=background)
