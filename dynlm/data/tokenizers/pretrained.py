"""Tokenizers of pretrained models, from the ``tokenizers`` library, with the bytes that each token stands for.

Legend: N tokens of a text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.tokenizer import Encoding, write_card
from dynlm.errors import UserError
from dynlm.runtime.files import atomic_write
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import LARGEST_JSON, read_bytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_FILE = "pretrained.json"


class PretrainedTokenizer:
    """A tokenizer of the ``tokenizers`` library; ``start`` is the token before an article's first one.

    ``size`` is the model's vocabulary, which may be larger than the tokenizer's. Special tokens are not recognised in
    texts, and none are added.
    """

    def __init__(self, config: TokenizerOptions, backend: Backend, start: int):
        self.config, self.size, self.start = config, config.vocab_size, start
        self.fingerprint = fingerprint(backend.to_str(), str(start))
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._is_byte_level = "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))
        largest = max(backend.get_vocab().values(), default=-1)  # numbers may be left out
        self._lengths = [len(backend.id_to_token(index) or "") for index in range(largest + 1)]

    def __reduce__(self) -> tuple[Any, tuple[TokenizerOptions, str, int]]:
        return _restored, (self.config, self._backend.to_str(), self.start)

    @classmethod
    def train(cls, config: TokenizerOptions, texts: Iterable[str]) -> PretrainedTokenizer:
        """Raise UserError: such a tokenizer comes with its model."""
        raise UserError("tokenizer.kind is 'pretrained', which is not trained", do="choose bpe, unigram or word")

    @classmethod
    def load(cls, config: TokenizerOptions, folder: Path) -> PretrainedTokenizer:
        """Load what ``save`` wrote. Raises UserError or ValueError if it is damaged."""
        content = json.loads(read_bytes(folder / _FILE, LARGEST_JSON))
        return _restored(config, content["tokenizer"], content["start"])

    def encode(self, text: str) -> Encoding:
        """Return the tokens of ``text``; their lengths in bytes add up to the text's, whatever they drop or change."""
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids_N = np.array(encoding.ids, dtype=np.int32)
        total = len(text.encode())
        if self._is_byte_level:
            lengths_N = np.array([self._lengths[index] for index in encoding.ids], dtype=np.int32)
            if lengths_N.sum() == total:
                return Encoding(ids_N, lengths_N)
        # Bytes up to each token's last character; of tokens that share a character, the last has it.
        ends = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text], dtype=np.int64)])
        stops_N = np.maximum.accumulate(np.array([stop for _, stop in encoding.offsets], dtype=np.int64))
        bytes_N = ends[stops_N] if len(stops_N) else ends[:0]
        if len(bytes_N):
            bytes_N[-1] = total
        return Encoding(ids_N, np.diff(bytes_N, prepend=0).astype(np.int32))

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def save(self, folder: Path) -> None:
        content = json.dumps({"tokenizer": self._backend.to_str(), "start": self.start})
        with atomic_write(folder / _FILE) as staged:
            staged.write_text(content, encoding="utf-8")
        write_card(self, folder)


def _restored(config: TokenizerOptions, content: str, start: int) -> PretrainedTokenizer:
    try:
        from tokenizers import Tokenizer as Backend
    except ImportError as error:
        raise UserError("the tokenizers of pretrained models need more packages", do="pip install dynlm[hf]") from error
    return PretrainedTokenizer(config, Backend.from_str(content), start)
