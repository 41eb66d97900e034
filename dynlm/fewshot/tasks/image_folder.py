"""Any folder of class folders, split in one of three ways.

- ``train.csv``, ``val.csv`` (or ``valid.csv``) and ``test.csv`` with columns ``filename`` and ``label``, images in
  ``images/``, in the folder itself or in a folder of the label's name: mini-ImageNet's layout (Ravi & Larochelle 2017);
- folders ``train/``, ``val/`` (or ``valid/``) and ``test/`` of class folders;
- class folders alone: of every five in the order of their names the fourth validates and the fifth tests.

Grey images of dark ink on a bright ground are turned round: ink is bright, as in the other sources.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynlm.errors import UserError
from dynlm.fewshot.options import TaskConfig
from dynlm.fewshot.tasks.images import (
    MIDDLE,
    ImageClasses,
    cached_classes,
    class_folders,
    ground_of,
    read_image,
    stamps,
)
from dynlm.runtime.paths import check_inside
from dynlm.runtime.text import read_text

_FILES = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}

Listing = dict[str, list[Path]]
"""Images of each class."""


def open_imagefolder(config: TaskConfig) -> dict[str, ImageClasses]:
    """The splits. Raises UserError for an empty folder, a bad CSV file, a missing or a broken image."""
    assert config.path is not None
    root = Path(config.path)
    if not root.is_dir():
        raise UserError("no such folder", root, "task.path names a folder with one folder of images for each class")
    listings = _by_csv(root) or _by_folders(root) or _by_order(root)
    _refuse_overlap(listings, root)
    splits = {split: _classes(root, listing, config) for split, listing in listings.items()}
    return splits if config.colour else ink_bright(splits)


def ink_bright(splits: dict[str, ImageClasses]) -> dict[str, ImageClasses]:
    """Grey images with their values turned round, those of all splits, where their ground is bright.

    Omniglot's and the glyphs' ink is 255 on a ground of 0. The ground is bright where the median along the borders is.
    """
    bright = ground_of(splits.values()) > MIDDLE
    return {split: replace(classes, inverted=bright) for split, classes in splits.items()}


def _refuse_overlap(listings: dict[str, Listing], root: Path) -> None:
    """Before anything is read: the samplers refuse it too."""
    seen: dict[str, str] = {}
    for split, listing in listings.items():
        for name in listing:
            if name in seen:
                what = f"class {name!r} is in split {split!r} and in {seen[name]!r}"
                raise UserError(what, root, "give each class to one split")
            seen[name] = split


def _by_csv(root: Path) -> dict[str, Listing]:
    found: dict[str, Listing] = {}
    for split, names in _FILES.items():
        path = next((root / f"{name}.csv" for name in names if (root / f"{name}.csv").is_file()), None)
        if path is not None:
            found[split] = _read_csv(path, root)
    return found


def _read_csv(path: Path, root: Path) -> Listing:
    listing: Listing = {}
    try:
        with io.StringIO(read_text(path), newline="") as file:
            rows = csv.DictReader(file)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise UserError("no columns 'filename' and 'label'", path, "they are what a split file has")
            for row in rows:
                name, label = row["filename"] or "", row["label"] or ""
                places = [root / "images" / name, root / name, root / label / name]
                place = next((place for place in places if name and place.is_file()), None)
                if place is None:
                    raise UserError(f"no image {name!r}, which is in line {rows.line_num}", path, "put it in images/")
                check_inside(place, root)
                listing.setdefault(label, []).append(place)
    except csv.Error as error:
        raise UserError(f"not a CSV file ({error})", path, "make it anew") from error
    return listing


def _by_folders(root: Path) -> dict[str, Listing]:
    found = {}
    for split, names in _FILES.items():
        folder = next((root / name for name in names if (root / name).is_dir()), None)
        if folder is not None:
            found[split] = class_folders(folder)
    return found if {"train", "test"} <= found.keys() else {}


def _by_order(root: Path) -> dict[str, Listing]:
    every = sorted(class_folders(root).items())
    if not every:
        raise UserError("there are no images", root, "name a folder with one folder of images for each class")
    splits: dict[str, Listing] = {"train": {}, "valid": {}, "test": {}}
    for index, (name, paths) in enumerate(every):
        splits[("train", "train", "train", "valid", "test")[index % 5]][name] = paths
    return {split: listing for split, listing in splits.items() if listing}


def _classes(root: Path, listing: Listing, config: TaskConfig) -> ImageClasses:
    def make() -> Iterator[tuple[str, np.ndarray]]:
        for name, paths in listing.items():
            yield name, np.stack([read_image(path, path, config.size, config.colour) for path in paths])

    key = stamps([path for paths in listing.values() for path in paths], root)
    names = [f"{name} {len(paths)}" for name, paths in listing.items()]
    return cached_classes(
        ["imagefolder 2", str(root.resolve()), *names, *key], config.size, 3 if config.colour else 1, make, str(root)
    )
