"""Omniglot: its folders and archives, its splits, and errors."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynlm.errors import UserError
from dynlm.fewshot.tasks.omniglot import Omniglot
from dynlm.fewshot.tasks.source import EpisodeShape, seeded
from tests.fewshot.drawn import write_classes, write_omniglot, zip_parts

DATA = Path(os.environ.get("DYNLM_DATA", "")) / "omniglot"


def omniglot_of(path: Path, **options: object) -> Omniglot:
    return Omniglot(Omniglot.Options(path=str(path), **options))  # type: ignore[arg-type]


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
