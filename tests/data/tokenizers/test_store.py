"""Tokenizers are cached, and loaded only if complete and unchanged."""

import json

import pytest

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.data.tokenizers.store import load_tokenizer, train_tokenizer
from dynlm.errors import UserError
from tests.data.tokenizers.texts import TEXT


def test_a_loaded_tokenizer_equals_the_saved_one(pieces, tmp_path):
    pieces.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.fingerprint == pieces.fingerprint
    assert loaded.encode(TEXT[0]).ids.tolist() == pieces.encode(TEXT[0]).ids.tolist()


def test_a_changed_tokenizer_is_rejected(pieces, tmp_path):
    pieces.save(tmp_path)
    card = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**card, "fingerprint": "0" * 16}))
    with pytest.raises(UserError, match="not the one its card describes"):
        load_tokenizer(tmp_path)


def test_a_truncated_tokenizer_is_rejected(pieces, tmp_path):
    pieces.save(tmp_path)
    model = (tmp_path / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(model[: len(model) // 2])
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


def test_a_tokenizer_is_trained_once_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("DYNLM_CACHE", str(tmp_path))
    config = TokenizerOptions("bpe", 305, 0.99)
    first = train_tokenizer(config, TEXT, "corpus-1")
    monkeypatch.setattr(PieceTokenizer, "train", None)
    assert train_tokenizer(config, [], "corpus-1").fingerprint == first.fingerprint
    with pytest.raises(TypeError):  # Another corpus has another cache entry.
        train_tokenizer(config, TEXT, "corpus-2")
