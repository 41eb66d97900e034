"""Tiny transformers of several families with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

VOCABULARY = 97
_SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
_OWN: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True, "num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 16},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "gemma3_text": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "gpt2": {"n_positions": 64},
    "gpt_neox": {},
}
FAMILIES = list(_OWN)
_OTHER: dict[str, dict[str, Any]] = {
    "gemma2": _OWN["gemma3_text"],
    "gpt_oss": {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "falcon": {},
    "mamba": {},
}


def tiny(family: str, dtype: torch.dtype = torch.float32, **sizes: Any) -> nn.Module:
    """Return a causal language model of a family, in evaluation mode; ``sizes`` are other ones than the usual."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **_SHAPE | (_OWN | _OTHER)[family] | sizes)
    torch.manual_seed(0)
    module: nn.Module = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    return module
