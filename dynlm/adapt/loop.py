"""THE loop: score a segment, then learn from it.

Legend: B lanes, T tokens of a segment, 2 experts of a mixture.

Tuning, meta-training, evaluation, generation and the audit all read through ``read_segment``; only what they do with
its losses differs. The losses of segment t are those of theta_t, made before segment t is learned from. Lanes read
articles side by side, each with dynamic weights and a state of its own: nothing passes from one to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.gates import at_articles, at_headings
from dynlm.adapt.reader import Reader, StepEvent, StepObserver
from dynlm.adapt.rules.elementwise import LEVEL_1, Statistics
from dynlm.adapt.rules.per_weight_lstm import begin_coordinates_
from dynlm.adapt.segment import score_and_learn
from dynlm.adapt.segment_reference import read_naively
from dynlm.adapt.state import Memory
from dynlm.data.batch import to_batch
from dynlm.data.stream import Segment, Stream, StreamPosition
from dynlm.models.lstm.model import LSTMLanguageModel, Params, restarted


class SegmentResult(NamedTuple):
    """One segment's outcome: nats (that mean something under its mask) and ``place``, where the stream goes on."""

    segment: Segment
    nats_BT: Tensor
    memory: Memory
    place: StreamPosition

    @property
    def nats_T(self) -> Tensor:
        """The nats of a reading in one lane."""
        (nats_T,) = self.nats_BT
        return nats_T

    @property
    def experts_BT2(self) -> Tensor:
        """What level 1 and the rule lost, where ``nats_BT`` are those of their mixture."""
        assert self.memory.hedge is not None and self.memory.hedge.experts_BT2 is not None, "no mixture was read"
        return self.memory.hedge.experts_BT2


def read_segment(
    reader: Reader, memory: Memory, segment: Segment, observe: StepObserver | None = None
) -> tuple[Tensor, Memory]:
    """Score a segment, then learn from it: (nats_BT, the next memory).

    Each lane learns from the mean of its own nats. ``memory`` is used up (its weights are written over): copy it first
    to keep it. ``observe`` is shown gradients in parts.
    """
    batch = to_batch(segment, reader.static["embedding"])
    if segment.starts_B.any():
        memory = begin_articles(reader, memory, segment.starts_B, batch.starts_B)
    if memory.pace is not None:
        # Only learning looks at it, and learning comes after scoring.
        memory = memory._replace(pace=at_headings(memory.pace, batch.headings_B))
    if reader.reference:
        return read_naively(reader, memory, batch, observe)
    return score_and_learn(reader, memory, batch, np.any(segment.mask_BT, axis=1), observe)


def begin_articles(reader: Reader, memory: Memory, starts: np.ndarray, starts_B: Tensor) -> Memory:
    """Forget what is not to be carried into the articles that ``starts`` marks (``starts_B`` on the device)."""
    for lane in starts.nonzero()[0] if memory.weights else ():
        _begin_article(reader, memory, int(lane))
    pace = memory.pace and at_articles(memory.pace, starts_B, reader.reset == "article")
    cache = memory.cache
    if reader.cache is not None and cache is not None:
        cache = reader.cache.begin_articles(cache, starts_B, empty=reader.reset == "article")
    hedge = memory.hedge and memory.hedge.begin_articles(starts_B, reader.reset == "article")
    return memory._replace(hidden=restarted(memory.hidden, starts_B), pace=pace, cache=cache, hedge=hedge)


def _begin_article(reader: Reader, memory: Memory, lane: int) -> None:
    """What the last article taught is taken into home as far as the rule says, and is flushed as far as it says."""
    rule = reader.rule
    for name, tensor in memory.weights.items():
        theta, theta_0 = tensor[lane], reader.static[name]
        home = memory.home[name][lane] if memory.home else theta_0
        if reader.reset == "article":
            theta.copy_(theta_0)
            if memory.home:
                home.copy_(theta_0)
        else:
            if memory.home:
                home.copy_(rule.next_home(name, theta, home, theta_0))
            if share := float(rule.flush.get(name, 0.0)):
                theta.copy_(home) if share >= 1 else theta.lerp_(home, share)
        if memory.velocity:
            memory.velocity[name][lane].zero_()
    if reader.reset == "article":
        begin_coordinates_(memory.coordinates, lane)


def iter_segments(
    reader: Reader,
    stream: Stream,
    memory: Memory | None = None,
    place: StreamPosition | None = None,
    observe: StepObserver | None = None,
) -> Iterator[SegmentResult]:
    """Read a stream from ``place`` (its beginning) with ``memory`` (a fresh one), in the stream's lanes."""
    memory = reader.fresh_memory(stream.local_lanes) if memory is None else memory
    place = stream.begin() if place is None else place
    # Gates, slow weights, velocities, states of coordinates, caches and mixtures are not recorded.
    plain = observe is None and not any(
        (
            memory.pace,
            memory.home,
            memory.velocity,
            memory.coordinates,
            memory.cache is not None,
            memory.hedge is not None,
        )
    )
    recording = reader.record(reader, memory, stream.segment) if plain and reader.record is not None else None
    while True:
        segment, place = stream.next(place)
        if segment is None:
            return
        if recording is None:
            nats_BT, memory = read_segment(reader, memory, segment, observe)
        else:
            nats_BT, memory = recording.read(memory, segment)
        yield SegmentResult(segment, nats_BT, memory, place)


def mean_nats(reader: Reader, stream: Stream) -> float:
    """Nats per token of a whole stream: a sum, divided once."""
    nats = [read.nats_BT[torch.from_numpy(read.segment.mask_BT)] for read in iter_segments(reader, stream)]
    flat = torch.cat(nats)
    return float(flat.double().sum()) / len(flat)


def gradient_statistics(
    model: LSTMLanguageModel, static: Params, dynamic: tuple[str, ...], stream: Stream, tokens: int
) -> Statistics:
    """R over ``tokens`` tokens of training text, read at theta_0 in segments like those that reading learns from."""
    squares = {name: torch.zeros_like(static[name]) for name in dynamic}
    count = 0

    def observe(shown: StepEvent) -> None:
        for u in shown.gradient.tensor:
            squares[shown.gradient.name][shown.gradient.part].addcmul_(u, u)

    reader = Reader(model, static, LEVEL_1, dynamic)
    for read in iter_segments(reader, stream, observe=observe):
        count += int(read.segment.mask_BT.any(1).sum())
        if read.place.tokens >= tokens:
            break
    return Statistics({name: (square / max(1, count)).sqrt() for name, square in squares.items()})
