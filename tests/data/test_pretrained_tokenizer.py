"""Tokenizers of pretrained models: the bytes of a text are shared out among its tokens."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers", reason="the extra dynlm[hf] is not installed")

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pretrained import PretrainedTokenizer
from dynlm.data.tokenizers.store import load_tokenizer

TEXTS = ["the cat sat on the mat\n", "naïve façade: 日本語 and 🎉\n", "def f(x):\n    return x\n"]


def trained(kind: str) -> PretrainedTokenizer:
    """Return a tokenizer of a family: byte-level (GPT-2), SentencePiece-like with byte fallback, or lower-casing."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if kind == "byte-level":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"])
    elif kind == "byte fallback":
        backend = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
        backend.normalizer = normalizers.Replace(" ", "▁")
        backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        special = ["<s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special)
    else:
        backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
        backend.normalizer = normalizers.Lowercase()
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=["<s>", "<unk>"])
    backend.train_from_iterator(TEXTS, trainer)
    return PretrainedTokenizer(TokenizerOptions(kind="pretrained", vocab_size=512), backend, 0)


KINDS = ["byte-level", "byte fallback", "words"]
TOKENIZERS = {kind: trained(kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_lengths_add_up_to_the_text(kind: str, text: str) -> None:
    encoding = TOKENIZERS[kind].encode(text)
    assert (encoding.lengths >= 0).all() and len(encoding.ids) == len(encoding.lengths)
    assert encoding.lengths.sum() == (len(text.encode()) if len(encoding.ids) else 0)


@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_byte_level_tokens_stand_for_their_own_bytes(text: str) -> None:
    tokenizer, data, at = TOKENIZERS["byte-level"], text.encode(), 0
    encoding = tokenizer.encode(text)
    assert tokenizer.decode(encoding.ids.tolist()) == text
    for index, length in zip(encoding.ids.tolist(), encoding.lengths.tolist(), strict=True):
        surface = data[at : at + length]
        assert tokenizer.decode([index]) == surface.decode("utf-8", "replace")
        at += length


def test_special_tokens_in_a_text_are_text() -> None:
    tokenizer = TOKENIZERS["byte-level"]
    assert 0 not in tokenizer.encode("<s>a<s>").ids and tokenizer.start == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[kind]
    tokenizer.save(tmp_path)
    for other in (load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert (other.fingerprint, other.size, other.start) == (tokenizer.fingerprint, 512, 0)
        assert other.encode(TEXTS[1]).ids.tolist() == tokenizer.encode(TEXTS[1]).ids.tolist()
