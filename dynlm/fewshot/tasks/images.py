"""Classes of images in one memory-mapped array that is written once and cached, and reading of image files.

Legend: N images of all classes, n of one class, H x W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dynlm.data.array_files import array_writer, map_array
from dynlm.errors import UserError
from dynlm.runtime.files import cache_folder, check_inside, commit_dir, staging_dir
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", *_WITH_ALPHA)
LARGEST_IMAGE = 50_000_000
"""Pixels of an image that is decoded."""
LARGEST_FILE = 64 * 2**20
"""Bytes of an unpacked image file."""
MID_GREY = 127.5
"""Between a dark and a bright background."""
_BORDER_SAMPLE = 500

Listing = dict[str, list[Path]]
"""Image files of each class."""


@dataclass(frozen=True)
class ImageClasses:
    """Classes of an array of images: class k has the images ``starts[k]`` to ``starts[k] + sizes[k]``."""

    images_NHWC: np.ndarray
    names: list[str]
    starts: np.ndarray
    sizes: np.ndarray
    where: str
    """Their source, for error messages."""
    inverted: bool = False
    """Whether ``take`` returns 255 minus the stored values."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Return images by index, as bytes (*indices.shape, H, W, C)."""
        images = self.images_NHWC[indices]
        return 255 - images if self.inverted else images

    def only(self, wanted: Callable[[str], bool]) -> ImageClasses:
        """Return the classes whose names are wanted, without copying images."""
        keep = [index for index, name in enumerate(self.names) if wanted(name)]
        names = [self.names[index] for index in keep]
        return replace(self, names=names, starts=self.starts[keep], sizes=self.sizes[keep])

    def without(self, groups: Collection[str]) -> tuple[ImageClasses, ImageClasses]:
        """Return the classes of all other groups, and those of ``groups``."""
        return self.only(lambda name: group_of(name) not in groups), self.only(lambda name: group_of(name) in groups)


def group_of(name: str) -> str:
    """Return the alphabet or script of a class, GROUP/NAME."""
    return name.partition("/")[0]


def border_median(parts: Iterable[ImageClasses]) -> float:
    """Return the median value along the borders of evenly spaced images of all ``parts``, 0 (dark) to 255."""
    sides: list[np.ndarray] = []
    for part in parts:
        spaced = np.linspace(0, len(part.images_NHWC) - 1, _BORDER_SAMPLE).astype(np.int64)
        images = part.take(np.unique(spaced))
        sides += images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1]
    return float(np.median(np.concatenate([side.reshape(-1) for side in sides])))


def cached_classes(
    key: Sequence[str], size: int, channels: int, make: Callable[[], Iterator[tuple[str, np.ndarray]]], where: str
) -> ImageClasses:
    """Return the classes that ``make`` yields as (name, images (n, H, W, C) of bytes), from the cache if possible.

    ``key`` identifies them. Raises UserError where there are none, or where the cache cannot be written. Nothing is
    cached where ``make`` raises.
    """
    parent = cache_folder() / "images"
    folder = parent / fingerprint("images 1", str(size), str(channels), *key)
    if not folder.is_dir():
        with staging_dir(parent) as staged:
            counts: dict[str, int] = {}
            with array_writer(staged / "images.npy", np.uint8) as append:
                for name, images in make():
                    append(images.tobytes())
                    counts[name] = len(images)
            if not counts:
                raise UserError("there are no images", where, "name a folder with one folder of images for each class")
            about = {"names": [*counts], "sizes": [*counts.values()], "size": size, "channels": channels}
            write_json(staged / "classes.json", about)
            commit_dir(staged, folder, keep_existing=True)
    card = read_json(folder / "classes.json")
    flat = map_array(folder / "images.npy", np.uint8)
    try:
        images = flat.reshape(-1, size, size, channels)
        sizes, names = np.asarray(card["sizes"], dtype=np.int64), [str(name) for name in card["names"]]
        if sizes.shape != (len(names),) or (sizes < 1).any() or sizes.sum() != len(images):
            raise ValueError("its length is wrong")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"not a whole cache of images ({error})", folder, "remove it") from error
    return ImageClasses(images, names, np.cumsum(sizes) - sizes, sizes, where)


def read_image(file: object, where: object, size: int, colour: bool, invert: bool = False) -> np.ndarray:
    """Return one image as on white paper (``flatten_image``), resized to ``size`` by Lanczos: bytes (H, W, C).

    Raises UserError with ``where`` for a broken image, a format not of IMAGE_ENDINGS, a header of more than
    LARGEST_IMAGE pixels (before decoding any), and values without a known range.
    """
    try:
        # Of Pillow's other formats, one starts an external program.
        with Image.open(file, formats=_FORMATS) as opened:  # type: ignore[arg-type]
            if opened.width * opened.height > LARGEST_IMAGE:
                raise ValueError("too large")
            image = flatten_image(opened, colour).resize((size, size), Image.Resampling.LANCZOS)
    except _NotVisible as error:
        raise UserError(str(error), where, "save it as 8-bit grey or colour, dark on white") from error
    except Exception as error:  # Decoders raise errors of any type.
        reason = error or type(error).__name__
        raise UserError(f"a broken image ({reason})", where, "restore it or take it away") from error
    values = np.asarray(image)
    if values.dtype != np.uint8:  # Lanczos overshoots.
        values = values.round().clip(0, 255).astype(np.uint8)
    values = values.reshape(size, size, -1)
    if colour and values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    return 255 - values if invert else values


def flatten_image(image: Image.Image, colour: bool) -> Image.Image:
    """Return ``image`` in grey (modes L or F, 0 to 255) or RGB, on white where it is transparent.

    16-bit images are grey, and divided by 257. Raises ValueError where the range of values is not known, and where an
    image is invisible on white.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > 65535:
            raise _NotVisible(f"values from {values.min():.0f} to {values.max():.0f} are not those of 16 bits")
        return Image.fromarray(values / 257)
    if image.mode not in _MODES:
        raise _NotVisible(f"mode {image.mode!r} has no known range of values")
    target = "RGB" if colour else "L"
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert(target)
    # Pillow converts premultiplied grey (La) to RGBA only by way of LA.
    rgba = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert(target)
    low, high = rgba.getchannel("A").getextrema()
    if low != high and np.ptp(np.asarray(on_white)) == 0:
        raise _NotVisible("white on transparent: nothing of it can be seen on white")
    return on_white


class _NotVisible(ValueError):
    """An intact image that has no defined grey values."""


def file_stamps(files: Iterable[Path], root: Path) -> list[str]:
    """Return path, size and modification time of each file, which change when it does. Raises UserError if missing."""
    try:
        stats = [(path, path.stat()) for path in files]
    except OSError as error:
        raise UserError(f"cannot read: {error.strerror}", error.filename) from error
    return [f"{path.relative_to(root)} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats]


def load_classes(
    key: Sequence[str], listing: Listing, root: Path, size: int, colour: bool = False, invert: bool = False
) -> ImageClasses:
    """Return the images below ``root`` of each class as ``cached_classes``; ``key`` identifies how they are read.

    Raises UserError for a missing or broken image.
    """

    def make() -> Iterator[tuple[str, np.ndarray]]:
        for name, paths in listing.items():
            yield name, np.stack([read_image(path, path, size, colour, invert) for path in paths])

    stamps = file_stamps((path for paths in listing.values() for path in paths), root)
    return cached_classes([*key, *stamps], size, 3 if colour else 1, make, str(root))


def class_folders(root: Path) -> Listing:
    """Return the sorted images of each folder below ``root`` that has any, by its sorted relative path.

    Raises UserError for an image that is a link leading out of ``root``.
    """
    found: Listing = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in IMAGE_ENDINGS and not path.name.startswith("."):
            check_inside(path, root)
            found.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    return found
