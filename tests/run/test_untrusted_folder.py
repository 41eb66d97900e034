"""A run folder of somebody else: links, devices, files cut short and wrong numbers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dynlm.adapt.options import LearnedStepOptions
from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.run.folder import load_model, load_tensors, log_line, save_tensors
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from dynlm.run.sharing import share_run
from dynlm.train.config import load_config
from tests.tiny import Run, listing

RUN_FILES = ("config.yaml", "model.json", "model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer.model")


MEMORY_FILES = ("memory/tuned.json", "memory/statistics.safetensors", "memory/meta-stream.safetensors")


def opened(folder: Path) -> None:
    load_config(folder)
    trained = load_model(folder)
    store = MemoryStore(folder, trained)
    store.load_statistics()
    store.load_tuned("rms", "stream")
    store.load_learned("meta", "stream")


def test_a_config_cut_anywhere_is_refused_and_one_from_before_the_marks_is_read(tuned_copy: Run) -> None:
    path = tuned_copy.folder / "config.yaml"
    whole, config = path.read_bytes(), load_config(tuned_copy.folder)
    ends = {size + after for size, byte in enumerate(whole) if byte == ord("\n") for after in (0, 1)}
    for size in sorted({*ends, *range(0, len(whole), 13)} - {len(whole)}):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"config\.yaml"):
            load_config(tuned_copy.folder)
    path.write_bytes(whole.removeprefix(b"---\n").removesuffix(b"...\n"))
    assert load_config(tuned_copy.folder) == config


@pytest.mark.parametrize("name", [*RUN_FILES, *MEMORY_FILES])
@pytest.mark.parametrize("kind", ["device", "pipe", "link out", "folder"])
def test_what_is_no_file_of_the_run_is_refused_at_once(name: str, kind: str, tuned_copy: Run, tmp_path: Path) -> None:
    opened(tuned_copy.folder)
    path = tuned_copy.folder / name
    path.rename(tmp_path / "elsewhere")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero" if kind == "device" else tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"leads out of|not a regular file|Is a directory"):
        opened(tuned_copy.folder)


def test_links_within_a_run_and_a_hubs_cache_are_read(tuned_copy: Run, tmp_path: Path) -> None:
    (tuned_copy.folder / "model.json").rename(tuned_copy.folder / "kept.json")
    (tuned_copy.folder / "model.json").symlink_to("kept.json")
    opened(tuned_copy.folder)
    repository = tmp_path / "models--somebody--tiny"
    shutil.copytree(tuned_copy.folder, snapshot := repository / "snapshots" / "0123")
    (blobs := repository / "blobs").mkdir()
    for name in (*RUN_FILES, *MEMORY_FILES):
        (snapshot / name).rename(blobs / Path(name).name)
        (snapshot / name).symlink_to(blobs / Path(name).name)
    opened(snapshot)
    share_run(snapshot, tmp_path / "shared")
    opened(tmp_path / "shared")
    (snapshot / "model.json").unlink()
    (snapshot / "model.json").symlink_to(tuned_copy.folder / "model.json")
    with pytest.raises(UserError, match="leads out of"):
        opened(snapshot)


def test_a_log_is_written_in_its_run_only(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "diary").write_text("mine\n")
    path = tmp_path / "run" / "log.jsonl"
    path.symlink_to(tmp_path / "diary")
    with pytest.raises(UserError, match=r"log\.jsonl"):
        log_line(tmp_path / "run", event="e")
    assert (tmp_path / "diary").read_text() == "mine\n"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"log\.jsonl"):
        log_line(tmp_path / "run", event="e")
    path.unlink()
    log_line(tmp_path / "run", event="e")
    log_line(tmp_path / "run", event="e")
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["model.safetensors", *MEMORY_FILES[1:]])
def test_one_number_that_is_none_is_refused(name: str, tuned_copy: Run) -> None:
    path = tuned_copy.folder / name
    tensors, about = load_tensors(path)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_tensors(path, tensors, about)
    with pytest.raises(UserError, match=f"{path.name}"):
        open_dynamic_model(tuned_copy.folder, load_model(tuned_copy.folder), LearnedStepOptions(rule="meta"))


@pytest.mark.parametrize(
    "verb",
    [
        ("tune", "--memory.rule", "sgd"),
        ("tune", "--memory.rule", "rms"),
        ("tune", "--memory.rule", "none", "--memory.cache", "fixed"),
        ("metatrain", "--memory.rule", "meta"),
        ("metatrain", "--memory.rule", "rms", "--memory.cache", "learned"),
    ],
    ids=" ".join,
)
def test_a_memory_folder_that_leads_out_of_its_run_is_not_written_to(
    verb: tuple[str, ...], tuned_copy: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tuned_copy.folder
    (folder / "memory").rename(tmp_path / "elsewhere")
    (folder / "memory").symlink_to(tmp_path / "elsewhere")
    before = listing(tmp_path / "elsewhere")
    assert main([verb[0], str(folder), *verb[1:]]) == 2
    said = capsys.readouterr().err
    assert "leads out of" in said and said.count("\n") == 1
    assert listing(tmp_path / "elsewhere") == before
