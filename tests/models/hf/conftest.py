"""A tiny pretrained transformer of several families, and the run that adopts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dynlm.cli.main import main
from tests.models.hf.attached import loaded
from tests.models.hf.pretrained import write_pretrained


@pytest.fixture(scope="session", params=["llama", "gpt2", "gpt_neox"])
def pretrained(request: pytest.FixtureRequest, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as ``save_pretrained`` writes it: a tiny transformer and its byte-level tokenizer, trained briefly."""
    return write_pretrained(tmp_path_factory.mktemp(request.param), request.param, tiny_corpus)


@pytest.fixture(scope="session")
def adopted(pretrained: Path, tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of that transformer, with a context of 48 tokens and a stride of 24."""
    runs = tmp_path_factory.mktemp("runs")
    words = ["--run.name", "tiny", "--run.folder", str(runs), "--run.cpu", "true", "--corpus.path", str(tiny_corpus)]
    words += ["--corpus.meta_every", "6"]
    assert main(["adopt", str(pretrained), *words, "--model.context", "48", "--model.stride", "24"]) == 0
    return runs / "tiny"


@pytest.fixture(scope="module")
def given(pretrained: Path) -> tuple[Any, Any]:
    """That transformer as a user loads it: the model and its tokenizer."""
    return loaded(pretrained)
