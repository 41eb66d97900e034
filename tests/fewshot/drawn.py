"""Synthetic images for few-shot tests: classes differ in the position of a dark square."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def drawing(rng: np.random.Generator, kind: int, side: int = 20) -> Image.Image:
    """White paper with a black square whose position shows the class, with a little noise."""
    paper = np.full((side, side), 255, np.uint8)
    row, column = divmod(kind % 16, 4)
    top, left = 1 + 5 * row + rng.integers(-1, 2), 1 + 5 * column + rng.integers(-1, 2)
    paper[max(0, top) : top + 4, max(0, left) : left + 4] = 0
    return Image.fromarray(paper)


def write_classes(folder: Path, classes: int, images: int = 20, seed: int = 0, first: int = 0, depth: str = "") -> None:
    """Write ``classes`` folders of ``images`` PNG files below ``folder``, numbered from ``first``."""
    rng = np.random.default_rng(seed)
    for kind in range(first, first + classes):
        path = folder / depth / f"character{kind:02d}"
        path.mkdir(parents=True, exist_ok=True)
        for index in range(images):
            drawing(rng, kind).save(path / f"{kind:04d}_{index:02d}.png")


def write_omniglot(root: Path, background: int = 8, evaluation: int = 6, images: int = 20) -> Path:
    """Write Omniglot's two parts as folders, with one synthetic alphabet each."""
    write_classes(root / "images_background", background, images, depth="Greek")
    write_classes(root / "images_evaluation", evaluation, images, seed=1, first=8, depth="Tengwar")
    return root


def zip_parts(root: Path) -> Path:
    """Replace the parts' folders by zip files, as in the official download."""
    for part in ("images_background", "images_evaluation"):
        with zipfile.ZipFile(root / f"{part}.zip", "w") as file:
            for path in sorted((root / part).rglob("*.png")):
                file.write(path, path.relative_to(root))
        for path in sorted((root / part).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (root / part).rmdir()
    return root
