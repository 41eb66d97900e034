"""Options fitted to the size of a text: how it is cut and split, the model's size, and the budgets.

docs/quickstart.md has these rules as a table.
"""

from __future__ import annotations

from typing import NamedTuple

from dynlm.train.config import Config

WORDS_READ = 10_000_000
"""Most words that level-1 training reads, in all passes, at a budget of 1."""
PASSES = 4
_FEWEST_TO_TUNE = 3000
"""Tokens: fewer are too few to tune on, whatever the budget."""


class TextSize(NamedTuple):
    """The size of a text: its words (``data.cut.size_in_words``), different words, and different characters."""

    words: int
    types: int
    characters: int


def fit(config: Config, size: TextSize, budget: float = 1.0) -> Config:
    """Return ``config`` with options for a text of ``size``.

    Every option grows with the text but the passes over it, and all are bounded. Of 5,000 words or more, cut as the
    result says, each of train, meta, valid and test has articles. ``budget`` multiplies the passes of training and the
    tokens of tuning and meta-training.
    """
    words = size.words
    passes = min(PASSES, WORDS_READ / words) * budget
    # No more pieces than SentencePiece finds: bytes, characters, and parts of the words of the training articles.
    pieces = min(256 + size.types / 2, 4000 * (words / 250_000) ** 0.25) + size.characters
    width = 32 * _between(3, 6 * (words / 250_000) ** (1 / 6), 16)
    return Config(
        run=config.run,
        corpus=config.corpus.replace(
            cut_words=_between(300, words / 200, 2000),
            # Valid and test have a twelfth each; of short texts at least 4,000 words, of long ones 100,000.
            hold_out_every=_between(3, words / 4000, 12) if words < 1_200_000 else words // 100_000,
            meta_every=_between(3, words / 10_000, 10),
        ),
        tokenizer=config.tokenizer.replace(vocab_size=10 * _between(30, pieces / 10 + 1, 6400)),
        model=config.model.replace(embedding=width, hidden=width, layers=1),
        pretrain=config.pretrain.replace(
            epochs=passes,
            lanes=_between(2, words / 12_500, 8) if words < 1_000_000 else 16,
            lr=0.008,
            warmup_steps=_between(5, passes * words / 10_000, 300),
            validate_every=_between(50, passes * words / 2000, 1000),
            validate_tokens=_between(2000, words / 20, 20_000),
        ),
        memory=config.memory,
        tune=config.tune.replace(
            articles="all",
            tokens=_tokens(words / 25, budget, _FEWEST_TO_TUNE, 40_000),
            statistics_tokens=_tokens(words / 12, budget, 1000, 40_000),
            rounds=1,
        ),
        metatrain=config.metatrain.replace(
            tokens=_tokens(max(words / 10, 20_000), budget, 1000, 120_000),
            window=25,
            pick_tokens=_tokens(words / 20, budget, _FEWEST_TO_TUNE, 40_000),
        ),
    )


def _between(low: int, value: float, high: int) -> int:
    return int(min(max(value, low), high))


def _tokens(value: float, budget: float, low: int, high: int) -> int:
    """Return a budget of tokens: ``low`` at least, and ``high`` times the budget at most."""
    return max(low, int(min(value, high) * budget))
