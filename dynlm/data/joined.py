"""Articles joined to longer texts, whose inner boundaries a reader does not see.

A joined text is one article: its segments run across the ends of the articles that it consists of, and its start token
comes once. Tokens, words and headings are those of the articles, so that losses can be reported for each article.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dynlm.data.tokenised_split import TokenisedSplit, Tokens


class Piece(NamedTuple):
    """An article of a split."""

    split: TokenisedSplit
    article: int

    @property
    def tokens(self) -> int:
        """Number of its tokens."""
        return int(self.split.starts[self.article + 1] - self.split.starts[self.article])


def join_pieces(texts: Sequence[Sequence[Piece]]) -> TokenisedSplit:
    """Return a split in memory whose article k consists of the pieces ``texts[k]``, one after the other.

    All pieces are encoded by one tokenizer. A joined article has the title of its first piece.
    """
    arrays: list[tuple[np.ndarray, ...]] = []
    first = 0
    for split, article in (piece for pieces in texts for piece in pieces):
        begin, end = (int(start) for start in split.starts[article : article + 2])
        low, high = np.searchsorted(split.headings, (begin, end))
        own = split.ids_N[begin:end], split.lengths_N[begin:end], split.words_N[begin:end]
        surfaces = split.text[split.text_starts[article] : split.text_starts[article + 1]]
        arrays.append((*own, split.headings[low:high] - begin + first, surfaces))
        first += end - begin
    sizes = np.array([sum(piece.tokens for piece in pieces) for pieces in texts], dtype=np.int64)
    ids_N, lengths_N, words_N, headings, text = (np.concatenate(parts) for parts in zip(*arrays, strict=True))
    tokens = Tokens(ids_N, lengths_N, words_N, headings, text, sizes)
    titles = [pieces[0].split.titles[pieces[0].article] for pieces in texts]
    return TokenisedSplit.from_tokens(tokens, titles, texts[0][0].split.start_token)


def join_articles(split: TokenisedSplit, articles: Sequence[int]) -> TokenisedSplit:
    """Return a split whose one article consists of ``articles`` of ``split``, in this order."""
    return join_pieces([[Piece(split, article) for article in articles]])


def joined_rows(split: TokenisedSplit, articles: Sequence[int]) -> np.ndarray:
    """Return, for each token of ``join_articles(split, articles)``, its index in ``split``."""
    return np.concatenate([split.rows(article) for article in articles])


def alternate(kinds: Sequence[Sequence[Piece]], seed: int, repeat: bool = True, turn: int = 0) -> Iterator[Piece]:
    """Yield pieces so that the kinds have equal shares of the tokens: next comes the kind with the fewest.

    A kind's turn lasts for one piece, or until it has had ``turn`` tokens. The pieces of a kind are in an order of
    their own, drawn anew for each pass over them; without ``repeat`` the first kind whose pieces run out ends it. One
    kind is in the order of a shuffled ``Stream``.
    """
    tokens, passes = [0] * len(kinds), [_shuffled(kind, seed, repeat) for kind in kinds]
    while True:
        kind = tokens.index(min(tokens))
        end = tokens[kind] + max(1, turn)
        while tokens[kind] < end:
            if (piece := next(passes[kind], None)) is None:
                return
            tokens[kind] += piece.tokens
            yield piece


def _shuffled(pieces: Sequence[Piece], seed: int, repeat: bool) -> Iterator[Piece]:
    for epoch in itertools.count() if repeat else (0,):
        for index in np.random.default_rng([seed, epoch]).permutation(len(pieces)):
            yield pieces[index]


def deal(pieces: Iterator[Piece], lanes: int, tokens: int) -> list[list[Piece]]:
    """Return the pieces of each of ``lanes`` joined texts, which have at least ``tokens`` tokens.

    Each piece goes to the text that is the shortest then.
    """
    texts, sizes = [list[Piece]() for _ in range(lanes)], [0] * lanes
    while min(sizes) < max(1, tokens):
        lane, piece = sizes.index(min(sizes)), next(pieces)
        texts[lane].append(piece)
        sizes[lane] += piece.tokens
    return texts
