"""Classes of images in one memory-mapped array, made once and kept in the cache.

Legend: N images of all classes, n of one class, K classes, H x W places, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from dynlm.data.array_files import array_writer, map_array
from dynlm.errors import UserError
from dynlm.runtime.files import commit_dir, staging_dir
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.paths import cache_folder, check_inside

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", *_WITH_ALPHA)
_LARGEST_16_BIT = 65535
LARGEST_IMAGE = 50_000_000
"""Places (width times height) of an image that is opened."""
_LOOKED_AT = 500
MIDDLE = 127.5
"""Between a dark and a bright ground."""
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
    inverted: bool = False
    """Whether ``take`` gives 255 less what is kept, so that ink is bright."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, places: np.ndarray) -> np.ndarray:
        """The images at these places, (*places.shape, H, W, C), as bytes."""
        taken = self.images_NHWC[places]
        return 255 - taken if self.inverted else taken

    def border(self) -> np.ndarray:
        """The values, as given by ``take``, along the borders of up to _LOOKED_AT images that are spread evenly."""
        places = np.unique(np.linspace(0, len(self.images_NHWC) - 1, _LOOKED_AT).astype(np.int64))
        images = self.take(places)
        sides = (images[:, 0], images[:, -1], images[:, 1:-1, 0], images[:, 1:-1, -1])
        return np.concatenate([side.reshape(-1) for side in sides])

    def only(self, wanted: Callable[[str], bool]) -> ImageClasses:
        """The classes whose names are wanted; no image is copied."""
        keep = [index for index, name in enumerate(self.names) if wanted(name)]
        names = [self.names[index] for index in keep]
        return replace(self, names=names, starts=self.starts[keep], sizes=self.sizes[keep])


def ground_of(parts: Iterable[ImageClasses]) -> float:
    """The median value along the borders of images of all ``parts``, as they are given: 0 (dark) to 255."""
    return float(np.median(np.concatenate([part.border() for part in parts])))


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
        with staging_dir(parent) as aside:
            names: list[str] = []
            counts: list[int] = []
            with array_writer(aside / "images.npy", np.uint8) as append:
                for name, images in make():
                    append(images.tobytes())
                    names.append(name)
                    counts.append(len(images))
            if not names:
                raise UserError("there are no images", where, "name a folder with one folder of images for each class")
            write_json(aside / "classes.json", {"names": names, "sizes": counts, "size": size, "channels": channels})
            commit_dir(aside, folder)
    about = read_json(folder / "classes.json")
    flat = map_array(folder / "images.npy", np.uint8)
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

    It is what a viewer shows on white paper (``as_seen``). Raises UserError, naming it, where it is broken, in no
    format of IMAGE_ENDINGS, or claims over LARGEST_IMAGE places, which is seen before any of them is decoded; and where
    nothing is known of how a viewer would show it.
    """
    try:
        # Other formats' readers are not tried: one of them starts another program.
        with Image.open(file, formats=_FORMATS) as opened:  # type: ignore[arg-type]
            if opened.width * opened.height > LARGEST_IMAGE:
                raise ValueError("too large")
            image = as_seen(opened, colour).resize((size, size), Image.Resampling.LANCZOS)
    except _CannotBeSeen as error:
        raise UserError(str(error), where, "save it as 8-bit grey or colour, dark on white") from error
    except Exception as error:  # decoders raise whatever they like over bytes that are no image
        raise UserError(
            f"a broken image ({error or type(error).__name__})", where, "restore it or take it away"
        ) from error
    values = np.asarray(image)
    if values.dtype != np.uint8:  # Lanczos may pass the ends of the range
        values = values.round().clip(0, 255).astype(np.uint8)
    values = values.reshape(size, size, -1)
    if colour and values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    return 255 - values if invert else values


def as_seen(image: Image.Image, colour: bool) -> Image.Image:
    """``image`` in grey (modes L and F, 0 to 255) or colours (RGB), on white where it is transparent.

    Values of 16 bits are scaled by 257. 16-bit images are grey, with ``colour`` too. Raises ValueError for a picture
    whose values have no known range, and for one that shows nothing on white.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.float32)
        if values.min() < 0 or values.max() > _LARGEST_16_BIT:
            raise _CannotBeSeen(f"values from {values.min():.0f} to {values.max():.0f} are not those of 16 bits")
        return Image.fromarray(values / (_LARGEST_16_BIT / 255))
    if image.mode not in _MODES:
        raise _CannotBeSeen(f"mode {image.mode!r} has no known range of values")
    target = "RGB" if colour else "L"
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert(target)
    # Pillow has no way from premultiplied grey (La) to RGBA but by LA.
    whole = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert(target)
    low, high = whole.getchannel("A").getextrema()
    if low != high and np.ptp(np.asarray(on_white)) == 0:
        raise _CannotBeSeen("white on transparent: nothing of it can be seen on white")
    return on_white


class _CannotBeSeen(ValueError):
    """A whole image that no grey can be told of."""


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
            check_inside(path, root)
            found.setdefault(path.parent.relative_to(root).as_posix(), []).append(path)
    return found
