"""Random augmentation: shift, scaling and rotation, each image's own."""

from __future__ import annotations

import pytest
import torch

from dynlm.fewshot.tasks.image_tasks import Augmentation, augment
from dynlm.fewshot.tasks.source import EpisodeShape, seeded
from tests.fewshot.tasks.test_image_tasks import numbered, tasks_of

NONE = Augmentation(0, 0, 0, 0, 0)


def blob(count: int = 1, channels: int = 1) -> torch.Tensor:
    """A bright square of 4 x 4 pixels in the middle of 16 x 16."""
    images = torch.zeros(count, channels, 16, 16)
    images[:, :, 6:10, 6:10] = 1.0
    return images


def centre(image_SS: torch.Tensor) -> tuple[float, float]:
    """The mean row and column of the ink."""
    pixels = torch.arange(image_SS.shape[-1], dtype=image_SS.dtype)
    ink = image_SS.sum()
    return float((image_SS.sum(1) * pixels).sum() / ink), float((image_SS.sum(0) * pixels).sum() / ink)


def test_widths_of_zero_change_nothing() -> None:
    images = torch.rand(3, 2, 16, 16, generator=seeded(0))
    torch.testing.assert_close(augment(images, 16, NONE, seeded(1)), images)
    torch.testing.assert_close(augment(images, 16, Augmentation(0, 0, 0, 0, 0), seeded(1)), images)


def test_a_shift_moves_the_ink_within_its_bounds() -> None:
    moved = augment(blob(200), 16, NONE._replace(shift=0.125), seeded(2))[:, 0]  # two pixels at most
    off = torch.tensor([centre(image) for image in moved]) - 7.5
    assert off.abs().max() <= 2.0 + 1e-4
    assert off.abs().max(0).values.min() > 1.8  # in both directions
    assert off.mean(0).abs().max() < 0.25
    torch.testing.assert_close(moved.sum((1, 2)), torch.full((200,), 16.0), atol=1e-3, rtol=0)


def test_scaling_changes_the_size_and_rotation_does_not() -> None:
    ink = augment(blob(200), 16, NONE._replace(scale=0.3), seeded(3)).sum((1, 2, 3))
    assert 16 * 0.5 < ink.min() < 16 * 0.8 and 16 * 1.25 < ink.max() < 16 * 1.9
    bar = torch.zeros(50, 1, 17, 17)
    bar[:, :, 3:14, 8] = 1.0
    rotated = augment(bar, 17, NONE._replace(rotation=45.0), seeded(4))
    torch.testing.assert_close(rotated.sum((1, 2, 3)), torch.full((50,), 11.0), atol=1.5, rtol=0)
    width = (rotated.sum(2) > 0.2).sum(-1).float()
    assert width.max() > 6 and width.min() <= 2


def test_each_image_is_transformed_independently() -> None:
    widths = Augmentation(10, 0.15, 0.15, 0.06, 0.02)
    one, same, other = (augment(blob(4, 3), 16, widths, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert all(not torch.equal(one[0], one[index]) for index in (1, 2, 3))
    torch.testing.assert_close(one[:, 0], one[:, 2])  # the channels of an image move together


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_training_images_are_augmented(split: str) -> None:
    splits = {"train": numbered(6, size=8), "test": numbered(6, first=6, size=8)}
    shape = EpisodeShape(5, 2, 2)
    plain, augmented = (
        tasks_of(splits, rotations=False, warp=warp).sample(split, shape, 3, seeded(7)) for warp in (0.0, 1.0)
    )
    for before, after in zip(plain, augmented, strict=True):
        assert torch.equal(before.targets, after.targets)
        assert torch.equal(before.inputs, after.inputs) == (split == "test")
        assert after.inputs.is_contiguous() and after.inputs.shape == before.inputs.shape
        assert (before.inputs - after.inputs)[:, :, 4, 4].abs().max() < 0.02  # the middle stays
