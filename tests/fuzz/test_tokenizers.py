"""Round trips of any text, and damaged files of tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pieces import SPACE, PieceTokenizer
from dynlm.data.tokenizers.store import load_tokenizer
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.data.tokenizers.words import WordTokenizer
from dynlm.runtime.hashing import fingerprint
from tests.fuzz.cases import damaged, damaged_json, fuzz, tried
from tests.tiny import article

TEXTS = [article(np.random.default_rng(seed), 30) for seed in range(4)]
anything = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(" \n\r\t\0\u2028\ufeff\u202e" + SPACE),
        st.sampled_from("bade .,=thewas"),
    ),
    max_size=60,
)


@pytest.fixture(scope="module")
def tokenizers() -> list[Tokenizer]:
    kinds = [("bpe", 400), ("unigram", 330)]
    made: list[Tokenizer] = [PieceTokenizer.train(TokenizerOptions(kind=k, vocab_size=n), TEXTS) for k, n in kinds]
    return [*made, WordTokenizer.train(TokenizerOptions(kind="word", vocab_size=50), TEXTS)]


@fuzz("tokenizer round trip", text=anything, which=st.integers(0, 2))
def test_any_text_round_trips(tokenizers: Sequence[Tokenizer], text: str, which: int) -> None:
    tokenizer = tokenizers[which]
    encoding = tokenizer.encode(text)
    assert int(encoding.lengths.sum()) == len(text.encode())
    assert all(0 <= token < tokenizer.size for token in encoding.ids.tolist())
    if which < 2:
        assert tokenizer.decode(encoding.ids.tolist()) == text


@pytest.fixture(scope="module")
def folders(tokenizers: Sequence[Tokenizer], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = []
    for tokenizer in tokenizers:
        made.append(tmp_path_factory.mktemp("tokenizer"))
        tokenizer.save(made[-1])
    return made


@fuzz("tokenizer files", data=st.data(), which=st.integers(0, 2), forged=st.booleans())
def test_damaged_tokenizer_files(folders: Sequence[Path], data: st.DataObject, which: int, forged: bool) -> None:
    folder = folders[which]
    name = data.draw(st.sampled_from(sorted(path.name for path in folder.iterdir())))
    kept = {path: path.read_bytes() for path in folder.iterdir()}
    whole = kept[folder / name]
    content = data.draw(damaged_json(json.loads(whole)) if name.endswith(".json") else damaged(whole))
    (folder / name).write_bytes(content)
    if forged and name == "tokenizer.model":  # A forged card matches the forged model.
        card = json.loads(kept[folder / "tokenizer.json"])
        (folder / "tokenizer.json").write_text(json.dumps({**card, "fingerprint": fingerprint(content)}))
    try:
        tokenizer = tried(lambda: load_tokenizer(folder))
        if tokenizer is not None:
            encoding = tokenizer.encode("the town was\0 seen" + SPACE + "ü")
            assert encoding.ids.max() < tokenizer.size and encoding.ids.min() >= 0
            assert isinstance(tokenizer.decode(encoding.ids.tolist()), str)
            assert 0 <= tokenizer.start < tokenizer.size
    finally:
        for path, content in kept.items():
            path.write_bytes(content)
