"""What all pictures share: palette, fonts, and saving the same picture as the same bytes."""

from __future__ import annotations

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure

from dynlm.runtime.files import atomic_write
from dynlm.runtime.text import printable

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
_TOLD = 8
"""Characters that a warning names."""
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
def drawing(texts: Iterable[str] = ()) -> Iterator[None]:
    """Settings under which every picture is made: own fonts and colours, whatever the user's matplotlibrc says.

    ``texts`` are drawn in fonts that have their characters, where such are installed.
    Text is never read as TeX, since titles and tokens may hold dollar signs.
    """
    settings: Any = {
        "font.family": _widened(["DejaVu Sans"], texts),
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
    with matplotlib.rc_context(), warnings.catch_warnings(), _quiet("matplotlib.font_manager"):
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        # A character that no installed font has is drawn as a box; ``warn_of_missing`` says so in one line.
        warnings.filterwarnings("ignore", message=".*missing from.*font")
        yield


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """No warnings of a logger: a font for one script mostly has one weight, in which bold text is drawn too."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def monospace(texts: Iterable[str] = ()) -> list[str]:
    """The family for token grids: DejaVu Sans Mono, then whatever has more scripts, and all of ``texts`` if any do."""
    return _widened(["DejaVu Sans Mono", "DejaVu Sans"], texts)


def drawable(text: str, family: Iterable[str]) -> str:
    """``text`` with a white square for each character that no font of ``family`` has."""
    has = _characters(family)
    return "".join(letter if ord(letter) in has else "\N{WHITE SQUARE}" for letter in text)


def warn_of_missing(texts: Iterable[str], do: str) -> None:
    """Say on standard error, in one line, which characters of ``texts`` no installed font has; ``do``, what helps."""
    texts = list(texts)
    missing = sorted(_missing(texts, monospace(texts)))
    if missing:
        told = f"{' '.join(missing[:_TOLD])}{' ...' if len(missing) > _TOLD else ''}"
        what = f"no installed font has {len(missing)} of the characters drawn ({told}), which are boxes"
        print(f"dynlm: warning: {printable(f'{what}; {do}')}", file=sys.stderr)


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.png (150 dots an inch) and ``stem``.svg; the same figure gives the same bytes.

    Raises UserError where they cannot be written.
    """
    paths = []
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
        path = stem.with_name(stem.name + suffix)
        with atomic_write(path) as aside:
            figure.savefig(aside, dpi=150, metadata=metadata, bbox_inches="tight", pad_inches=0.12, facecolor="white")
        paths.append(path)
    return paths


def short(text: str, letters: int = 24) -> str:
    """``text`` cut to ``letters`` characters, with an ellipsis where something was cut."""
    return text if len(text) <= letters else text[: letters - 1].rstrip() + "\N{HORIZONTAL ELLIPSIS}"


def _widened(family: list[str], texts: Iterable[str]) -> list[str]:
    """``family``, the known wide fonts that are installed, and of all others those that have what is then missing."""
    installed = set(font_manager.get_font_names())
    family = [*family, *(name for name in _WIDE_FONTS if name in installed)]
    missing = _missing(texts, family)
    others = sorted(name for name in installed.difference(family) if not _is_last_resort(name))
    while missing and others:
        # The most of them first, so that as few fonts as possible are mixed.
        best = max(others, key=lambda name: len(missing & _letters(name)))
        if not (found := missing & _letters(best)):
            break
        family, missing = [*family, best], missing - found
    return family


def _is_last_resort(name: str) -> bool:
    """Whether a font has boxes for all characters instead of the characters."""
    return "lastresort" in name.casefold().replace(" ", "")


def _missing(texts: Iterable[str], family: Iterable[str]) -> frozenset[str]:
    has = _characters(family)
    return frozenset(letter for text in texts for letter in text if ord(letter) not in has)


def _characters(family: Iterable[str]) -> frozenset[int]:
    return frozenset().union(*(_points(_file(name)) for name in family))


def _letters(name: str) -> frozenset[str]:
    return frozenset(map(chr, _points(_file(name))))


def _file(name: str) -> str:
    return font_manager.findfont(font_manager.FontProperties(family=[name]))


@cache
def _points(file: str) -> frozenset[int]:
    """The characters that a font's file has; none where it cannot be read."""
    try:
        return frozenset(font_manager.get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
