"""Characters of the fonts that matplotlib ships: a substitute for Omniglot that needs no download.

A class is a letter of one script; an image of it is the letter in one of its fonts under a random transformation. Each
script is in one split. Of letters that look alike only the first is kept. Ink is 255. Legend: N images of a class, C
channels (1), P the side of a rendered letter in pixels.
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

from dynlm.fewshot.tasks.image_tasks import Augmentation, CharacterTasks, augment
from dynlm.fewshot.tasks.images import ImageClasses, cached_classes
from dynlm.fewshot.tasks.source import SOURCES

VALID_SCRIPTS = ("LAO", "NKO")
TEST_SCRIPTS = ("ARMENIAN", "COPTIC", "GEORGIAN", "HEBREW", "OGHAM", "OLD", "TIFINAGH")
_FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSansMono", "DejaVuSans-Oblique")
_IMAGES_PER_CLASS = 20
_SIDE = 64
_MAX_SIMILARITY = 0.93
_MIN_LETTERS = 8
_SEED = 20
_AUGMENTATION = Augmentation(rotation=14.0, shear=0.22, scale=0.16, shift=0.07, bend=0.022)


@SOURCES.register_kind("glyphs")
class Glyphs(CharacterTasks):
    """Letters of matplotlib's fonts: scripts of VALID_SCRIPTS and TEST_SCRIPTS, and all others to train on."""

    @staticmethod
    def load_splits(options: CharacterTasks.Options) -> dict[str, ImageClasses]:
        key = ["glyphs 1", matplotlib.__version__]
        classes = cached_classes(key, options.size, 1, lambda: _render(options.size), "the embedded glyphs")
        others, test = classes.without(TEST_SCRIPTS)
        train, valid = others.without(VALID_SCRIPTS)
        return {"train": train, "valid": valid, "test": test}


def _render(size: int) -> Iterator[tuple[str, np.ndarray]]:
    generator = torch.Generator().manual_seed(_SEED)
    for name, letters in sorted(_letters().items()):
        fonts_N = torch.randint(len(letters), (_IMAGES_PER_CLASS,), generator=generator)
        letters_NCPP = torch.from_numpy(np.stack(letters))[fonts_N][:, None]
        images_NCSS = F.avg_pool2d(augment(letters_NCPP, 2 * size, _AUGMENTATION, generator), 2).clamp(0, 1)
        yield name, (images_NCSS[:, 0] * 255).round().to(torch.uint8)[..., None].numpy()


def _letters() -> dict[str, list[np.ndarray]]:
    """Return images (P, P) of each letter, one for each font that has it, by SCRIPT/U+CODE."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = [FT2Font(str(folder / f"{name}.ttf")) for name in _FONTS]
    charmaps = [font.get_charmap() for font in fonts]
    by_script: dict[str, list[int]] = {}
    for code in sorted(charmaps[0]):
        letter = chr(code)
        # A letter with a decomposition is another letter with a mark.
        if unicodedata.category(letter).startswith("L") and not unicodedata.decomposition(letter):
            by_script.setdefault(unicodedata.name(letter, "?").split()[0], []).append(code)
    found: dict[str, list[np.ndarray]] = {}
    thumbnails: list[np.ndarray] = []
    for script, codes in sorted(by_script.items()):
        for code in codes if len(codes) >= _MIN_LETTERS else ():
            if (image := _letter(fonts[0], code)) is None:
                continue
            thumbnail = F.avg_pool2d(torch.from_numpy(image)[None, None], 4).flatten().numpy()
            thumbnail /= np.linalg.norm(thumbnail)
            if thumbnails and float((np.stack(thumbnails) @ thumbnail).max()) > _MAX_SIMILARITY:
                continue
            thumbnails.append(thumbnail)
            others = (_letter(font, code) for font, codes in zip(fonts[1:], charmaps[1:], strict=True) if code in codes)
            found[f"{script}/U+{code:04X}"] = [image, *(other for other in others if other is not None)]
    return found


def _letter(font: FT2Font, code: int) -> np.ndarray | None:
    """Return a letter (P, P) centred and as large as fits with a margin, or None if it has no ink."""
    margin = _SIDE // 8
    font.set_size(_SIDE - 2 * margin, 72)
    font.set_text(chr(code), 0.0)
    font.draw_glyphs_to_bitmap(antialiased=True)
    image = np.asarray(font.get_image(), dtype=np.float32) / 255
    rows, columns = np.flatnonzero(image.any(1)), np.flatnonzero(image.any(0))
    if not len(rows):
        return None
    image = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if max(image.shape) > _SIDE - margin:
        factor = (_SIDE - margin) / max(image.shape)
        target = [max(1, round(side * factor)) for side in image.shape]
        image = F.interpolate(torch.from_numpy(image)[None, None], size=target, mode="area")[0, 0].numpy()
    top, left = ((_SIDE - side) // 2 for side in image.shape)
    letter = np.zeros((_SIDE, _SIDE), np.float32)
    letter[top : top + image.shape[0], left : left + image.shape[1]] = image
    return letter
