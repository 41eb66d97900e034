"""Omniglot (Lake et al. 2015) from its official zip files or the folders in them, ALPHABET/CHARACTER/DRAWING.png.

Two ways to split. ``background``: the background alphabets train and the evaluation alphabets test; ``task.held_out``
of the former are the valid split. ``vinyals`` (Vinyals et al. 2016, as in Snell et al. 2017): five background alphabets
validate; the other background alphabets and the evaluation alphabets up to Gurmukhi's 41st character train; the rest
tests. Ink is 255.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dynlm.data.sources.lines import UNPACKING_ERRORS
from dynlm.errors import UserError
from dynlm.fewshot.tasks.image_tasks import CharacterTasks, PathOptions
from dynlm.fewshot.tasks.images import (
    LARGEST_FILE,
    ImageClasses,
    cached_classes,
    class_folders,
    file_stamps,
    group_of,
    load_classes,
    read_image,
)
from dynlm.fewshot.tasks.source import SOURCES
from dynlm.runtime.validation import bounded

PARTS = ("images_background", "images_evaluation")
_VINYALS_VALID = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
_VINYALS_LAST_OF_TRAIN = "Gurmukhi/character41"


@SOURCES.register_kind("omniglot")
class Omniglot(CharacterTasks):
    """Handwritten characters of 50 alphabets, 20 drawings of each."""

    @dataclass
    class Options(CharacterTasks.Options, PathOptions):
        split: Literal["background", "vinyals"] = "background"
        """Background alphabets train and evaluation alphabets test, or the split of Vinyals et al. 2016."""
        held_out: int = bounded(0)
        """Number of background alphabets, evenly over their order, that are the valid split, to tune on."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.held_out and self.split != "background":
                raise UserError("task.held_out is set, but it is for task.split background alone", do="leave it at 0")

        def protocol(self) -> dict[str, Any]:
            return super().protocol() | {"classes": self.split}

    @staticmethod
    def load_splits(options: Omniglot.Options) -> dict[str, ImageClasses]:
        background, evaluation = (_load_part(Path(str(options.path)), part, options.size) for part in PARTS)
        if options.split == "background":
            held_out = _held_out(background, options.held_out)
            train, valid = background.without(held_out)
            return {"train": train, "test": evaluation} | ({"valid": valid} if held_out else {})
        train, valid = background.without(_VINYALS_VALID)
        more = evaluation.only(lambda name: name <= _VINYALS_LAST_OF_TRAIN)
        both = ImageClasses(
            np.concatenate([train.images_NHWC, more.images_NHWC]),
            train.names + more.names,
            np.concatenate([train.starts, more.starts + len(train.images_NHWC)]),
            np.concatenate([train.sizes, more.sizes]),
            train.where,
        )
        return {"train": both, "valid": valid, "test": evaluation.only(lambda name: name > _VINYALS_LAST_OF_TRAIN)}


def _held_out(classes: ImageClasses, count: int) -> set[str]:
    alphabets = sorted({group_of(name) for name in classes.names})
    if count >= len(alphabets):
        what = f"task.held_out is {count}, and there are {len(alphabets)} alphabets"
        raise UserError(what, classes.where, "lower task.held_out")
    return {alphabets[(2 * index + 1) * len(alphabets) // (2 * count)] for index in range(count)}


def _load_part(root: Path, part: str, size: int) -> ImageClasses:
    folder, archive = root / part, root / f"{part}.zip"
    if folder.is_dir():
        return load_classes(["omniglot", part], class_folders(folder), folder, size, invert=True)
    if not archive.is_file():
        raise UserError(f"neither {part}.zip nor {part}/", root, "put Omniglot's two official parts there")
    key = ["omniglot", *file_stamps([archive], root)]
    return cached_classes(key, size, 1, lambda: _read_zip(archive, part, size), str(archive))


def _read_zip(archive: Path, part: str, size: int) -> Iterator[tuple[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(archive) as file:
            # Names of members become names of classes, never paths: nothing is extracted.
            members: dict[str, list[str]] = {}
            for member in sorted(file.infolist(), key=lambda member: member.filename):
                name = member.filename
                if name.endswith(".png") and not name.rpartition("/")[2].startswith("."):
                    if member.file_size > LARGEST_FILE:
                        raise ValueError(f"{name} claims {member.file_size:,} bytes")
                    members.setdefault(name.removeprefix(f"{part}/").rpartition("/")[0], []).append(name)
            for character, names in sorted(members.items()):
                files = ((io.BytesIO(file.read(name)), f"{archive}: {name}") for name in names)
                yield character, np.stack([read_image(data, where, size, False, True) for data, where in files])
    except UNPACKING_ERRORS as error:
        raise UserError(f"not a whole zip file ({error})", archive, "it may be cut short; get it again") from error
