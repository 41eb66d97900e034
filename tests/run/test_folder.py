"""The run folder: what is written is read back, and what does not fit is refused by name."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.errors import UserError
from dynlm.run.folder import load_model, load_tensors, log_line, save_tensors
from dynlm.runtime.files import atomic_write
from dynlm.train.config import load_config
from tests.tiny import Run, article, listing

ABOUT = {"step": 3, "name": "Straße", "rates": [0.1, 1e-9]}


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.arange(6.0).view(2, 3).T, "b/c": torch.tensor(7, dtype=torch.int64)}


def test_tensors_and_what_is_said_of_them_come_back(tmp_path: Path) -> None:
    save_tensors(tmp_path / "some.safetensors", tensors(), ABOUT)
    read, about = load_tensors(tmp_path / "some.safetensors")
    assert about == ABOUT
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors().items())
    assert read.keys() == tensors().keys()


def test_config_comes_back_as_it_was(trained_run: Run) -> None:
    assert load_config(trained_run.folder) == trained_run.config


def test_config_with_an_option_that_is_none_is_refused(run_copy: Run) -> None:
    path = run_copy.folder / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["model"]["depth"] = 3
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"config\.yaml: .*depth"):
        load_config(run_copy.folder)


@pytest.mark.parametrize("content", ["", "- a\n", "run: [", "model: 3\n"])
def test_config_that_is_no_config_is_refused(run_copy: Run, content: str) -> None:
    (run_copy.folder / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"config\.yaml"):
        load_config(run_copy.folder)


def test_a_run_holds_no_pickle(trained_run: Run) -> None:
    """Opening a run may run no code of the run's: pickles begin with \\x80, torch's archives of them with PK."""
    files = listing(trained_run.folder)
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".jsonl", ".yaml", ".model"}
    assert not [name for name, content in files.items() if content[:1] == b"\x80" or content[:2] == b"PK"]
    assert {"model.safetensors", "model.json", "config.yaml", "log.jsonl"} <= files.keys()


def test_a_folder_that_is_no_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run folder; run `dynlm pretrain`"):
        load_model(tmp_path / "nothing")
    with pytest.raises(UserError, match="no trained model"):
        load_model(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.9999])
def test_weights_cut_short_are_refused(run_copy: Run, share: float) -> None:
    path = run_copy.folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(UserError, match=r"model\.safetensors: not a whole safetensors file"):
        load_model(run_copy.folder)


def test_weights_that_are_a_folder_are_refused(run_copy: Run) -> None:
    path = run_copy.folder / "model.safetensors"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        load_model(run_copy.folder)


def test_one_changed_weight_is_refused(run_copy: Run) -> None:
    path = run_copy.folder / "model.safetensors"
    params, about = load_tensors(path)
    params["output.bias"][3] += 1e-6
    save_tensors(path, params, about)
    with pytest.raises(UserError, match=r"model\.safetensors: the weights are not those"):
        load_model(run_copy.folder)


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_of_another_shape_are_refused_by_name(run_copy: Run, change: str) -> None:
    path = run_copy.folder / "model.safetensors"
    params, about = load_tensors(path)
    if change == "missing":
        del params["lstm.0.bias"]
    elif change == "extra":
        params["lstm.1.bias"] = params["lstm.0.bias"].clone()
    else:
        params["lstm.0.bias"] = params["lstm.0.bias"][:-1]
    save_tensors(path, params, about)
    with pytest.raises(UserError, match=r"model\.safetensors: .*lstm\.\d\.bias"):
        load_model(run_copy.folder)


def test_a_card_of_another_width_is_refused(run_copy: Run) -> None:
    path = run_copy.folder / "model.json"
    card = json.loads(path.read_text())
    card["model"]["embedding"] += 1
    path.write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"tensor embedding is \(420, 32\), the model needs \(420, 33\)"):
        load_model(run_copy.folder)


@pytest.mark.parametrize("name", ["model.json", "tokenizer/tokenizer.json"])
def test_a_card_cut_short_is_refused(run_copy: Run, name: str) -> None:
    path = run_copy.folder / name
    path.write_text(path.read_text()[:40])
    with pytest.raises(UserError, match=rf"{name}: not a readable JSON file"):
        load_model(run_copy.folder)


@pytest.mark.parametrize("content", ["{}", "[]", '{"model": {"depth": 3}, "vocabulary": 420}'])
def test_a_card_of_something_else_is_refused(run_copy: Run, content: str) -> None:
    (run_copy.folder / "model.json").write_text(content)
    with pytest.raises(UserError, match=r"model\.json"):
        load_model(run_copy.folder)


@pytest.mark.parametrize("size", [420, 330])
def test_another_models_tokenizer_is_refused(run_copy: Run, size: int) -> None:
    shutil.rmtree(run_copy.folder / "tokenizer")
    other = PieceTokenizer.train(TokenizerOptions(vocab_size=size), [article(np.random.default_rng(9), 60)])
    other.save(run_copy.folder / "tokenizer")
    with pytest.raises(UserError, match=rf"tokenizer \({size} tokens, .* does not fit the model \(420 tokens"):
        load_model(run_copy.folder)


def test_the_tokenizers_file_cut_short_is_refused(run_copy: Run) -> None:
    path = run_copy.folder / "tokenizer" / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="tokenizer"):
        load_model(run_copy.folder)


def test_log_lines_are_one_json_object_each(tmp_path: Path) -> None:
    log_line(tmp_path, event="a", text="two\nlines")
    log_line(tmp_path, event="b")
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["a", "b"]
    assert lines[0]["text"] == "two\nlines"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.safetensors"
    save_tensors(path, tensors(), ABOUT)
    before = listing(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"some\.safetensors: cannot write: No space left on device; free some space"):
        save_tensors(path, {"a": torch.zeros(9)}, {})
    assert listing(tmp_path) == before


def test_trained_model_is_the_one_on_disk(trained_run: Run) -> None:
    trained = load_model(trained_run.folder)
    assert trained.model.options == dataclasses.replace(trained_run.config.model)
    assert trained.fingerprint == json.loads((trained_run.folder / "model.json").read_text())["fingerprint"]
    assert list(trained.params) == list(trained.model.shapes())


def test_a_vanished_folder_is_no_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught, atomic_write(tmp_path / "there" / "file") as aside:
        shutil.rmtree(tmp_path / "there")
        aside.write_text("text")
    assert "space" not in str(caught.value) and "the folder was removed" in str(caught.value)


@pytest.mark.parametrize("padding", [0, 1, 7, 8, 24, 40, 56, 63])
def test_tensors_are_aligned_however_long_the_header_of_their_file(tmp_path, padding):
    """The header's length decides where a file's tensors are mapped, and alignment how a product of one row rounds."""
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.arange(100.0), "b": torch.ones(3, 5)}, {"pad": "x" * padding})
    tensors, _ = load_tensors(path)
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors.values())
