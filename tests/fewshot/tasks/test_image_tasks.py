"""Episodes of images: their content, refusals, and the three sources of images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dynlm.errors import UserError
from dynlm.fewshot.tasks.glyphs import Glyphs
from dynlm.fewshot.tasks.image_folder import ImageFolder
from dynlm.fewshot.tasks.image_tasks import CharacterTasks, ImageTasks, check_image_format, refuse_overlap
from dynlm.fewshot.tasks.images import ImageClasses, flatten_image, read_image
from dynlm.fewshot.tasks.omniglot import Omniglot
from dynlm.fewshot.tasks.source import EpisodeShape, seeded
from tests.fewshot.drawn import write_classes, write_omniglot, zip_parts

DATA = Path(os.environ.get("DYNLM_DATA", "")) / "omniglot"


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


def folder_of(path: Path, **options: object) -> ImageFolder:
    return ImageFolder(ImageFolder.Options(path=str(path), **options))  # type: ignore[arg-type]


def omniglot_of(path: Path, **options: object) -> Omniglot:
    return Omniglot(Omniglot.Options(path=str(path), **options))  # type: ignore[arg-type]


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


# --- Omniglot ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_omniglot_is_read_from_folders_and_from_zip_files(tmp_path: Path, zipped: bool) -> None:
    root = write_omniglot(tmp_path / "omniglot")
    if zipped:
        zip_parts(root)
    opened = omniglot_of(root)
    assert opened.describe()["train"] == {"groups": 1, "classes": 8, "with rotations": 32, "images": 160}
    assert opened.describe()["test"]["with rotations"] == 6
    images = opened.sample("test", EpisodeShape(5, 1, 4), 2, seeded(0)).query.inputs
    assert images.shape == (2, 20, 28, 28, 1)
    assert 0.01 < float(images.mean()) < 0.2 and float(images.max()) == 1.0  # ink is bright


def test_held_out_alphabets_are_kept_from_training(tmp_path: Path) -> None:
    root = tmp_path / "omniglot"
    for index, alphabet in enumerate(("Arcadian", "Balinese", "Cyrillic", "Futurama", "Greek")):
        write_classes(root / "images_background", 2, 2, first=2 * index, depth=alphabet)
    write_classes(root / "images_evaluation", 2, 2, first=10, depth="Tengwar")

    def alphabets(held_out: int) -> dict[str, set[str]]:
        opened = omniglot_of(root, held_out=held_out)
        return {split: {name.split("/")[0] for name in classes.names} for split, classes in opened.splits.items()}

    assert alphabets(2) == {
        "train": {"Arcadian", "Cyrillic", "Greek"},
        "valid": {"Balinese", "Futurama"},
        "test": {"Tengwar"},
    }
    assert set(alphabets(0)) == {"train", "test"}
    with pytest.raises(UserError, match="task.held_out is 5, and there are 5 alphabets"):
        alphabets(5)


def test_omniglot_vinyals_split_keeps_its_order(tmp_path: Path) -> None:
    root = tmp_path / "omniglot"
    write_classes(root / "images_background", 2, 2, depth="Greek")
    write_classes(root / "images_background", 2, 2, first=2, depth="Hebrew")
    write_classes(root / "images_evaluation", 3, 2, first=40, depth="Gurmukhi")
    write_classes(root / "images_evaluation", 1, 2, first=1, depth="Angelic")
    write_classes(root / "images_evaluation", 1, 2, first=1, depth="Kannada")
    opened = omniglot_of(root, split="vinyals")
    names = {split: classes.names for split, classes in opened.splits.items()}
    assert names["valid"] == ["Hebrew/character02", "Hebrew/character03"]
    assert names["train"][-3:] == ["Angelic/character01", "Gurmukhi/character40", "Gurmukhi/character41"]
    assert names["test"] == ["Gurmukhi/character42", "Kannada/character01"]
    opened.sample("train", EpisodeShape(5, 1, 1), 2, seeded(0))


def test_omniglot_errors_name_what_is_wrong(tmp_path: Path) -> None:
    def refused() -> str:
        with pytest.raises(UserError) as error:
            omniglot_of(root)
        return str(error.value)

    root = write_omniglot(tmp_path / "omniglot", 2, 2, 2)
    broken = root / "images_evaluation" / "Tengwar" / "character08" / "0008_01.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:40])
    assert str(broken) in refused() and "broken image" in refused()
    broken.write_bytes(whole)
    zip_parts(root)
    archive = root / "images_background.zip"
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    assert str(archive) in refused() and "not a whole zip file" in refused()
    archive.unlink()
    assert "neither images_background.zip nor images_background/" in refused()
    (root / "images_background").mkdir()
    assert "there are no images" in refused()


@pytest.mark.skipif(not DATA.is_dir(), reason="needs DYNLM_DATA")
def test_the_real_omniglot(cache: Path) -> None:
    opened = omniglot_of(DATA)
    counts = opened.describe()
    assert (counts["train"]["groups"], counts["train"]["classes"], counts["train"]["with rotations"]) == (30, 964, 3856)
    assert counts["test"] == {"groups": 10, "classes": 351, "with rotations": 351, "images": 7020}


# --- Any folder ----------------------------------------------------------------------------------------------------


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


# --- Glyphs --------------------------------------------------------------------------------------------------------


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
