"""n-way k-shot episodes from classes of images.

Legend: T tasks, K classes of an episode, E = shots + queries examples of each, H x W places, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.augment import Warp, warped
from dynlm.fewshot.options import EpisodeShape, TaskConfig
from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.fewshot.tasks.images import MIDDLE, ImageClasses, ground_of
from dynlm.runtime.hashing import fingerprint

_WARP = Warp(turn=10.0, shear=0.15, scale=0.15, shift=0.06, bend=0.0)
"""What ``task.warp`` 1 does to a training drawing."""


class ImageTasks:
    """Episodes whose classes are drawn from a split; with rotations a class turned by 90 degrees is another class.

    A class's drawings are all turned alike, so that rotated classes are as coherent as the others.
    """

    def __init__(self, splits: dict[str, ImageClasses], config: TaskConfig):
        refuse_overlap(splits)
        self.splits, self.config = splits, config

    def turns(self, split: str) -> int:
        """How many classes each class of a split stands for."""
        if self.config.source == "imagefolder":
            return 1
        quarters = 4 if (self.config.rotations if split == "train" else self.config.test_rotations) else 1
        return quarters * (2 if self.config.mirrored and split == "train" else 1)

    def sample(self, split: str, shape: EpisodeShape, count: int, generator: torch.Generator) -> Episodes:
        """Draw ``count`` episodes; images (T, N, H, W, C) from 0 to 1, support examples shuffled.

        Raises UserError where the split has fewer classes than ``shape.ways``, or one of its classes fewer images than
        ``shape.shots + shape.queries``.
        """
        classes = self.splits.get(split)
        if classes is None or not len(classes):
            raise UserError(f"there are no classes in split {split!r}", do=f"choose one of {', '.join(self.splits)}")
        self.check(split, shape)
        turns, each = self.turns(split), shape.shots + shape.queries
        drawn_TK = _draw(count, turns * len(classes), shape.ways, generator)
        kind_TK, turn_TK = drawn_TK // turns, drawn_TK % turns
        sizes_TK1 = torch.from_numpy(classes.sizes)[kind_TK][..., None]
        order_TKD = torch.rand(*drawn_TK.shape, int(classes.sizes.max()), generator=generator)
        order_TKD[torch.arange(order_TKD.shape[-1]).expand_as(order_TKD) >= sizes_TK1] = 2.0  # never drawn
        example_TKE = order_TKD.argsort(-1)[..., :each]
        images = classes.take((torch.from_numpy(classes.starts)[kind_TK][..., None] + example_TKE).numpy())
        mirrored = self.config.mirrored and split == "train"
        quarter_TK, mirror_TK = (turn_TK // 2, turn_TK % 2) if mirrored else (turn_TK, torch.zeros_like(turn_TK))
        images_TKEHWC = torch.from_numpy(_turned(images, quarter_TK.numpy(), mirror_TK.numpy())).float().div_(255)
        support_TN = images_TKEHWC[:, :, : shape.shots].flatten(1, 2)
        query_TN = images_TKEHWC[:, :, shape.shots :].flatten(1, 2)
        labels_K = torch.arange(shape.ways)
        order_TN = torch.rand(support_TN.shape[:2], generator=generator).argsort(-1)
        support_TN = support_TN[torch.arange(count)[:, None], order_TN]
        if self.config.warp and split == "train":
            support_TN, query_TN = (self._warped(part_TN, generator) for part_TN in (support_TN, query_TN))
        return Episodes(
            Labelled(support_TN, labels_K.repeat_interleave(shape.shots)[order_TN]),
            Labelled(query_TN, labels_K.repeat_interleave(shape.queries).repeat(count, 1)),
        )

    def _warped(self, images_TNHWC: Tensor, generator: torch.Generator) -> Tensor:
        """Every image of training under a warp of its own; colours of an image are warped alike."""
        tasks, count, size, _, channels = images_TNHWC.shape
        drawings = images_TNHWC.permute(0, 1, 4, 2, 3).reshape(-1, channels, size, size)
        moved = warped(drawings, size, _WARP.times(self.config.warp), generator)
        return moved.reshape(tasks, count, channels, size, size).permute(0, 1, 3, 4, 2).contiguous()

    def check(self, split: str, shape: EpisodeShape) -> None:
        """Raise UserError where a split cannot give such episodes."""
        classes, available = self.splits[split], self.turns(split) * len(self.splits[split])
        if available < shape.ways:
            raise UserError(
                f"split {split!r} has {available} classes, fewer than the {shape.ways} of an episode",
                classes.where,
                "lower task.ways or task.train_ways",
            )
        smallest = int(np.argmin(classes.sizes))
        if classes.sizes[smallest] < shape.shots + shape.queries:
            raise UserError(
                f"class {classes.names[smallest]!r} of split {split!r} has {classes.sizes[smallest]} images, fewer "
                f"than {shape.shots} for support and {shape.queries} for query",
                classes.where,
                "lower the shots or queries of task",
            )

    def describe(self) -> dict[str, dict[str, int]]:
        """Of each split the alphabets (or 0), classes, classes with rotations, and images."""
        return {
            split: {
                "groups": len({name.rpartition("/")[0] for name in classes.names} - {""}),
                "classes": len(classes),
                "with rotations": self.turns(split) * len(classes),
                "images": int(classes.sizes.sum()),
            }
            for split, classes in self.splits.items()
        }

    def images(self) -> dict[str, Any]:
        """What a learner of them gets used to: their size, channels and ground, and whether values were turned round.

        The ground, dark or bright, is that along the borders. Ink is taken for the other.
        """
        parts = list(self.splits.values())
        return {
            "size": int(parts[0].images_NHWC.shape[1]),
            "channels": int(parts[0].images_NHWC.shape[3]),
            "ground": "bright" if ground_of(parts) > MIDDLE else "dark",
            "turned_round": parts[0].inverted,
        }

    def data(self, split: str) -> dict[str, Any]:
        """Which images a figure of ``split`` is of, and whether their values were turned round."""
        classes = self.splits[split]
        about = (repr(classes.names), repr(classes.sizes.tolist()), classes.images_NHWC.tobytes())
        return {"data": fingerprint(*about), "turned_round": classes.inverted}


def check_images(learned_from: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """A line that says in what ``given`` images differ from those ``learned_from``; empty where they do not.

    Both are as ``ImageTasks.images`` tells them; what is not known of them is not compared. Raises UserError where
    their size or channels differ.
    """
    for name in ("size", "channels"):
        if name in learned_from and name in given and learned_from[name] != given[name]:
            raise UserError(
                f"the images' {name} is {given[name]}, the learner's was {learned_from[name]}",
                do="leave task.size and task.colour as trained",
            )
    then, now = learned_from.get("ground"), given.get("ground")
    if then is None or now is None or then == now:
        return ""
    return f"these images have a {now} ground, the learner's had a {then} one: are they inverted?"


def refuse_overlap(splits: dict[str, ImageClasses]) -> None:
    """Raise UserError where a class is in two splits: what is tested on must not have been trained on."""
    seen: dict[str, str] = {}
    for split, classes in splits.items():
        for name in classes.names:
            if name in seen:
                raise UserError(
                    f"class {name!r} is in split {split!r} and in {seen[name]!r}",
                    classes.where,
                    "give each class to one split",
                )
            seen[name] = split


def _draw(count: int, total: int, ways: int, generator: torch.Generator) -> Tensor:
    """``ways`` different numbers below ``total`` for each of ``count`` episodes."""
    return torch.rand(count, total, generator=generator).topk(ways, dim=1).indices


def _turned(images: np.ndarray, quarter_TK: np.ndarray, mirror_TK: np.ndarray) -> np.ndarray:
    """Each class's images (T, K, E, H, W, C) turned by its number of quarter turns, then in a mirror or not."""
    turned = images.copy()
    for quarter in (1, 2, 3):
        chosen = quarter_TK == quarter
        turned[chosen] = np.rot90(images[chosen], quarter, axes=(2, 3))
    chosen = mirror_TK == 1
    turned[chosen] = turned[chosen][..., ::-1, :]
    return turned
