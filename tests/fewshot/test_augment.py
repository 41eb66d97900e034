"""Random warps: what none, a shift and a turn do, and that each drawing has its own."""

from __future__ import annotations

import pytest
import torch

from dynlm.fewshot.augment import Warp, warped
from dynlm.fewshot.options import EpisodeShape, TaskConfig
from dynlm.fewshot.tasks.classification import ImageTasks
from dynlm.fewshot.tasks.episodes import seeded
from tests.fewshot.tasks.test_classification import numbered

NONE = Warp(0, 0, 0, 0, 0)


def blob(count: int = 1, channels: int = 1) -> torch.Tensor:
    """A bright square of 4 x 4 places in the middle of 16 x 16."""
    drawings = torch.zeros(count, channels, 16, 16)
    drawings[:, :, 6:10, 6:10] = 1.0
    return drawings


def centre(drawing_SS: torch.Tensor) -> tuple[float, float]:
    """The mean row and column of the ink."""
    places = torch.arange(drawing_SS.shape[-1], dtype=drawing_SS.dtype)
    ink = drawing_SS.sum()
    return float((drawing_SS.sum(1) * places).sum() / ink), float((drawing_SS.sum(0) * places).sum() / ink)


def test_no_warp_changes_nothing() -> None:
    drawings = torch.rand(3, 2, 16, 16, generator=seeded(0))
    torch.testing.assert_close(warped(drawings, 16, NONE, seeded(1)), drawings)
    torch.testing.assert_close(warped(drawings, 16, Warp(9, 1, 1, 1, 1).times(0), seeded(1)), drawings)


def test_a_shift_moves_the_ink_and_no_further_than_it_may() -> None:
    moved = warped(blob(200), 16, NONE._replace(shift=0.125), seeded(2))[:, 0]  # two places at most
    off = torch.tensor([centre(drawing) for drawing in moved]) - 7.5
    assert off.abs().max() <= 2.0 + 1e-4
    assert off.abs().max(0).values.min() > 1.8  # both ways are used, all of it
    assert off.mean(0).abs().max() < 0.25
    torch.testing.assert_close(moved.sum((1, 2)), torch.full((200,), 16.0), atol=1e-3, rtol=0)


def test_a_scale_changes_the_size_and_a_turn_does_not() -> None:
    ink = warped(blob(200), 16, NONE._replace(scale=0.3), seeded(3)).sum((1, 2, 3))
    assert 16 * 0.5 < ink.min() < 16 * 0.8 and 16 * 1.25 < ink.max() < 16 * 1.9
    bar = torch.zeros(50, 1, 17, 17)
    bar[:, :, 3:14, 8] = 1.0
    turned = warped(bar, 17, NONE._replace(turn=45.0), seeded(4))
    torch.testing.assert_close(turned.sum((1, 2, 3)), torch.full((50,), 11.0), atol=1.5, rtol=0)
    width = (turned.sum(2) > 0.2).sum(-1).float()
    assert width.max() > 6 and width.min() <= 2


def test_each_drawing_has_its_own_and_the_generator_decides() -> None:
    warp = Warp(10, 0.15, 0.15, 0.06, 0.02)
    one, same, other = (warped(blob(4, 3), 16, warp, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert all(not torch.equal(one[0], one[index]) for index in (1, 2, 3))
    torch.testing.assert_close(one[:, 0], one[:, 2])  # the colours of a drawing go together


@pytest.mark.parametrize("split", ["train", "test"])
def test_only_what_is_trained_on_is_warped_and_classes_stay(split: str) -> None:
    splits = {"train": numbered(6, size=8), "test": numbered(6, first=6, size=8)}
    shape = EpisodeShape(5, 2, 2)
    plain, warped_tasks = (
        ImageTasks(splits, TaskConfig(source="glyphs", rotations=False, warp=warp)).sample(split, shape, 3, seeded(7))
        for warp in (0.0, 1.0)
    )
    for before, after in zip(plain, warped_tasks, strict=True):
        assert torch.equal(before.targets, after.targets)
        assert torch.equal(before.inputs, after.inputs) == (split == "test")
        assert after.inputs.is_contiguous() and after.inputs.shape == before.inputs.shape
        assert (before.inputs - after.inputs)[:, :, 4, 4].abs().max() < 0.02  # the middle is where it was
