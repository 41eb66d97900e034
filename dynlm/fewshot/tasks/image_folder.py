"""Any folder of class folders, split in one of three ways.

- ``train.csv``, ``val.csv`` (or ``valid.csv``) and ``test.csv`` with columns ``filename`` and ``label``, the images in
  ``images/``, in the folder itself or in a folder of the label's name: the layout of mini-ImageNet (Ravi & Larochelle
  2017);
- folders ``train/``, ``val/`` (or ``valid/``) and ``test/`` of class folders;
- class folders alone: of every five in the order of their names the fourth validates and the fifth tests.

Grey images of dark ink on a bright background are inverted: ink is bright, as in the other sources.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dynlm.errors import UserError
from dynlm.fewshot.tasks.image_tasks import ImageTasks, PathOptions, refuse_overlap
from dynlm.fewshot.tasks.images import MID_GREY, ImageClasses, Listing, border_median, class_folders, load_classes
from dynlm.fewshot.tasks.source import SOURCES
from dynlm.runtime.files import check_inside
from dynlm.runtime.text import read_text

_SPLIT_NAMES = {"train": ("train",), "valid": ("val", "valid"), "test": ("test",)}


@SOURCES.register_kind("imagefolder")
class ImageFolder(ImageTasks):
    """Images of a folder, or of several, with one folder for each class."""

    @dataclass
    class Options(PathOptions):
        colour: bool = False
        """Keep three colour channels instead of one grey channel."""

    @staticmethod
    def load_splits(options: ImageFolder.Options) -> dict[str, ImageClasses]:
        root = Path(str(options.path))
        if not root.is_dir():
            raise UserError("no such folder", root, "task.path names a folder with one folder of images for each class")
        listings = _by_split(root, ".csv", lambda path: _read_csv(path, root))
        if not listings:
            folders = _by_split(root, "", class_folders)
            listings = folders if {"train", "test"} <= folders.keys() else _by_order(root)
        refuse_overlap(listings, root)  # Before any image is read.
        splits = {}
        for split, listing in listings.items():
            names = [f"{name} {len(paths)}" for name, paths in listing.items()]
            key = ["imagefolder 2", str(root.resolve()), *names]
            splits[split] = load_classes(key, listing, root, options.size, options.colour)
        if options.colour:
            return splits
        bright = border_median(splits.values()) > MID_GREY
        return {split: replace(classes, inverted=bright) for split, classes in splits.items()}


def _by_split(root: Path, suffix: str, read: Callable[[Path], Listing]) -> dict[str, Listing]:
    """Return what ``read`` finds in the file or folder of each split that there is."""
    listings = {}
    for split, names in _SPLIT_NAMES.items():
        paths = (root / f"{name}{suffix}" for name in names)
        if path := next((path for path in paths if (path.is_file() if suffix else path.is_dir())), None):
            listings[split] = read(path)
    return listings


def _read_csv(path: Path, root: Path) -> Listing:
    listing: Listing = {}
    try:
        with io.StringIO(read_text(path), newline="") as file:
            rows = csv.DictReader(file)
            if not {"filename", "label"} <= set(rows.fieldnames or ()):
                raise UserError("no columns 'filename' and 'label'", path, "write both into its first line")
            for row in rows:
                name, label = row["filename"] or "", row["label"] or ""
                candidates = [root / "images" / name, root / name, root / label / name]
                image = next((image for image in candidates if name and image.is_file()), None)
                if image is None:
                    raise UserError(f"no image {name!r}, which is in line {rows.line_num}", path, "put it in images/")
                check_inside(image, root)
                listing.setdefault(label, []).append(image)
    except csv.Error as error:
        raise UserError(f"not a CSV file ({error})", path, "write it again") from error
    return listing


def _by_order(root: Path) -> dict[str, Listing]:
    classes = sorted(class_folders(root).items())
    if not classes:
        raise UserError("there are no images", root, "name a folder with one folder of images for each class")
    splits: dict[str, Listing] = {"train": {}, "valid": {}, "test": {}}
    for index, (name, paths) in enumerate(classes):
        splits[("train", "train", "train", "valid", "test")[index % 5]][name] = paths
    return {split: listing for split, listing in splits.items() if listing}
