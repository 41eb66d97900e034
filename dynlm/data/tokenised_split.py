"""Articles as arrays of tokens.

Legend: N tokens of all articles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.runtime.hashing import fingerprint

_ASCII_SPACE = np.array([chr(byte).isspace() and byte < 0x80 for byte in range(256)])
_WIDE_SPACE = re.compile(b"|".join(chr(n).encode() for n in range(0x80, 0x3001) if chr(n).isspace()))
# A whole line of WikiText, ` = Title = ` or ` = = Section = = `, with its end of line; or the beginning of a line of
# Markdown, `## Section`.
_HEADING = re.compile(rb"^(?: (=(?: =)*) \S.*? \1 *\r?\n|#{1,6} [^\s])", re.MULTILINE)


class Tokens(NamedTuple):
    """Tokens of articles, one article after the other, and what is computed from each article's text."""

    ids_N: np.ndarray
    """Token ids (int32)."""
    lengths_N: np.ndarray
    """Bytes of each token's surface (int32)."""
    words_N: np.ndarray
    """Words that start in each token (int16)."""
    headings: np.ndarray
    """Tokens that complete a heading's line, ascending (int64)."""
    text: np.ndarray
    """Bytes of all texts (uint8): the surfaces of all tokens, joined."""
    sizes: np.ndarray
    """Tokens of each article (int64)."""


def count_word_starts(text: bytes, lengths_N: np.ndarray) -> np.ndarray:
    """Return how many words start in each token of ``text`` (int16); tokens are ``lengths_N`` bytes long.

    A word is a run without white space, as for ``str.split``, and each end of line counts as one more: the sum over a
    text is the word count of the literature.
    """
    bytes_ = np.frombuffer(text, dtype=np.uint8)
    space = _ASCII_SPACE[bytes_]
    if not text.isascii():
        for found in _WIDE_SPACE.finditer(text):
            space[found.start() : found.end()] = True
    starts = ~space
    starts[1:] &= space[:-1]
    starts |= bytes_ == ord("\n")
    before = np.zeros(len(text) + 1, dtype=np.int32 if len(text) < 2**31 else np.int64)
    np.cumsum(starts, out=before[1:])
    ends = np.cumsum(lengths_N, dtype=np.int64)
    return (before[ends] - before[ends - lengths_N]).astype(np.int16)


def find_headings(text: bytes, lengths_N: np.ndarray) -> np.ndarray:
    """Return the tokens that complete a heading's line, ascending (int64); tokens are ``lengths_N`` bytes long.

    The result is causal: whether a token is returned does not depend on the text after it. A line of WikiText is
    therefore a heading only at its end.
    """
    last = np.array([found.end() - 1 for found in _HEADING.finditer(text)], dtype=np.int64)
    return np.unique(np.searchsorted(np.cumsum(lengths_N, dtype=np.int64), last, side="right"))


def encode_texts(texts: Iterable[str], tokenizer: Tokenizer, min_tokens: int = 0) -> Tokens:
    """Return the tokens of ``texts``, each encoded by itself.

    ``sizes`` has all texts, the arrays lack those of fewer than ``min_tokens`` tokens.
    """
    dtypes = (np.int32, np.int32, np.int16, np.int64, np.uint8)
    parts: list[tuple[np.ndarray, ...]] = [tuple(np.zeros(0, dtype=dtype) for dtype in dtypes)]
    sizes: list[int] = []
    first = 0
    for text in texts:
        encoding = tokenizer.encode(text)
        sizes.append(len(encoding.ids))
        if sizes[-1] >= min_tokens:
            data = text.encode()
            words_N, headings = count_word_starts(data, encoding.lengths), find_headings(data, encoding.lengths)
            surfaces = np.frombuffer(data, dtype=np.uint8)
            parts.append((encoding.ids, encoding.lengths, words_N, first + headings, surfaces))
            first += sizes[-1]
    ids_N, lengths_N, words_N, headings, surfaces = map(np.concatenate, zip(*parts, strict=True))
    return Tokens(ids_N, lengths_N, words_N, headings, surfaces, np.array(sizes, dtype=np.int64))


@dataclass(frozen=True)
class TokenisedSplit:
    """Articles as tokens, in memory or memory-mapped: article a has the tokens ``starts[a]:starts[a + 1]``."""

    ids_N: np.ndarray
    lengths_N: np.ndarray
    words_N: np.ndarray
    headings: np.ndarray
    text: np.ndarray
    """This and the fields above are as in ``Tokens``."""
    starts: np.ndarray
    """First token of each article, and the end (int64)."""
    text_starts: np.ndarray
    """First byte of each article in ``text``, and the end (int64)."""
    titles: Sequence[str]
    start_token: int
    """Id fed to the model before an article's first token."""
    fingerprint: str
    """Of ids, texts and article boundaries."""

    @classmethod
    def from_tokens(cls, tokens: Tokens, titles: Sequence[str], start_token: int) -> TokenisedSplit:
        """Build a split in memory."""
        starts = np.concatenate([[0], np.cumsum(tokens.sizes)]).astype(np.int64)
        text_starts = np.concatenate([[0], np.cumsum(tokens.lengths_N, dtype=np.int64)])[starts]
        key = fingerprint(tokens.ids_N.tobytes(), tokens.text.tobytes(), starts.tobytes())
        return cls(*tokens[:5], starts, text_starts, titles, start_token, key)

    @classmethod
    def from_texts(cls, texts: Sequence[str], tokenizer: Tokenizer, title: str = "") -> TokenisedSplit:
        """Encode ``texts``, an article each, all with the same title; an empty text has no tokens."""
        return cls.from_tokens(encode_texts(texts, tokenizer), [title] * len(texts), tokenizer.start)

    def take(self, rows: Sequence[np.ndarray], titles: Sequence[str]) -> TokenisedSplit:
        """Return a split in memory whose article a consists of the tokens ``rows[a]`` of this one, in that order."""
        rows_N = np.concatenate(rows)
        article_N = np.searchsorted(self.starts, rows_N, side="right") - 1
        surfaces = {article: self.surfaces(article) for article in np.unique(article_N).tolist()}
        within_N = (rows_N - self.starts[article_N]).tolist()
        text = b"".join(surfaces[article][n] for article, n in zip(article_N.tolist(), within_N, strict=True))
        ids_N, lengths_N, words_N = (np.array(array[rows_N]) for array in (self.ids_N, self.lengths_N, self.words_N))
        headings, sizes = np.flatnonzero(np.isin(rows_N, self.headings)), np.array([len(part) for part in rows])
        tokens = Tokens(ids_N, lengths_N, words_N, headings, np.frombuffer(text, dtype=np.uint8), sizes)
        return TokenisedSplit.from_tokens(tokens, titles, self.start_token)

    def excerpt(self, articles: int, tokens: int) -> TokenisedSplit:
        """Return the first ``tokens`` tokens of each of the first ``articles`` articles, in memory."""
        chosen = range(min(articles, self.articles))
        return self.take([self.rows(article)[:tokens] for article in chosen], [self.titles[a] for a in chosen])

    @property
    def articles(self) -> int:
        return len(self.titles)

    def rows(self, index: int) -> np.ndarray:
        """Return the indices of one article's tokens."""
        return np.arange(self.starts[index], self.starts[index + 1])

    def article(self, index: int) -> np.ndarray:
        """Return the token ids of one article."""
        return self.ids_N[self.starts[index] : self.starts[index + 1]]

    def inputs(self, index: int) -> np.ndarray:
        """Return the model's inputs for ``article(index)``: the start token, then all tokens but the last."""
        ids = self.article(index)
        return np.concatenate([np.array([self.start_token], dtype=ids.dtype), ids[:-1]])

    def surfaces(self, index: int) -> list[bytes]:
        """Return the bytes that each token of one article stands for."""
        text = self.text[self.text_starts[index] : self.text_starts[index + 1]].tobytes()
        ends = np.cumsum(self.lengths_N[self.starts[index] : self.starts[index + 1]], dtype=np.int64).tolist()
        return [text[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
