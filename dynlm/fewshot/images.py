"""Classes of images in one memory-mapped array, made once and kept in the cache.

Legend: N images of all classes, n of one class, K classes, H x W places, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dynlm.corpus.arrays import ArrayFile, mapped
from dynlm.errors import UserError
from dynlm.files import cache_folder, fingerprint, folder_aside, read_json, refuse_leaving, settle, write_json

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
LARGEST_IMAGE = 50_000_000
"""Places (width times height) of an image that is opened."""
LARGEST_FILE = 64 * 2**20
"""Bytes of an image's file, unpacked."""


@dataclass(frozen=True)
class ImageClasses:
    """Some classes of an array of images: class k has the images ``starts[k]`` to ``starts[k] + sizes[k]``."""

    images_NHWC: np.ndarray
    names: list[str]
    starts: np.ndarray
    sizes: np.ndarray
    where: str
    """What a user knows them by, for errors."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The images at these places, (*places.shape, H, W, C), as bytes."""
        return self.images_NHWC[places]

    def only(self, wanted: Callable[[str], bool]) -> ImageClasses:
        """The classes whose names are wanted; no image is copied."""
        keep = [index for index, name in enumerate(self.names) if wanted(name)]
        names = [self.names[index] for index in keep]
        return ImageClasses(self.images_NHWC, names, self.starts[keep], self.sizes[keep], self.where)


def cached_classes(
    key: Sequence[str], size: int, channels: int, make: Callable[[], Iterator[tuple[str, np.ndarray]]], where: str
) -> ImageClasses:
    """All classes that ``make`` yields as (name, images (n, H, W, C) of bytes), from the cache where they are there.

    ``key`` is all that decides what they are. Raises UserError where there is none, or where the cache cannot be
    written; what ``make`` raises leaves nothing behind.
    """
    parent = cache_folder() / "images"
    folder = parent / fingerprint("images 1", str(size), str(channels), *key)
    if not folder.is_dir():
        with folder_aside(parent) as aside:
            names: list[str] = []
            counts: list[int] = []
            with ArrayFile(aside / "images.npy", np.uint8) as file:
                for name, images in make():
                    file.append(images.tobytes())
                    names.append(name)
                    counts.append(len(images))
            if not names:
                raise UserError("there are no images", where, "name a folder with one folder of images for each class")
            write_json(aside / "classes.json", {"names": names, "sizes": counts, "size": size, "channels": channels})
            settle(aside, folder)
    about = read_json(folder / "classes.json")
    flat = mapped(folder / "images.npy", np.uint8)
    try:
        images = flat.reshape(-1, size, size, channels)
        sizes, names = np.asarray(about["sizes"], dtype=np.int64), [str(name) for name in about["names"]]
        if sizes.shape != (len(names),) or (sizes < 1).any() or sizes.sum() != len(images):
            raise ValueError("its length is wrong")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"not a whole cache of images ({error})", folder, "remove it") from error
    return ImageClasses(images, names, np.cumsum(sizes) - sizes, sizes, where)


def read_image(file: object, where: object, size: int, colour: bool, invert: bool = False) -> np.ndarray:
    """One image, brought to ``size`` (square, by Lanczos): bytes (H, W, C).

    Raises UserError, naming it, where it is broken, in no format of IMAGE_ENDINGS, or claims over LARGEST_IMAGE places,
    which is seen before any of them is decoded.
    """
    try:
        # Other formats' readers are not tried: one of them starts another program.
        with Image.open(file, formats=_FORMATS) as opened:  # type: ignore[arg-type]
            if opened.width * opened.height > LARGEST_IMAGE:
                raise ValueError("too large")
            image = opened.convert("RGB" if colour else "L")
            image = image.resize((size, size), Image.Resampling.LANCZOS)
    except Exception as error:  # decoders raise whatever they like over bytes that are no image
        raise UserError(
            f"a broken image ({error or type(error).__name__})", where, "restore it or take it away"
        ) from error
    values = np.asarray(image, dtype=np.uint8).reshape(size, size, -1)
    return 255 - values if invert else values


def stamps(files: Sequence[Path], root: Path) -> list[str]:
    """What tells whether files have changed: place, length and time of each. Raises UserError where one is missing."""
    try:
        about = [(path, path.stat()) for path in files]
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", error.filename) from error
    return [f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in about]


def class_folders(root: Path) -> dict[str, list[Path]]:
    """Folders with images directly in them, below ``root``: their place and their images, both sorted.

    Raises UserError for an image that is a link leading out of ``root``.
    """
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."):
            refuse_leaving(path, root)
            found.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    return found
