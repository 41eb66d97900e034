"""What all pictures share: palette, fonts, and saving the same picture as the same bytes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from dynlm.files import written_whole

# Okabe & Ito's palette, which readers with any colour vision can tell apart; without colour the dashes do.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[str | tuple[int, tuple[float, ...]], ...] = (
    "solid",
    (0, (5, 1.6)),
    (0, (1.2, 1.2)),
    (0, (6, 1.5, 1.2, 1.5)),
    (0, (9, 2)),
    (0, (3, 1.2, 1.2, 1.2, 1.2, 1.2)),
)
INK, FAINT, GRID = "#222222", "#666666", "#dddddd"

# Fonts with many scripts, taken after matplotlib's own where they are installed.
_WIDE_FONTS = (
    "Noto Sans CJK JP",
    "Noto Sans CJK SC",
    "Noto Sans",
    "Noto Sans Devanagari",
    "Noto Sans Arabic",
    "Arial Unicode MS",
    "Hiragino Sans",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "Symbola",
)


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the ``index``-th line."""
    return {"color": COLOURS[index % len(COLOURS)], "linestyle": DASHES[index % len(DASHES)]}


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Settings under which every picture is made: own fonts and colours, whatever the user's matplotlibrc says.

    Text is never read as TeX, since titles and tokens may hold dollar signs.
    """
    settings: Any = {
        "font.family": ["DejaVu Sans", *_installed(_WIDE_FONTS)],
        "font.size": 9.0,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.titlesize": 11.0,
        "axes.titleweight": "bold",
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "svg.hashsalt": "dynlm",
        "svg.fonttype": "path",
    }
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # In a title, a character that no installed font has is drawn as a box.
        warnings.filterwarnings("ignore", message=".*missing from.*font")
        yield


def monospace() -> list[str]:
    """The family for token grids: DejaVu Sans Mono, then whatever holds more scripts."""
    return ["DejaVu Sans Mono", "DejaVu Sans", *_installed(_WIDE_FONTS)]


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png (150 dots an inch) and ``stem``.svg; the same figure gives the same bytes.

    Raises UserError where they cannot be written.
    """
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        path = stem.with_name(stem.name + suffix)
        with written_whole(path) as aside:
            figure.savefig(aside, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.12, facecolor="white")
        paths.append(path)
    return paths


def short(text: str, letters: int = 24) -> str:
    """``text`` cut to ``letters`` characters, with an ellipsis where something was cut."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def drawable(text: str) -> str:
    """``text`` with a white square for each character that no installed font of ``monospace()`` has."""
    return "".join(letter if ord(letter) in _characters() else "\N{WHITE SQUARE}" for letter in text)


@cache
def _characters() -> frozenset[int]:
    files = (font_manager.findfont(family) for family in monospace())
    return frozenset(point for file in files for point in font_manager.get_font(file).get_charmap())


@cache
def _installed(names: tuple[str, ...]) -> tuple[str, ...]:
    known = set(font_manager.get_font_names())
    return tuple(name for name in names if name in known)
