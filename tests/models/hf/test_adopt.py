"""Adopting a pretrained transformer: what is refused at once, and what a run has of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from dynlm.adapt.options import MemoryOptions
from dynlm.cli.main import main
from dynlm.run.folder import load_model
from dynlm.run.run import Run
from dynlm.run.sharing import share_run
from tests.models.hf.pretrained import write_pretrained
from tests.models.hf.test_commands import Capture, answer


@pytest.mark.parametrize("pretrained", ["gpt2"], indirect=True)
def test_the_default_context_is_that_of_the_model(pretrained: Path, tmp_path: Path, capsys: Capture) -> None:
    words = ["adopt", pretrained, "--run.folder", tmp_path, "--run.name"]
    answer(capsys, *words, "tiny")
    window: Any = load_model(tmp_path / "tiny").model.options
    assert (window.context, window.stride) == (64, 32)
    assert Run.open(tmp_path / "tiny").section(MemoryOptions).segment == 32
    assert main([*map(str, words), "long", "--memory.segment", "65"]) == 2
    assert "memory.segment is 65, more than model.context 64" in capsys.readouterr().err
    assert main([*map(str, words), "long", "--model.context", "65", "--model.stride", "8"]) == 2
    assert "model.context is 65, and the model has 64 positions" in capsys.readouterr().err
    assert not (tmp_path / "long").exists()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("pretrained", ["llama"], indirect=True)
def test_half_precision_is_kept(pretrained: Path, tmp_path: Path, dtype: str) -> None:
    words = ["--dtype", dtype, "--run.folder", str(tmp_path), "--run.name", "half", "--run.cpu", "true"]
    assert main(["adopt", str(pretrained), *words]) == 0
    assert {str(tensor.dtype) for tensor in load_model(tmp_path / "half").params.values()} == {f"torch.{dtype}"}
    assert main(["generate", str(tmp_path / "half"), "--memory.rule", "none", "--tokens", "3"]) == 0


def test_a_model_that_cannot_be_read_in_segments_is_not_adopted(
    tiny_corpus: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = write_pretrained(tmp_path / "source", "mamba", tiny_corpus, steps=0)
    capsys.readouterr()
    assert main(["adopt", str(source), "--run.folder", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "this kind of model cannot be read in segments" in said and said.count("\n") == 1
    assert not list((tmp_path / "runs").rglob("model*"))


def test_soft_caps_are_read_with_the_default_options(tiny_corpus: Path, tmp_path: Path, capsys: Capture) -> None:
    source = write_pretrained(tmp_path / "source", "gemma2", tiny_corpus, steps=0, num_key_value_heads=2, head_dim=8)
    words = ["--run.folder", str(tmp_path), "--run.name", "tiny", "--run.cpu", "true"]
    assert main(["adopt", str(source), *words]) == 0
    assert main(["generate", str(tmp_path / "tiny"), "--memory.rule", "none", "--tokens", "3"]) == 0


@pytest.mark.parametrize("pretrained", ["llama"], indirect=True)
def test_the_path_of_the_pretrained_model_is_not_shared(adopted: Path, pretrained: Path, tmp_path: Path) -> None:
    share_run(adopted, tmp_path / "shared")
    for path in (tmp_path / "shared").rglob("*.*"):
        assert str(pretrained.parent).encode() not in path.read_bytes(), path
    assert load_model(tmp_path / "shared").card["adopted_from"] == pretrained.name


@pytest.mark.parametrize("pretrained", ["llama"], indirect=True)
def test_weights_that_are_cut_short_are_refused(pretrained: Path, tmp_path: Path, capsys: Capture) -> None:
    source = shutil.copytree(pretrained, tmp_path / "source")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert main(["adopt", str(source), "--run.folder", str(tmp_path / "runs")]) == 2
    assert "not a causal language model that can be loaded" in capsys.readouterr().err
