"""Characters of the fonts that matplotlib ships, drawn by no hand: Omniglot's stand-in where nothing may be downloaded.

A class is a letter or sign of one script; a "drawing" is one of its faces under a random warp: turned, sheared, scaled,
shifted, and bent by a smooth displacement. Scripts are kept apart between splits. Letters that look alike in two are
taken once. Ink is 255. Legend: K characters, D drawings of each, P the side of a sheet that is warped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font

from dynlm.fewshot.augment import Warp, warped
from dynlm.fewshot.options import TaskConfig
from dynlm.fewshot.tasks.images import ImageClasses, cached_classes

DRAWINGS = 20
VALID = ("LAO", "NKO")
TEST = ("ARMENIAN", "COPTIC", "GEORGIAN", "HEBREW", "OGHAM", "OLD", "TIFINAGH")
_FACES = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSans-Oblique")
_SHEET = 64
_ALIKE = 0.93
_SMALLEST_SCRIPT = 8
_SEED = 20

_WARP = Warp(turn=14.0, shear=0.22, scale=0.16, shift=0.07, bend=0.022)


def open_glyphs(config: TaskConfig) -> dict[str, ImageClasses]:
    """The splits: scripts of TEST and VALID, and all others to train on."""
    every = cached_classes(
        ["glyphs 1", matplotlib.__version__], config.size, 1, lambda: _drawn(config.size), "the embedded glyphs"
    )

    def script(name: str) -> str:
        return name.partition("/")[0]

    return {
        "train": every.only(lambda name: script(name) not in (*VALID, *TEST)),
        "valid": every.only(lambda name: script(name) in VALID),
        "test": every.only(lambda name: script(name) in TEST),
    }


def _drawn(size: int) -> Iterator[tuple[str, np.ndarray]]:
    generator = torch.Generator().manual_seed(_SEED)
    for name, sheets in sorted(_characters().items()):
        faces_D = torch.randint(len(sheets), (DRAWINGS,), generator=generator)
        sheets_D1PP = torch.from_numpy(np.stack(sheets))[faces_D][:, None]
        twice_as_large_D1SS = warped(sheets_D1PP, 2 * size, _WARP, generator)
        drawings = F.avg_pool2d(twice_as_large_D1SS, 2)[:, 0].clamp(0, 1)
        yield name, (drawings * 255).round().to(torch.uint8)[..., None].numpy()


def _characters() -> dict[str, list[np.ndarray]]:
    """Sheets (P, P), one for each face that has the character, by SCRIPT/U+CODE."""
    fonts = [FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{face}.ttf")) for face in _FACES]
    maps = [font.get_charmap() for font in fonts]
    by_script: dict[str, list[int]] = {}
    for code in sorted(maps[0]):
        letter = chr(code)
        # Letters only, and none that are others with a mark.
        if unicodedata.category(letter).startswith("L") and not unicodedata.decomposition(letter):
            by_script.setdefault(unicodedata.name(letter, "?").split()[0], []).append(code)
    found: dict[str, list[np.ndarray]] = {}
    looks: list[np.ndarray] = []
    for script, codes in sorted(by_script.items()):
        if len(codes) < _SMALLEST_SCRIPT:
            continue
        for code in codes:
            sheet = _sheet(fonts[0], code)
            if sheet is None:
                continue
            look = _look(sheet)
            if looks and float((np.stack(looks) @ look).max()) > _ALIKE:
                continue
            looks.append(look)
            others = (_sheet(font, code) for font, has in zip(fonts[1:], maps[1:], strict=True) if code in has)
            found[f"{script}/U+{code:04X}"] = [sheet, *(other for other in others if other is not None)]
    return found


def _sheet(font: FT2Font, code: int) -> np.ndarray | None:
    """A character in the middle of a sheet, as large as fits with a margin; None where it has no ink."""
    margin = _SHEET // 8
    font.set_size(_SHEET - 2 * margin, 72)
    font.set_text(chr(code), 0.0)
    font.draw_glyphs_to_bitmap(antialiased=True)
    image = np.asarray(font.get_image(), dtype=np.float32) / 255
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    if not len(rows):
        return None
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    room = _SHEET - margin
    if max(image.shape) > room:
        shrunk = room / max(image.shape)
        target = [max(1, round(side * shrunk)) for side in image.shape]
        image = F.interpolate(torch.from_numpy(image)[None, None], size=target, mode="area")[0, 0].numpy()
    top, left = ((_SHEET - side) // 2 for side in image.shape)
    sheet = np.zeros((_SHEET, _SHEET), np.float32)
    sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def _look(sheet: np.ndarray) -> np.ndarray:
    """A coarse picture as a vector of length 1: two characters are alike where the product of theirs is close to 1."""
    coarse = F.avg_pool2d(torch.from_numpy(sheet)[None, None], 4).flatten().numpy()
    return coarse / np.linalg.norm(coarse)
