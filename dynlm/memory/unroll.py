"""THE loop: score a segment, then learn from it.

Legend: B lanes, T tokens of a segment.

Tuning, meta-training, evaluation, generation and the audit all read through ``read_segment``; only what they do with
its losses differs. The losses of segment t are those of theta_t, made before segment t is learned from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.corpus.streams import Place, Segment, Stream
from dynlm.memory.batches import to_batch
from dynlm.memory.rules import Rule, Statistics
from dynlm.memory.state import Memory, fresh_memory
from dynlm.model.lstm import LSTMLanguageModel, Params, detached, restarted

Observer = Callable[[Params, Params], None]
"""Is shown (theta_t, u_t) of each segment, between scoring and learning."""


@dataclass(frozen=True)
class Reader:
    """Everything about a reading that does not change while it reads.

    ``reset``: under "stream" the dynamic weights run through the whole text, under "article" they start afresh with
    each article. The LSTM's state starts afresh with each article under both, as in level-1 training.
    ``in_place``: whether a step writes over the memory's weights (fast) or makes new ones (the reference).
    """

    model: LSTMLanguageModel
    static: Params
    rule: Rule
    dynamic: tuple[str, ...]
    reset: str = "stream"
    in_place: bool = True

    def fresh_memory(self) -> Memory:
        return fresh_memory(self.model, self.static, self.dynamic if self.rule.learns else ())


class ReadSegment(NamedTuple):
    """One segment's outcome; ``place`` is where the stream goes on."""

    segment: Segment
    nats_T: Tensor
    memory: Memory
    place: Place


def read_segment(
    reader: Reader, memory: Memory, segment: Segment, observe: Observer | None = None
) -> tuple[Tensor, Memory]:
    """Score one lane's segment, then learn from it: (nats_T, the next memory).

    ``memory`` is used up where ``reader.in_place``: copy it first to keep it.
    """
    batch = to_batch(segment, reader.static["embedding"])
    share_BT = batch.mask_BT / max(1, segment.tokens)
    if segment.starts_B.any():
        memory = _begin_article(reader, memory, batch.starts_B)
    if not reader.rule.learns and observe is None:
        with torch.no_grad():
            _, nats_BT, hidden = reader.model.loss(
                reader.static, batch.inputs_BT, batch.targets_BT, share_BT, memory.hidden
            )
        return nats_BT[0], Memory(memory.weights, hidden)
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in memory.weights.items()}
    total, nats_BT, hidden = reader.model.loss(
        {**reader.static, **leaves}, batch.inputs_BT, batch.targets_BT, share_BT, memory.hidden
    )
    gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
    if observe is not None:
        observe(memory.weights, gradients)
    learn = reader.rule.step_ if reader.in_place else reader.rule.step
    return nats_BT[0].detach(), Memory(learn(memory.weights, gradients, reader.static), detached(hidden))


def unroll(
    reader: Reader, stream: Stream, memory: Memory | None = None, place: Place | None = None
) -> Iterator[ReadSegment]:
    """Read a one-lane stream from ``place`` (its beginning) with ``memory`` (a fresh one)."""
    memory = reader.fresh_memory() if memory is None else memory
    place = stream.begin() if place is None else place
    while True:
        segment, place = stream.next(place)
        if segment is None:
            return
        nats_T, memory = read_segment(reader, memory, segment)
        yield ReadSegment(segment, nats_T, memory, place)


def mean_nats(reader: Reader, stream: Stream) -> float:
    """Nats per token of a whole stream: a sum, divided once."""
    nats = [read.nats_T for read in unroll(reader, stream)]
    flat = torch.cat(nats)
    return float(flat.double().sum()) / len(flat)


def gradient_statistics(
    model: LSTMLanguageModel, static: Params, dynamic: tuple[str, ...], stream: Stream, tokens: int
) -> Statistics:
    """R over ``tokens`` tokens of training text, read at theta_0 in segments like those that reading learns from."""
    squares = {name: torch.zeros_like(static[name]) for name in dynamic}
    count = 0

    def observe(_: Params, gradients: Params) -> None:
        nonlocal count
        count += 1
        for name, gradient in gradients.items():
            squares[name].addcmul_(gradient, gradient)

    reader = Reader(model, static, Rule("none"), dynamic)
    memory, place = fresh_memory(model, static, dynamic), stream.begin()
    while place.tokens < tokens:
        segment, place = stream.next(place)
        if segment is None:
            break
        _, memory = read_segment(reader, memory, segment, observe)
    return Statistics({name: (square / max(1, count)).sqrt() for name, square in squares.items()})


def _begin_article(reader: Reader, memory: Memory, starts_B: Tensor) -> Memory:
    if reader.reset == "article":
        if reader.in_place:
            for name, tensor in memory.weights.items():
                tensor.copy_(reader.static[name])
        else:
            memory = Memory({name: reader.static[name].clone() for name in memory.weights}, memory.hidden)
    return Memory(memory.weights, restarted(memory.hidden, starts_B))
