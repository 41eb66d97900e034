"""Omniglot (Lake et al. 2015) from its official zip files or the folders in them, ALPHABET/CHARACTER/DRAWING.png.

Two splits. ``background``: its alphabets train and evaluation's test; ``task.held_out`` of the former are kept from
training, as split valid, so that options are chosen without a look at the latter. ``vinyals`` (Vinyals et al. 2016, as
Snell et al. 2017 have it): five background alphabets validate, the other background alphabets and evaluation's up to
the 41st character of Gurmukhi train, and what comes after it in the alphabets' order tests. Ink is 255.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dynlm.data.sources.lines import UNPACKING_ERRORS
from dynlm.errors import UserError
from dynlm.fewshot.options import TaskConfig
from dynlm.fewshot.tasks.images import LARGEST_FILE, ImageClasses, cached_classes, class_folders, read_image, stamps

PARTS = ("images_background", "images_evaluation")
_VINYALS_VALID = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_VINYALS_LAST_OF_TRAIN = "Gurmukhi/character41"


def open_omniglot(config: TaskConfig) -> dict[str, ImageClasses]:
    """The splits. Raises UserError where a part is missing, cut short, or holds a broken image."""
    assert config.path is not None
    background, evaluation = (_part(Path(config.path), part, config.size) for part in PARTS)
    if config.split == "background":
        kept = _held_out(background, config.held_out)
        splits = {"train": background.only(lambda name: _alphabet(name) not in kept), "test": evaluation}
        return splits | ({"valid": background.only(lambda name: _alphabet(name) in kept)} if kept else {})
    valid = background.only(lambda name: _alphabet(name) in _VINYALS_VALID)
    train = background.only(lambda name: _alphabet(name) not in _VINYALS_VALID)
    more = evaluation.only(lambda name: name <= _VINYALS_LAST_OF_TRAIN)
    test = evaluation.only(lambda name: name > _VINYALS_LAST_OF_TRAIN)
    return {"train": _joined(train, more), "valid": valid, "test": test}


def _alphabet(name: str) -> str:
    return name.partition("/")[0]


def _held_out(classes: ImageClasses, count: int) -> set[str]:
    """``count`` of the classes' alphabets, evenly over their order. Raises UserError where none would be left."""
    alphabets = sorted({_alphabet(name) for name in classes.names})
    if count >= len(alphabets):
        raise UserError(
            f"task.held_out is {count}, and there are {len(alphabets)} alphabets", classes.where, "lower task.held_out"
        )
    return {alphabets[(2 * index + 1) * len(alphabets) // (2 * count)] for index in range(count)}


def _joined(one: ImageClasses, other: ImageClasses) -> ImageClasses:
    return ImageClasses(
        np.concatenate([one.images_NHWC, other.images_NHWC]),
        one.names + other.names,
        np.concatenate([one.starts, other.starts + len(one.images_NHWC)]),
        np.concatenate([one.sizes, other.sizes]),
        one.where,
    )


def _part(root: Path, part: str, size: int) -> ImageClasses:
    folder, archive = root / part, root / f"{part}.zip"
    if folder.is_dir():
        found = class_folders(folder)
        key = stamps([path for paths in found.values() for path in paths], folder)

        def make() -> Iterator[tuple[str, np.ndarray]]:
            for name, paths in found.items():
                yield name, np.stack([read_image(path, path, size, False, invert=True) for path in paths])

        return cached_classes(["omniglot", part, *key], size, 1, make, str(folder))
    if not archive.is_file():
        raise UserError(f"neither {part}.zip nor {part}/", root, "put Omniglot's two official parts there")
    return cached_classes(
        ["omniglot", *stamps([archive], root)], size, 1, lambda: _from_zip(archive, part, size), str(archive)
    )


def _from_zip(archive: Path, part: str, size: int) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(archive) as file:
            # Names of members become names of classes, never paths: nothing is unpacked.
            members: dict[str, list[str]] = {}
            for member in sorted(file.infolist(), key=lambda member: member.filename):
                name = member.filename
                if name.endswith(".png") and not name.rpartition("/")[2].startswith("."):
                    if member.file_size > LARGEST_FILE:
                        raise ValueError(f"{name} claims {member.file_size:,} bytes")
                    place = name.removeprefix(f"{part}/").rpartition("/")[0]
                    members.setdefault(place, []).append(name)
            for name, drawings in sorted(members.items()):
                images = [
                    read_image(io.BytesIO(file.read(one)), f"{archive}: {one}", size, False, invert=True)
                    for one in drawings
                ]
                yield name, np.stack(images)
    except UNPACKING_ERRORS as error:
        raise UserError(f"not a whole zip file ({error})", archive, "it may be cut short; get it again") from error
