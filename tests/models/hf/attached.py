"""What the tests of ``dynlm.attach`` share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

TEXT = "the bade of the kula was seen near a kula .\n" * 12
SHORT: dict[str, Any] = {"context": 48, "stride": 24, "segment": 16}
ONE = pytest.mark.parametrize("pretrained", ["llama"], indirect=True)
"""Tests of what is the same for every family."""


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Return the model in a folder and its tokenizer, as a user loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), AutoTokenizer.from_pretrained(folder)
