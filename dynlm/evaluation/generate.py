"""Generate text with a model that has read a prompt, and learned from it if its rule learns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.loop import start_articles
from dynlm.adapt.next_token import predict_next
from dynlm.errors import UserError
from dynlm.evaluation.session import Session


@dataclass(frozen=True)
class Sampling:
    """How many tokens are drawn, and how: from the ``top`` likeliest (0: all) at ``temperature`` (0: the likeliest).

    Raises UserError for values out of their range.
    """

    tokens: int = 200
    temperature: float = 0.8
    top: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.temperature < 0 or self.top < 0:
            raise UserError("generate needs tokens of at least 1, and temperature and top of at least 0")

    def draw(self, logits_V: Tensor, generator: torch.Generator) -> int:
        """Draw a token."""
        if self.temperature == 0:
            return int(logits_V.argmax())
        if 0 < self.top < len(logits_V):
            values, tokens = logits_V.topk(self.top)
            return int(tokens[torch.multinomial((values / self.temperature).softmax(-1), 1, generator=generator)])
        return int(torch.multinomial((logits_V / self.temperature).softmax(-1), 1, generator=generator))


def generate(session: Session, prompt: str, sampling: Sampling) -> str:
    """Read ``prompt`` in ``session`` (copy it to keep it) and return the text sampled after it.

    The prompt starts an article, or continues the unfinished one; one without tokens is as none. Generated text is not
    learned from: it enters no cache, and a mixture keeps the weights of the prompt's end.
    """
    dynamic_model, tokenizer = session.dynamic_model, session.trained.tokenizer
    unfinished, ids_N = session.saved.unfinished, np.zeros(0, np.int32)
    if prompt or unfinished is not None:
        session.read(prompt)
        ids_N = tokenizer.encode((unfinished.text if unfinished else "") + prompt).ids
    if len(ids_N):
        last, memory = int(ids_N[-1]), session.saved.memory
    else:
        last, memory = tokenizer.start, start_article(dynamic_model, session.saved.memory)
    return tokenizer.decode(sample(dynamic_model, memory, last, sampling))


def start_article(dynamic_model: DynamicModel, memory: Memory) -> Memory:
    """Return ``memory``, of one lane, at the start of an article of which nothing was read; it is written over."""
    starts_B = torch.ones(1, dtype=torch.bool, device=dynamic_model.device)
    return start_articles(dynamic_model, memory, np.ones(1, dtype=bool), starts_B)


def sample(dynamic_model: DynamicModel, memory: Memory, last: int, sampling: Sampling) -> Iterator[int]:
    """Yield the tokens sampled after ``last``, the token that the model is given next; ``memory`` stays as it is."""
    generator = torch.Generator(dynamic_model.device).manual_seed(sampling.seed)
    for _ in range(sampling.tokens):
        logits_V, memory = predict_next(dynamic_model, memory, last)
        last = sampling.draw(logits_V, generator)
        yield last
