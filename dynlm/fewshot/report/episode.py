"""A figure of an n-way k-shot episode: support images, query images, right and wrong answers.

Answers differ by a sign and by the dashes of the frame too, not by colour alone. Legend: N images, H x W pixels, C
channels.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dynlm.report.drawing import INK, drawing, save_figure
from dynlm.report.palette import BETTER, WORSE

_MAX_SHOTS = 5
_NAMES = "ABCDEFGHIJKLMNOPQRST"


def unpack_images(packed: dict[str, Any]) -> np.ndarray:
    """Return the images (N, H, W, C) of an example as bytes."""
    return np.frombuffer(base64.b64decode(packed["bytes"]), np.uint8).reshape(packed["shape"])


def plot_episode(example: dict[str, Any], stem: Path, task: int = 0) -> list[Path]:
    """Draw one episode with a row for each class; ``stem`` is a path without .png and .svg."""
    shown, protocol = example["tasks"][task], example["protocol"]
    support, query = unpack_images(shown["support"]), unpack_images(shown["query"])
    support_classes, query_classes = np.asarray(shown["support_classes"]), np.asarray(shown["query_classes"])
    answers = np.asarray(shown["answers"])
    ways = min(int(protocol["ways"]), len(_NAMES))
    shots = min(int(np.sum(support_classes == 0)), _MAX_SHOTS)
    queries = int(np.sum(query_classes == 0))
    with drawing():
        figure = Figure(figsize=(0.62 * (shots + queries + 0.6), 0.66 * ways + 0.75))
        FigureCanvasAgg(figure)
        grid = {"width_ratios": [1.0] * shots + [0.5] + [1.0] * queries, "wspace": 0.14, "hspace": 0.14}
        panels = figure.subplots(ways, shots + 1 + queries, squeeze=False, gridspec_kw=grid)
        for axes in panels.flat:
            axes.set_axis_off()
        for way in range(ways):
            for column, index in enumerate(np.flatnonzero(support_classes == way)[:shots]):
                _draw_image(panels[way, column], support[index], INK, "solid", 0.8)
            left: Any = {"transform": panels[way, 0].transAxes, "va": "center", "ha": "right"}
            panels[way, 0].text(-0.25, 0.5, _NAMES[way], weight="bold", **left)
            for column, index in enumerate(np.flatnonzero(query_classes == way)):
                axes = panels[way, shots + 1 + column]
                if answers[index] == way:
                    _draw_image(axes, query[index], BETTER, "solid", 1.8)
                    continue
                _draw_image(axes, query[index], WORSE, (0, (2, 1.5)), 1.8)
                sign = f"\N{MULTIPLICATION SIGN} {_NAMES[answers[index] % len(_NAMES)]}"
                corner: Any = {"transform": axes.transAxes, "ha": "right", "va": "bottom", "color": "white"}
                box = {"facecolor": WORSE, "edgecolor": "none", "pad": 1.2}
                axes.text(0.96, 0.04, sign, fontsize=8, weight="bold", bbox=box, **corner)
        panels[0, 0].set_title("support", loc="left", fontsize=9)
        right = int(np.sum(answers == query_classes))
        panels[0, shots + 1].set_title(f"query: {right} of {len(answers)} right", loc="left", fontsize=9)
        title = f"{protocol['label']}: {protocol['ways']}-way {protocol['shots']}-shot, {protocol['task']}"
        figure.suptitle(title, x=0.125, y=0.99, ha="left", fontsize=10, weight="bold")
        return save_figure(figure, stem)


def _draw_image(axes: Axes, image: np.ndarray, colour: str, dashes: Any, width: float) -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_axis_on()
    is_grey = image.shape[-1] == 1
    axes.imshow(255 - image[..., 0] if is_grey else image, cmap="gray" if is_grey else None, vmin=0, vmax=255)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linestyle=dashes, linewidth=width)
