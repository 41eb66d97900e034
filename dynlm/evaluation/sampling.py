"""How a generated text is drawn, token by token, and what ends it.

Legend: V vocabulary, K likeliest tokens, largest probability first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.runtime.validation import LARGEST_SEED, within

_UNDECODED = "\ufffd"
"""What the bytes of an unfinished character decode to."""


@dataclass(frozen=True)
class Sampling:
    """How many tokens are drawn, and how. Raises UserError, naming the option, for values out of their range.

    ``temperature``: what logits are divided by; 0 takes the likeliest token. ``top_k``: only the k likeliest tokens are
    drawn from (0: all). ``top_p``: of these, at that temperature, only the fewest whose probabilities sum to at least p
    (nucleus sampling: Holtzman et al. 2020, 1904.09751; 1: all).
    """

    tokens: int = 200
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        within("tokens", self.tokens, 1)
        if self.temperature != 0:
            within("temperature (where it is not 0)", self.temperature, 1e-3, 1e3)
        within("top_k", self.top_k)
        within("top_p", self.top_p, 1e-6, 1)
        within("seed", self.seed, 0, LARGEST_SEED)

    def draw(self, logits_V: Tensor, generator: torch.Generator) -> int:
        """Draw a token. Raises UserError for logits of which one is NaN, as diverged weights give them."""
        if bool(logits_V.isnan().any()):
            what = "the memory predicts no next token: its weights are not finite"
            raise UserError(what, do="lower the rule's rate, choose --memory.no_regret true, or reset the memory")
        if self.temperature == 0:
            return int(logits_V.argmax())
        logits_K, tokens_K = logits_V.topk(min(self.top_k or len(logits_V), len(logits_V)))
        p_K = (logits_K / self.temperature).softmax(-1)
        if self.top_p < 1:
            p_K = torch.where(p_K.cumsum(-1) - p_K < self.top_p, p_K, 0)
        return int(tokens_K[torch.multinomial(p_K, 1, generator=generator)])


@dataclass(frozen=True)
class Stop:
    """What ends a generated text, and is cut off: one of ``texts``, the one that is whole first, or of ``tokens``."""

    texts: tuple[str, ...] = ()
    tokens: frozenset[int] = frozenset()

    def find(self, text: str) -> int:
        """Return where that of ``texts`` begins in ``text`` which is whole first; -1 if there is none."""
        found = ((at + len(stop), at) for stop in self.texts if stop and (at := text.find(stop)) >= 0)
        return min(found, default=(0, -1))[1]

    def cut(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield a text that comes in pieces, up to one of ``texts``; what may begin one is held back."""
        held = ""
        for piece in pieces:
            held += piece
            if (at := self.find(held)) >= 0:
                if at:
                    yield held[:at]
                return
            size = len(held) - self._open(held)
            if size:
                yield held[:size]
            held = held[size:]
        if held:
            yield held

    def _open(self, text: str) -> int:
        """Return how many characters at the end of ``text`` may be the beginning of one of ``texts``."""
        sizes = (size for stop in self.texts for size in range(1, len(stop)) if text.endswith(stop[:size]))
        return max(sizes, default=0)


def decode_pieces(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Yield the text of ``tokens`` as they come, in pieces that together are ``tokenizer.decode`` of all of them.

    Each token is decoded after those of the piece before it, since a tokenizer may treat a text's first token in its
    own way; the bytes of a character are held back until it is whole.
    """
    before: list[int] = []
    now: list[int] = []
    for token in tokens:
        now.append(token)
        text = tokenizer.decode([*before, *now])
        if text and not text.endswith(_UNDECODED):
            if piece := text[len(tokenizer.decode(before)) :]:
                yield piece
            before, now = now, []
    if now and (piece := tokenizer.decode([*before, *now])[len(tokenizer.decode(before)) :]):
        yield piece
