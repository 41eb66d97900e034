"""Episodes of images: their content, refusals, and the three sources of images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynlm.errors import UserError
from dynlm.fewshot.tasks.glyphs import Glyphs
from dynlm.fewshot.tasks.image_tasks import CharacterTasks, ImageTasks, refuse_overlap
from dynlm.fewshot.tasks.images import ImageClasses
from dynlm.fewshot.tasks.source import EpisodeShape, seeded


def numbered(classes: int, images: int = 6, first: int = 0, size: int = 4) -> ImageClasses:
    """Image i of class k has all bytes at 10 k + i, except one corner at 255, which shows its rotation."""
    classes_N = np.arange(first, first + classes).repeat(images)
    values = (10 * classes_N + np.tile(np.arange(images), classes)).astype(np.uint8)
    pixels = np.tile(values[:, None, None, None], (1, size, size, 1))
    pixels[:, 0, 0] = 255
    starts = np.arange(classes) * images
    names = [f"script/{kind}" for kind in range(first, first + classes)]
    return ImageClasses(pixels, names, starts, np.full(classes, images), "made up")


def tasks_of(splits: dict[str, ImageClasses], **options: object) -> ImageTasks:
    """A source of these classes, with options of glyphs."""

    class Given(CharacterTasks):
        @staticmethod
        def load_splits(options: object) -> dict[str, ImageClasses]:
            return splits

    return Given(CharacterTasks.Options(**options))  # type: ignore[arg-type]


def tasks(rotations: bool = False) -> ImageTasks:
    return tasks_of({"train": numbered(6), "test": numbered(5, first=6)}, rotations=rotations)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(2, 5), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_episodes_have_distinct_classes_and_images(ways: int, shots: int, queries: int, seed: int) -> None:
    episodes = tasks().sample("test", EpisodeShape(ways, shots, queries), 4, seeded(seed))
    assert episodes.support.inputs.shape == (4, ways * shots, 4, 4, 1)
    assert episodes.query.inputs.shape == (4, ways * queries, 4, 4, 1)
    for task in range(4):
        values = {}
        for name, part in zip(("support", "query"), episodes, strict=True):
            number = (part.inputs[task][:, 1, 1, 0] * 255).round().int()
            for value, label in zip(number.tolist(), part.targets[task].tolist(), strict=True):
                values.setdefault(label, []).append((name, value))
        assert sorted(values) == list(range(ways))
        classes = {label: {value // 10 for _, value in shown} for label, shown in values.items()}
        assert all(len(found) == 1 for found in classes.values())  # each label is one class
        assert len({each for found in classes.values() for each in found}) == ways
        for shown in values.values():
            assert len(set(shown)) == len({value for _, value in shown}) == shots + queries  # no image twice
            assert sum(name == "support" for name, _ in shown) == shots


def test_images_of_a_rotated_class_have_the_same_rotation() -> None:
    episodes = tasks(rotations=True).sample("train", EpisodeShape(6, 2, 2), 30, seeded(3))
    corners = [(0, 0), (0, -1), (-1, -1), (-1, 0)]
    images = torch.cat([episodes.support.inputs, episodes.query.inputs], 1)[..., 0]
    labels = torch.cat([episodes.support.targets, episodes.query.targets], 1)
    bright = torch.stack([images[:, :, row, column] == 1.0 for row, column in corners], -1).int().argmax(-1)
    assert set(bright.unique().tolist()) == {0, 1, 2, 3}
    for task in range(30):
        for way in range(6):
            assert len(bright[task][labels[task] == way].unique()) == 1


def test_a_mirrored_class_is_a_class_of_its_own() -> None:
    splits = {"train": numbered(3), "test": numbered(5, first=6)}
    mirrored = tasks_of(splits, rotations=False, mirrored=True)
    assert [mirrored.options.class_copies(split) for split in ("train", "test")] == [(1, 2), (1, 1)]
    images = mirrored.sample("train", EpisodeShape(6, 1, 1), 4, seeded(0)).query.inputs[..., 0]
    left, right = images[:, :, 0, 0] == 1.0, images[:, :, 0, -1] == 1.0
    assert (left ^ right).all() and (left.sum(1) == 3).all()


def test_the_support_set_is_shuffled() -> None:
    targets = tasks().sample("test", EpisodeShape(5, 1, 1), 40, seeded(0)).support.targets
    assert len({tuple(row) for row in targets.tolist()}) > 20


def test_sampling_depends_on_the_seed_alone() -> None:
    shape = EpisodeShape(3, 1, 2)
    one, same, other = (tasks().sample("test", shape, 5, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(one.query.inputs, same.query.inputs)
    assert not torch.equal(one.query.inputs, other.query.inputs)


def test_too_few_classes_or_images_are_refused() -> None:
    with pytest.raises(UserError, match="has 5 classes, fewer than the 7"):
        tasks().sample("test", EpisodeShape(7, 1, 1), 1, seeded(0))
    with pytest.raises(UserError, match=r"'script/6' of split 'test' has 6 images, fewer than 4 for support and 3"):
        tasks().sample("test", EpisodeShape(5, 4, 3), 1, seeded(0))
    with pytest.raises(UserError, match="no classes in split 'valid'"):
        tasks().sample("valid", EpisodeShape(2, 1, 1), 1, seeded(0))


def test_a_class_in_two_splits_is_refused() -> None:
    with pytest.raises(UserError, match="class 'script/3' is in split 'test' and in 'train'"):
        refuse_overlap({"train": numbered(4).names, "test": numbered(4, first=3).names}, "here")
    with pytest.raises(UserError, match="class 'script/3' is in split 'test' and in 'train'"):
        tasks_of({"train": numbered(4), "test": numbered(4, first=3)})


def test_glyphs_are_many_scripts_kept_apart() -> None:
    opened = Glyphs(Glyphs.Options())
    counts = opened.describe()
    assert counts["train"]["classes"] > 500 and counts["test"]["classes"] > 150 and counts["test"]["groups"] >= 4
    scripts = {split: {name.partition("/")[0] for name in classes.names} for split, classes in opened.splits.items()}
    assert not scripts["train"] & scripts["test"] and not scripts["valid"] & (scripts["train"] | scripts["test"])
    drawings = opened.splits["test"].take(np.arange(20))
    assert drawings.shape == (20, 28, 28, 1)
    assert len({drawing.tobytes() for drawing in drawings}) == 20
    shares = opened.splits["train"].images_NHWC[::97].mean((1, 2, 3)) / 255
    assert 0.03 < float(np.median(shares)) < 0.4
