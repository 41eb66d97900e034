"""Generate text with a model that has read a prompt, and learned from it if its rule learns.

Tokens are drawn from the distribution that scoring uses: with a cache or a mixture, from the mixed one. Generated text
is not learned from unless that is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.loop import read_segment, start_articles
from dynlm.adapt.next_token import predict_next
from dynlm.data.stream import Segment
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.evaluation.sampling import Sampling, Stop, decode_pieces
from dynlm.evaluation.session import Session


class Start(NamedTuple):
    """Where a continuation begins: the token that the model is given next, and the memory before it."""

    token: int
    memory: Memory


def read_prompt(session: Session, prompt: str) -> Start:
    """Read ``prompt`` in ``session`` (copy it to keep it) and return where its continuation begins.

    The prompt starts an article, or continues the unfinished one; one without tokens is as none.
    """
    tokenizer = session.trained.tokenizer
    unfinished, ids_N = session.saved.unfinished, np.zeros(0, np.int32)
    if prompt or unfinished is not None:
        session.read(prompt)
        ids_N = tokenizer.encode((unfinished.text if unfinished else "") + prompt).ids
    if len(ids_N):
        return Start(int(ids_N[-1]), session.saved.memory)
    return Start(tokenizer.start, start_article(session.dynamic_model, session.saved.memory))


def start_article(dynamic_model: DynamicModel, memory: Memory) -> Memory:
    """Return ``memory``, of one lane, at the start of an article of which nothing was read; it is written over."""
    starts_B = torch.ones(1, dtype=torch.bool, device=dynamic_model.device)
    return start_articles(dynamic_model, memory, np.ones(1, dtype=bool), starts_B)


def generate(
    session: Session, prompt: str, sampling: Sampling, stop: Stop | None = None, learn: bool = False
) -> Iterator[str]:
    """Read ``prompt`` in ``session`` (copy it to keep it) and yield the text sampled after it, in pieces."""
    start, segment = read_prompt(session, prompt), session.options.segment if learn else None
    yield from continue_text(session.dynamic_model, session.trained.tokenizer, start, sampling, stop, segment)


def continue_text(
    dynamic_model: DynamicModel,
    tokenizer: Tokenizer,
    start: Start,
    sampling: Sampling,
    stop: Stop | None = None,
    segment: int | None = None,
) -> Iterator[str]:
    """Yield, in pieces, the text of ``sample``, up to what ends it; ``start`` stays as it is."""
    stop = Stop() if stop is None else stop
    tokens = sample(dynamic_model, start, sampling, segment)
    return stop.cut(decode_pieces(tokenizer, _until(tokens, stop.tokens)))


def sample(dynamic_model: DynamicModel, start: Start, sampling: Sampling, segment: int | None = None) -> Iterator[int]:
    """Yield the tokens sampled after ``start``, which stays as it is.

    With ``segment`` the model learns from each so many tokens once they are drawn, as from a text that it reads; else
    no weights move, nothing enters a cache, and a mixture keeps its weights. Raises UserError where the memory's
    weights are not finite.
    """
    generator = torch.Generator(dynamic_model.device).manual_seed(sampling.seed)
    token, memory = start
    begun, drawn = (memory.copy() if segment else memory), [token]
    for _ in range(sampling.tokens):
        logits_V, memory = predict_next(dynamic_model, memory, token)
        token = sampling.draw(logits_V, generator)
        yield token
        drawn.append(token)
        if segment and len(drawn) > segment:
            _, memory = read_segment(dynamic_model, begun, _segment_of(drawn))
            begun, drawn = memory, [token]


def _segment_of(tokens: Sequence[int]) -> Segment:
    """Return the segment, in one lane, that predicts each of ``tokens`` but the first from the one before it."""
    ids_1N = np.array([tokens], dtype=np.int64)
    no_B, size = np.zeros(1, dtype=bool), len(tokens) - 1
    mask_BT, position_B2 = np.ones((1, size), dtype=bool), np.zeros((1, 2), dtype=np.int64)
    return Segment(ids_1N[:, :-1], ids_1N[:, 1:], mask_BT, no_B, no_B, position_B2, size)


def _until(tokens: Iterator[int], ends: frozenset[int]) -> Iterator[int]:
    """Yield ``tokens`` before the first of ``ends``."""
    for token in tokens:
        if token in ends:
            return
        yield token
