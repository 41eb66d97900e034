"""SentencePiece tokenizers are lossless with exact surfaces; damaged and hostile models are rejected."""

import io
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenised_split import count_word_starts
from dynlm.data.tokenizers.pieces import PieceTokenizer
from dynlm.data.tokenizers.store import load_tokenizer
from dynlm.errors import UserError
from tests.data.tokenizers.texts import ANY_TEXT, SPECIAL, TEXT


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(ANY_TEXT, SPECIAL, st.builds(str.__add__, SPECIAL, ANY_TEXT)))
def test_any_text_round_trips(pieces, text):
    encoding = pieces.encode(text)
    assert pieces.decode(encoding.ids) == text
    assert encoding.lengths.sum() == len(text.encode())
    assert (encoding.lengths > 0).all()


# Spaces and ends of line between pieces that merge and characters that are encoded as bytes.
WORDS = st.lists(st.sampled_from([" ", "  ", "\n", " \n", "the", "ships", "in", "x", "\u2581", "\u4e2d", "\t"])).map(
    "".join
)


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(WORDS, ANY_TEXT, SPECIAL))
def test_cached_units_equal_sentencepieces_tokens(pieces, text):
    encoding, reference = pieces.encode(text), pieces.encode_lines(text)
    assert encoding.ids.tolist() == reference.ids.tolist()
    assert encoding.lengths.tolist() == reference.lengths.tolist()


def test_the_cache_of_units_can_be_emptied(monkeypatch):
    monkeypatch.setattr("dynlm.data.tokenizers.pieces._MEMO_CHARACTERS", 10)
    pieces = PieceTokenizer.train(TokenizerOptions("bpe", 305, 0.99), TEXT)
    for _ in range(2):
        for text in TEXT:
            assert pieces.encode(text).ids.tolist() == pieces.encode_lines(text).ids.tolist()


def test_a_tokenizer_can_be_pickled(pieces):
    sent = pickle.loads(pickle.dumps(pieces))
    assert sent.fingerprint == pieces.fingerprint
    assert sent.encode(TEXT[0]).ids.tolist() == pieces.encode(TEXT[0]).ids.tolist()


@settings(max_examples=200, deadline=None)
@given(text=st.one_of(ANY_TEXT, SPECIAL))
def test_every_word_and_end_of_line_starts_in_one_token(pieces, text):
    counted = count_word_starts(text.encode(), pieces.encode(text).lengths)
    assert counted.sum() == len(text.split()) + text.count("\n")


def test_an_end_of_line_is_one_token(pieces):
    assert len(pieces.encode(" \n").ids) == 1
    assert len(pieces.encode("\n").ids) == 1


def test_pieces_are_trained_on_the_first_characters_only():
    def texts():
        yield from TEXT
        raise AssertionError("read on")

    config = TokenizerOptions("bpe", 305, 0.99, training_characters=sum(map(len, TEXT)) - 1)
    assert PieceTokenizer.train(config, texts()).model == PieceTokenizer.train(config, TEXT).model


def test_too_little_text_is_a_user_error():
    with pytest.raises(UserError, match=r"tokenizer\.vocab_size") as error:
        PieceTokenizer.train(TokenizerOptions("bpe", 5000), ["a b c"])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ("characters", {"normalization_rule_name": "nfkc"}),
        ("characters", {"normalization_rule_name": "nmt_nfkc_cf"}),
        ("spaces", {"remove_extra_whitespaces": True}),
        ("spaces", {"add_dummy_prefix": True}),
    ],
)
def test_a_model_that_normalises_is_rejected(tmp_path, changes, options):
    identity = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
    kind = {"model_type": "bpe", "vocab_size": 305, "character_coverage": 0.99, "byte_fallback": True}
    config = TokenizerOptions("bpe", 305, 0.99)

    def model(**changed):
        out = io.BytesIO()
        options = {**identity, **changed, **kind, "minloglevel": 2}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(TEXT), model_writer=out, **options)
        return out.getvalue()

    PieceTokenizer(config, model())
    with pytest.raises(ValueError, match=changes):
        PieceTokenizer(config, model(**options))
    made = PieceTokenizer(config, model())
    made.save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(model(**options))
    with pytest.raises(UserError, match=changes):
        load_tokenizer(tmp_path)


def crafted_models(count: int = 12) -> list[bytes]:
    """Return models with invalid character maps: SentencePiece before 0.2.1 reads past their end."""
    rng, whole = np.random.default_rng(0), PieceTokenizer.train(TokenizerOptions("bpe", 305, 0.99), TEXT).model

    def field(number: int, payload: bytes) -> bytes:
        size, encoded = len(payload), bytearray([number << 3 | 2])
        while size > 127:
            encoded.append(size & 127 | 128)
            size >>= 7
        return bytes([*encoded, size]) + payload

    maps = [struct.pack("<I", size) + rng.bytes(size) for size in rng.choice([64, 1024, 4096], count).tolist()]
    return [whole + field(3, field(2, each)) for each in maps]


def test_crafted_character_maps_are_rejected_before_sentencepiece_reads_them(monkeypatch):
    models = crafted_models()
    monkeypatch.setattr(sentencepiece, "SentencePieceProcessor", None)
    for model in models:
        with pytest.raises(ValueError, match="changes characters"):
            PieceTokenizer(TokenizerOptions("bpe", 305, 0.99), model)


def test_the_installed_sentencepiece_survives_crafted_models(tmp_path):
    code = """
import sentencepiece, sys
for path in sys.argv[1:]:
    try:
        sentencepiece.SentencePieceProcessor(model_file=path).encode("the town was seen" * 20)
    except (RuntimeError, ValueError, OSError):
        pass
"""
    paths = [tmp_path / f"{index}.model" for index in range(12)]
    for path, model in zip(paths, crafted_models(), strict=True):
        path.write_bytes(model)
    assert subprocess.run([sys.executable, "-c", code, *map(str, paths)], timeout=60).returncode == 0


def test_long_lines_are_split_for_training():
    line = " ".join(TEXT).replace("\n", " ") * 6000
    assert len(line) > 1 << 20
    assert PieceTokenizer.train(TokenizerOptions("bpe", 305, 0.99), [line]).size == 305
