"""Folders as ``save_pretrained`` writes them: a tiny transformer and its byte-level tokenizer, trained briefly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def write_pretrained(folder: Path, family: str, corpus: Path, steps: int = 60, **shape: Any) -> Path:
    """Write a model of a family, trained for some ``steps`` on the corpus; ``shape`` has other sizes than the usual."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    text = (corpus / "train.txt").read_text()
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>"]
    backend.train_from_iterator(
        [text], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=special[0], eos_token=special[0])
    usual: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    usual |= {"intermediate_size": 64, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, vocab_size=400, tie_word_embeddings=True, **{**usual, **shape})
    module = AutoModelForCausalLM.from_config(config)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    ids = torch.tensor(backend.encode(text).ids)
    ids = ids[: len(ids) // 40 * 40].view(-1, 40)
    for step in range(steps):
        batch = ids[step * 8 % len(ids) :][:8]
        optimizer.zero_grad()
        module(batch, labels=batch).loss.backward()
        optimizer.step()
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
