"""A sheet of an n-way k-shot episode: what was shown, what was asked, right and wrong answers.

Right and wrong are told by a sign and a frame's dashes too, not by colour alone.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynlm.report.drawing import COLOURS, INK, drawing, save_figure

_SHOWN_SHOTS, _SHOWN_WAYS = 5, 20
_RIGHT, _WRONG = COLOURS[0], COLOURS[1]


def decoded(packed: dict[str, Any]) -> np.ndarray:
    """Images (N, H, W, C) of an example."""
    return np.frombuffer(base64.b64decode(packed["bytes"]), np.uint8).reshape(packed["shape"])


def plot_episode(example: dict[str, Any], stem: Path, task: int = 0) -> list[Path]:
    """Draw one episode, a row for each class; ``stem`` is a path without .png and .svg."""
    shown, protocol = example["tasks"][task], example["protocol"]
    support, query = decoded(shown["support"]), decoded(shown["query"])
    support_classes, query_classes = np.asarray(shown["support_classes"]), np.asarray(shown["query_classes"])
    answers = np.asarray(shown["answers"])
    ways = min(int(protocol["ways"]), _SHOWN_WAYS)
    shots = min(int(np.sum(support_classes == 0)), _SHOWN_SHOTS)
    asked = int(np.sum(query_classes == 0))
    with drawing():
        figure = Figure(figsize=(0.62 * (shots + asked + 0.6), 0.66 * ways + 0.75))
        FigureCanvasAgg(figure)
        widths = [1.0] * shots + [0.5] + [1.0] * asked
        panels = figure.subplots(
            ways, shots + 1 + asked, squeeze=False, gridspec_kw={"width_ratios": widths, "wspace": 0.14, "hspace": 0.14}
        )
        for axes in panels.flat:
            axes.set_axis_off()
        for way in range(ways):
            for column, place in enumerate(np.flatnonzero(support_classes == way)[:shots]):
                _image(panels[way, column], support[place], INK, "solid", 0.8)
            panels[way, 0].text(
                -0.25,
                0.5,
                "ABCDEFGHIJKLMNOPQRST"[way],
                transform=panels[way, 0].transAxes,
                va="center",
                ha="right",
                weight="bold",
            )
            for column, place in enumerate(np.flatnonzero(query_classes == way)):
                axes, right = panels[way, shots + 1 + column], answers[place] == way
                _image(axes, query[place], _RIGHT if right else _WRONG, "solid" if right else (0, (2, 1.5)), 1.8)
                if not right:
                    told = "ABCDEFGHIJKLMNOPQRST"[answers[place] % _SHOWN_WAYS]
                    place_of: dict[str, Any] = {"transform": axes.transAxes, "ha": "right", "va": "bottom"}
                    box = {"facecolor": _WRONG, "edgecolor": "none", "pad": 1.2}
                    sign = f"\N{MULTIPLICATION SIGN} {told}"
                    axes.text(0.96, 0.04, sign, fontsize=8, weight="bold", color="white", bbox=box, **place_of)
        panels[0, 0].set_title("support", loc="left", fontsize=9)
        right = int(np.sum(answers == query_classes))
        panels[0, shots + 1].set_title(f"query: {right} of {len(answers)} right", loc="left", fontsize=9)
        title = f"{protocol['label']}: {protocol['ways']}-way {protocol['shots']}-shot, {protocol['task']}"
        figure.suptitle(title, x=0.125, y=0.99, ha="left", fontsize=10, weight="bold")
        return save_figure(figure, stem)


def _image(axes: Axes, image: np.ndarray, colour: str, dashes: Any, width: float) -> None:
    axes.set_axis_on()
    axes.set_xticks([])
    axes.set_yticks([])
    grey = image.shape[-1] == 1
    axes.imshow(255 - image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=255)
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_color(colour)
        spine.set_linestyle(dashes)
        spine.set_linewidth(width)
