"""Folders of images: splits, modes of images, names, and errors."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dynlm.errors import UserError
from dynlm.fewshot.tasks.image_folder import ImageFolder
from dynlm.fewshot.tasks.image_tasks import check_image_format
from dynlm.fewshot.tasks.images import flatten_image, read_image
from dynlm.fewshot.tasks.source import EpisodeShape, seeded
from tests.fewshot.drawn import write_classes, write_omniglot
from tests.fewshot.tasks.test_omniglot import omniglot_of


def folder_of(path: Path, **options: object) -> ImageFolder:
    return ImageFolder(ImageFolder.Options(path=str(path), **options))  # type: ignore[arg-type]


def test_imagefolder_by_order_by_folders_and_by_csv(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    write_classes(plain, 10, 3)
    counts = folder_of(plain, size=16).describe()
    assert {split: count["classes"] for split, count in counts.items()} == {"train": 6, "valid": 2, "test": 2}

    split = tmp_path / "split"
    write_classes(split / "train", 4, 3)
    write_classes(split / "test", 3, 3, first=4)
    counts = folder_of(split, colour=True, size=16).describe()
    assert {name: count["classes"] for name, count in counts.items()} == {"train": 4, "test": 3}

    mini = tmp_path / "mini"
    write_classes(mini, 6, 3)
    (mini / "images").mkdir()
    rows = {"train": range(3), "val": range(3, 4), "test": range(4, 6)}
    for name, kinds in rows.items():
        lines = ["filename,label"]
        for kind in kinds:
            for index in range(3):
                file = f"{kind:04d}_{index:02d}.png"
                (mini / f"character{kind:02d}" / file).rename(mini / "images" / file)
                lines.append(f"{file},n{kind:08d}")
        (mini / f"{name}.csv").write_text("\n".join(lines) + "\n")
    opened = folder_of(mini, size=16)
    assert {name: count["classes"] for name, count in opened.describe().items()} == {"train": 3, "valid": 1, "test": 2}
    assert opened.sample("test", EpisodeShape(2, 1, 2), 2, seeded(0)).query.inputs.shape == (2, 4, 16, 16, 1)

    (mini / "test.csv").write_text("filename,label\n0000_00.png,n00000000\n")
    with pytest.raises(UserError, match="class 'n00000000' is in split 'test' and in 'train'"):
        folder_of(mini)
    (mini / "test.csv").write_text("filename,label\nmissing.png,x\n")
    with pytest.raises(UserError, match=r"test.csv: no image 'missing.png', which is in line 2"):
        folder_of(mini)
    (mini / "test.csv").write_text("file;class\n")
    with pytest.raises(UserError, match="no columns 'filename' and 'label'"):
        folder_of(mini)


def test_imagefolder_errors_and_cache(tmp_path: Path, cache: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="there are no images"):
        folder_of(empty)
    with pytest.raises(UserError, match="no such folder"):
        folder_of(tmp_path / "none")
    folder = tmp_path / "folder"
    write_classes(folder, 5, 3)
    before = set((cache / "images").iterdir())
    (folder / "character00" / "0000_00.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0000_00.png: a broken image"):
        folder_of(folder, size=12)
    assert set((cache / "images").iterdir()) == before  # nothing half-written
    (folder / "character00" / "0000_00.png").unlink()
    first = folder_of(folder, size=12).sample("train", EpisodeShape(2, 1, 1), 2, seeded(0))
    again = folder_of(folder, size=12).sample("train", EpisodeShape(2, 1, 1), 2, seeded(0))
    assert torch.equal(first.query.inputs, again.query.inputs)


def saved(folder: Path, image: Image.Image, ending: str = "png", **options: object) -> Path:
    path = folder / f"{image.mode.replace(';', '')}-{len(list(folder.iterdir()))}.{ending}"
    image.save(path, **options)
    return path


def test_images_of_every_mode_are_read_as_a_viewer_shows_them(tmp_path: Path) -> None:
    ink = np.zeros((16, 16), bool)
    ink[4:8, 4:12] = True
    grey = np.where(ink, 0, 255).astype(np.uint8)
    alpha = np.where(ink, 255, 0).astype(np.uint8)
    black = np.zeros_like(grey)
    plain = Image.fromarray(grey)
    palette = Image.fromarray(ink.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 0, 0, 0])
    paths = [
        saved(tmp_path, plain),
        saved(tmp_path, plain.convert("1")),
        saved(tmp_path, plain.convert("RGB")),
        saved(tmp_path, plain.convert("CMYK"), "jpg", quality=100),
        saved(tmp_path, Image.fromarray(np.stack([black] * 3 + [alpha], -1))),
        saved(tmp_path, Image.merge("LA", [Image.fromarray(black), Image.fromarray(alpha)])),
        saved(tmp_path, palette, transparency=0),
        saved(tmp_path, Image.fromarray(np.where(ink, 0, 65535).astype(np.uint16))),
    ]
    for path in paths:
        for colour in (False, True):
            read = read_image(path, path, 16, colour)
            assert read.shape == (16, 16, 3 if colour else 1), path
            np.testing.assert_allclose(read[..., 0], grey, atol=6, err_msg=str(path))
    faint = saved(tmp_path, Image.fromarray(np.where(ink, 1000, 4000).astype(np.uint16)))
    assert np.array_equal(read_image(faint, faint, 16, False)[..., 0], np.where(ink, 4, 16))


def test_an_image_that_cannot_be_seen_is_refused_by_name(tmp_path: Path) -> None:
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:4] = 255
    path = saved(tmp_path, Image.fromarray(np.stack([np.full_like(alpha, 255)] * 3 + [alpha], -1)))
    with pytest.raises(UserError, match=r"RGBA-0.png: white on transparent"):
        read_image(path, path, 8, False)
    with pytest.raises(ValueError, match="mode 'F' has no known range"):
        flatten_image(Image.new("F", (4, 4)), False)
    with pytest.raises(ValueError, match="values from 0 to 70000 are not those of 16 bits"):
        flatten_image(Image.fromarray(np.array([[0, 70000]], np.int32)), False)


def test_dark_ink_of_an_image_folder_becomes_bright_as_omniglots(tmp_path: Path) -> None:
    dark, bright = tmp_path / "dark", tmp_path / "bright"
    write_classes(dark, 5, 3)
    for path in sorted(dark.rglob("*.png")):
        target = bright / path.relative_to(dark)
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(255 - np.asarray(Image.open(path))).save(target)
    one, other = (folder_of(root, size=20) for root in (dark, bright))
    images = [tasks.sample("train", EpisodeShape(2, 1, 1), 2, seeded(0)).query.inputs for tasks in (one, other)]
    assert torch.equal(*images) and float(images[0].mean()) < 0.2
    assert one.image_format() == {"size": 20, "channels": 1, "ground": "dark", "turned_round": True}
    assert other.image_format() == {"size": 20, "channels": 1, "ground": "dark", "turned_round": False}
    colours = folder_of(dark, size=20, colour=True).image_format()
    assert colours["ground"] == "bright" and not colours["turned_round"]
    assert "are they inverted?" in check_image_format(one.image_format(), colours | {"channels": 1})
    assert check_image_format(one.image_format(), other.image_format()) == check_image_format({}, colours) == ""
    with pytest.raises(UserError, match="the images' size is 28, the learner's was 20"):
        check_image_format(one.image_format(), one.image_format() | {"size": 28})


def test_omniglots_drawings_are_the_same_from_an_image_folder(tmp_path: Path) -> None:
    root = write_omniglot(tmp_path / "omniglot", images=2)
    one = omniglot_of(root)
    other = folder_of(root / "images_evaluation")

    def drawings(tasks: object, splits: tuple[str, ...]) -> list[bytes]:
        parts = [tasks.splits[split] for split in splits]
        return sorted(image.tobytes() for part in parts for image in part.take(np.arange(len(part.images_NHWC))))

    assert drawings(one, ("test",)) == drawings(other, ("train", "valid", "test"))
    assert check_image_format(one.image_format(), other.image_format()) == ""


def test_names_of_classes_may_be_any_bytes(tmp_path: Path, cache: Path) -> None:
    write_classes(tmp_path, 5, 2)
    name = os.fsdecode(b"n\xff\x1b[2J")
    (tmp_path / "character00").rename(tmp_path / name)
    for _ in range(2):  # anew, and from the cache
        opened = folder_of(tmp_path, size=12)
        assert name in {one for classes in opened.splits.values() for one in classes.names}
    smallest = EpisodeShape(1, 2, 2)
    for split, classes in opened.splits.items():
        if name in classes.names:
            with pytest.raises(UserError) as error:
                opened.check_shape(split, smallest)
            assert str(error.value).isprintable()
