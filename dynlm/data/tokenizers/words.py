"""Words as tokens: the vocabulary of the WikiText literature."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.tokenizer import Encoding, write_card
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import read_json, write_json

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
# An end of line or a word, each with the white space before it; or the white space that ends a text.
_WORD = re.compile(r"[^\S\n]*\n|\s*[^\s]+|[^\S\n]+")


class WordTokenizer:
    """Words separated by white space, with ``<eos>`` at the end of each line.

    Words outside the vocabulary become ``<unk>``: decoding returns the words of a text, not its spacing. Raises
    ValueError for a vocabulary with a word twice, or without ``<unk>`` or ``<eos>``.
    """

    def __init__(self, config: TokenizerOptions, types: list[str]):
        if len(set(types)) != len(types) or not {UNKNOWN, END_OF_LINE} <= set(types):
            raise ValueError(f"the vocabulary has a word twice, or no {UNKNOWN} or {END_OF_LINE}")
        self.config, self.types = config, types
        self.size, self.fingerprint = len(types), fingerprint(*types)
        self._ids = {word: index for index, word in enumerate(types)}
        self._unknown = self._ids[UNKNOWN]
        self.start = self._ids[END_OF_LINE]

    @classmethod
    def train(cls, config: TokenizerOptions, texts: Iterable[str]) -> WordTokenizer:
        """Build the vocabulary from the ``vocab_size`` most frequent words of ``texts`` (0: from all)."""
        counts = Counter(itertools.chain.from_iterable(map(str.split, texts)))
        for special in (UNKNOWN, END_OF_LINE):
            counts.pop(special, None)
        words = sorted(counts, key=lambda word: (-counts[word], word))
        if config.vocab_size:
            words = words[: max(0, config.vocab_size - 2)]
        return cls(config, [UNKNOWN, END_OF_LINE, *words])

    @classmethod
    def load(cls, config: TokenizerOptions, folder: Path) -> WordTokenizer:
        """Load the vocabulary that ``save`` wrote. Raises UserError or ValueError if it is damaged."""
        types = read_json(folder / "words.json")
        if not isinstance(types, list) or not all(isinstance(word, str) for word in types):
            raise ValueError("words.json is not a list of words")
        return cls(config, types)

    def encode(self, text: str) -> Encoding:
        """Return the tokens of ``text``; white space at its end that is not an end of line becomes ``<unk>``."""
        ids, lengths = [], []
        for part in _WORD.findall(text):
            ids.append(self.start if part.endswith("\n") else self._ids.get(part.strip(), self._unknown))
            lengths.append(len(part.encode()))
        return Encoding(np.array(ids, dtype=np.int32), np.array(lengths, dtype=np.int32))

    def decode(self, ids: Iterable[int]) -> str:
        return "".join("\n" if index == self.start else f" {self.types[index]}" for index in ids)

    def save(self, folder: Path) -> None:
        write_json(folder / "words.json", self.types)
        write_card(self, folder)
