"""The protocol of tokenizers.

Every token has a surface, the exact bytes of the text that it stands for, so that a loss can be divided by tokens,
words or bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dynlm.data.options import TokenizerOptions
from dynlm.runtime.parsing import write_json


@dataclass(frozen=True, slots=True)
class Encoding:
    """The tokens of one text: ids, and the length of each token's surface in bytes (both int32)."""

    ids: np.ndarray
    lengths: np.ndarray


class Tokenizer(Protocol):
    """A mapping between texts and sequences of token ids in ``range(size)``."""

    config: TokenizerOptions
    size: int
    """Number of tokens."""
    start: int
    """Id fed to the model before an article's first token; it is never scored."""
    fingerprint: str
    """Of everything that decides on the tokens of a text."""

    def encode(self, text: str) -> Encoding:
        """Return the tokens of a text."""

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of tokens."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into ``folder``, for ``load_tokenizer``."""


def write_card(tokenizer: Tokenizer, folder: Path) -> None:
    """Write ``tokenizer.json``, the description that ``load_tokenizer`` checks a tokenizer's files against."""
    card = {"config": vars(tokenizer.config), "size": tokenizer.size, "fingerprint": tokenizer.fingerprint}
    write_json(folder / "tokenizer.json", card)
