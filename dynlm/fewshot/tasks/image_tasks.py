"""n-way k-shot episodes from classes of images: what glyphs, Omniglot and image folders share.

Legend: T tasks, K classes of an episode, E = shots + queries examples of each, N of all,
H x W pixels, C channels, S pixels along each side of an augmented image.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.tasks.images import MID_GREY, ImageClasses, border_median
from dynlm.fewshot.tasks.source import LARGEST_COUNT, Episodes, EpisodeShape, Labelled, LabelledSource, Problem
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.validation import bounded


class Augmentation(NamedTuple):
    """Half-widths of the uniform distributions of a random transformation of an image, except ``bend``."""

    rotation: float
    """Degrees."""
    shear: float
    scale: float
    """Logarithm of the factor, of height and width independently."""
    shift: float
    """Fraction of the side."""
    bend: float
    """Standard deviation of the displacement, as a fraction of the side."""


_AT_WARP_1 = Augmentation(rotation=10.0, shear=0.15, scale=0.15, shift=0.06, bend=0.0)


class ImageTasks(LabelledSource):
    """Episodes of classes that are drawn from a split. All images of a class are rotated and reflected alike."""

    @dataclass
    class Options(LabelledSource.Options):
        COMMON = "source path shots queries ways size"

        ways: int = bounded(5, 2, LARGEST_COUNT)
        """Classes of an episode."""
        train_ways: int | None = bounded(None, 2, LARGEST_COUNT)
        """Classes of a training episode; unset: ways."""
        size: int = bounded(28, 8, 512)
        """Height and width that images are resized to, in pixels."""
        warp: float = bounded(0.0, 0, 4)
        """Strength of the random rotation (at 1: up to 10 degrees), shear, scaling and shift of each training image."""

        def episode_shape(self, training: bool) -> EpisodeShape:
            ways = self.train_ways if training and self.train_ways else self.ways
            return super().episode_shape(training)._replace(ways=ways)

        def class_copies(self, split: str) -> tuple[int, int]:
            """Return how many rotations (1 or 4) and reflections (1 or 2) of a class are classes of their own."""
            return 1, 1

        def protocol(self) -> dict[str, Any]:
            about = {"ways": self.ways, "classes": "", "trained_on": self.episode_shape(training=True)._asdict()}
            return super().protocol() | about

        def size_label(self) -> str:
            return f"{self.ways}-way-{self.shots}-shot"

        def summary(self) -> str:
            return f"{self.source}: {self.ways}-way {self.shots}-shot, {self.queries} queries of each class"

    def __init__(self, options: Options):
        super().__init__(options)
        self.splits = self.load_splits(options)
        where = next(iter(self.splits.values())).where
        refuse_overlap({split: classes.names for split, classes in self.splits.items()}, where)
        channels = 3 if getattr(options, "colour", False) else 1
        self.problem = Problem((options.size, options.size, channels), options.ways, classifies=True)

    @staticmethod
    @abstractmethod
    def load_splits(options: Any) -> dict[str, ImageClasses]:
        """Return the classes of each split. Raises UserError where images are missing or broken."""

    def num_classes(self, split: str) -> int:
        """Return the number of classes of a split, with rotations and reflections."""
        rotations, reflections = self.options.class_copies(split)
        return rotations * reflections * len(self.splits[split])

    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        """Draw ``count`` episodes of images (T, N, H, W, C) from 0 to 1, the support examples shuffled.

        Raises UserError where the split has fewer classes than ``shape.ways``, or one of its classes fewer images than
        ``shape.shots + shape.queries``.
        """
        self.check_shape(split, shape)
        classes, (rotations, reflections) = self.splits[split], self.options.class_copies(split)
        copies = rotations * reflections
        drawn_TK = torch.rand(count, copies * len(classes), generator=generator).topk(shape.ways, dim=1).indices
        class_TK, copy_TK = drawn_TK // copies, drawn_TK % copies
        order_TKD = torch.rand(*drawn_TK.shape, int(classes.sizes.max()), generator=generator)
        beyond_TKD = torch.arange(order_TKD.shape[-1]) >= torch.from_numpy(classes.sizes)[class_TK][..., None]
        example_TKE = order_TKD.masked_fill(beyond_TKD, 2.0).argsort(-1)[..., : shape.shots + shape.queries]
        images = classes.take((torch.from_numpy(classes.starts)[class_TK][..., None] + example_TKE).numpy())
        images = rotate_and_reflect(images, (copy_TK // reflections).numpy(), (copy_TK % reflections).numpy())
        images_TKEHWC = torch.from_numpy(images).float().div_(255)
        parts = images_TKEHWC.split([shape.shots, shape.queries], dim=2)
        support_TN, query_TN = (part.flatten(1, 2) for part in parts)
        order_TN = torch.rand(support_TN.shape[:2], generator=generator).argsort(-1)
        support_TN = support_TN[torch.arange(count)[:, None], order_TN]
        if self.options.warp and split == "train":
            support_TN, query_TN = (self._augmented(part_TN, generator) for part_TN in (support_TN, query_TN))
        labels_K = torch.arange(shape.ways)
        return Episodes(
            Labelled(support_TN, labels_K.repeat_interleave(shape.shots)[order_TN]),
            Labelled(query_TN, labels_K.repeat_interleave(shape.queries).repeat(count, 1)),
        )

    def _augmented(self, images_TNHWC: Tensor, generator: torch.Generator) -> Tensor:
        images_NCHW = images_TNHWC.flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        widths = Augmentation(*(self.options.warp * width for width in _AT_WARP_1))
        moved_NCHW = augment(images_NCHW, images_NCHW.shape[-1], widths, generator)
        return moved_NCHW.permute(0, 2, 3, 1).reshape(images_TNHWC.shape).contiguous()

    def check_shape(self, split: str, shape: EpisodeShape) -> None:
        """Raise UserError where a split has too few classes, or images of a class, for such episodes."""
        classes = self.splits.get(split)
        if classes is None or not len(classes):
            raise UserError(f"there are no classes in split {split!r}", do=f"choose one of {', '.join(self.splits)}")
        if (available := self.num_classes(split)) < shape.ways:
            what = f"split {split!r} has {available} classes, fewer than the {shape.ways} of an episode"
            raise UserError(what, classes.where, "lower task.ways or task.train_ways")
        smallest = int(np.argmin(classes.sizes))
        if classes.sizes[smallest] < shape.shots + shape.queries:
            what = f"class {classes.names[smallest]!r} of split {split!r} has {classes.sizes[smallest]} images, fewer "
            what += f"than {shape.shots} for support and {shape.queries} for query"
            raise UserError(what, classes.where, "lower the shots or queries of task")

    def describe(self) -> dict[str, dict[str, int]]:
        """Return the numbers of alphabets (or 0), classes, classes with rotations, and images of each split."""
        return {
            split: {
                "groups": len({name.rpartition("/")[0] for name in classes.names} - {""}),
                "classes": len(classes),
                "with rotations": self.num_classes(split),
                "images": int(classes.sizes.sum()),
            }
            for split, classes in self.splits.items()
        }

    def image_format(self) -> dict[str, Any]:
        """Return the images' size, number of channels and background, and whether their values were inverted.

        The background, dark or bright, is what the median pixel along the borders is.
        """
        parts = list(self.splits.values())
        size, _, channels = parts[0].images_NHWC.shape[1:]
        ground = "bright" if border_median(parts) > MID_GREY else "dark"
        return {"size": size, "channels": channels, "ground": ground, "turned_round": parts[0].inverted}

    def data_card(self, split: str) -> dict[str, Any]:
        """Return a fingerprint of a split's images, and whether their values were inverted."""
        classes = self.splits[split]
        parts = (repr(classes.names), repr(classes.sizes.tolist()), classes.images_NHWC.tobytes())
        return {"data": fingerprint(*parts), "turned_round": classes.inverted}


class CharacterTasks(ImageTasks):
    """Episodes of characters, whose rotations and reflections are other characters."""

    @dataclass
    class Options(ImageTasks.Options):
        rotations: bool = True
        """Treat a training character rotated by 90, 180 or 270 degrees as a class of its own."""
        mirrored: bool = False
        """Treat the mirror image of a training character, rotated or not, as a class of its own."""
        test_rotations: bool = False
        """Treat a rotated test character as a class of its own."""

        def class_copies(self, split: str) -> tuple[int, int]:
            training = split == "train"
            return 4 if (self.rotations if training else self.test_rotations) else 1, 1 + (training and self.mirrored)


@dataclass
class PathOptions(ImageTasks.Options):
    """Options of sources that read images of the user."""

    path: str | None = None
    """omniglot: folder of the two official zip files or of their content; imagefolder: folder of class folders."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path is None:
            what = f"task.source is {self.source!r}, but task.path is not set"
            raise UserError(what, do="name the images' folder")


def check_image_format(trained_on: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Return a warning where the backgrounds of two ``ImageTasks.image_format`` differ, otherwise an empty text.

    Properties that either does not have are not compared. Raises UserError where size or channels differ.
    """
    for name in ("size", "channels"):
        if name in trained_on and name in given and trained_on[name] != given[name]:
            what = f"the images' {name} is {given[name]}, the learner's was {trained_on[name]}"
            raise UserError(what, do="leave task.size and task.colour as trained")
    before, now = trained_on.get("ground"), given.get("ground")
    if None in (before, now) or before == now:
        return ""
    return f"these images have a {now} background, those of training a {before} one: are they inverted?"


def refuse_overlap(names: Mapping[str, Iterable[str]], where: object) -> None:
    """Raise UserError where a class is in two splits; ``names`` are the classes of each split."""
    seen: dict[str, str] = {}
    for split, classes in names.items():
        for name in classes:
            if name in seen:
                what = f"class {name!r} is in split {split!r} and in {seen[name]!r}"
                raise UserError(what, where, "give each class to one split")
            seen[name] = split


def rotate_and_reflect(images: np.ndarray, quarters_TK: np.ndarray, reflected_TK: np.ndarray) -> np.ndarray:
    """Rotate each class's images (T, K, E, H, W, C) by its number of quarter turns, then reflect where it says so."""
    rotated = images.copy()
    for quarters in (1, 2, 3):
        chosen = quarters_TK == quarters
        rotated[chosen] = np.rot90(images[chosen], quarters, axes=(2, 3))
    chosen = reflected_TK == 1
    rotated[chosen] = rotated[chosen][..., ::-1, :]
    return rotated


def augment(images_NCHW: Tensor, size: int, widths: Augmentation, generator: torch.Generator) -> Tensor:
    """Transform each image at random (N, C, S, S); pixels from outside an image are 0."""
    count = len(images_NCHW)

    def uniform(width: float) -> Tensor:
        return width * (2 * torch.rand(count, generator=generator) - 1)

    angle, shear = torch.deg2rad(uniform(widths.rotation)), uniform(widths.shear)
    scale_x, scale_y = (torch.exp(uniform(widths.scale)) for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    # Rows of the affine map from an output position to the input position that it shows.
    row_x = torch.stack([scale_x * cos, scale_x * (shear * cos - sin), 2 * uniform(widths.shift)], -1)
    row_y = torch.stack([scale_y * sin, scale_y * (shear * sin + cos), 2 * uniform(widths.shift)], -1)
    matrix_N23 = torch.stack([row_x, row_y], 1)
    grid_NSS2 = F.affine_grid(matrix_N23, [count, 1, size, size], align_corners=False)
    if widths.bend:
        bend_N255 = 2 * widths.bend * torch.randn(count, 2, 5, 5, generator=generator)
        bend_N2SS = F.interpolate(bend_N255, size=(size, size), mode="bicubic", align_corners=True)
        grid_NSS2 = grid_NSS2 + bend_N2SS.permute(0, 2, 3, 1)
    return F.grid_sample(images_NCHW, grid_NSS2, align_corners=False)
