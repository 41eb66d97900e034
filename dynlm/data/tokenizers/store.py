"""Training of tokenizers, cached by corpus and options, and loading of saved ones."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.data.tokenizers.pretrained import PretrainedTokenizer
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.data.tokenizers.words import WordTokenizer
from dynlm.errors import UserError
from dynlm.runtime.files import cache_folder
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json
from dynlm.runtime.validation import section_of


def train_tokenizer(config: TokenizerOptions, texts: Iterable[str], corpus_fingerprint: str) -> Tokenizer:
    """Train a tokenizer, or load it from the cache if one was trained on the same corpus with the same options."""
    key = fingerprint(json.dumps(vars(config), sort_keys=True), corpus_fingerprint, sentencepiece.__version__)
    folder = cache_folder() / "tokenizers" / key
    if (folder / "tokenizer.json").exists():
        try:
            return load_tokenizer(folder)
        except UserError:
            pass  # Replace the damaged cache entry.
    tokenizer = _class_of(config).train(config, texts)
    tokenizer.save(folder)
    return tokenizer


def load_tokenizer(folder: Path) -> Tokenizer:
    """Load a saved tokenizer. Raises UserError if a file is missing or damaged, or differs from its card."""
    card = read_json(folder / "tokenizer.json")
    try:
        config = section_of(TokenizerOptions, card["config"])
        tokenizer = _class_of(config).load(config, folder)
        matches = tokenizer.fingerprint == card["fingerprint"]
    except (UserError, KeyError, TypeError, OSError, RuntimeError, ValueError, IndexError, OverflowError) as error:
        raise UserError(f"not a tokenizer that dynlm can read ({error})", folder, "train the run again") from error
    if not matches:
        raise UserError("the tokenizer is not the one its card describes", folder, "restore the file or train again")
    return tokenizer


def _class_of(config: TokenizerOptions) -> Any:
    if config.kind == "pretrained":
        return PretrainedTokenizer
    return WordTokenizer if config.kind == "word" else PieceTokenizer
