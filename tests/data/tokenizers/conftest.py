"""A trained tokenizer of each kind."""

from __future__ import annotations

import pytest

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.pieces import PieceTokenizer
from tests.data.tokenizers.texts import TEXT


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def pieces(request):
    return PieceTokenizer.train(TokenizerOptions(request.param, 305, 0.99), TEXT)
