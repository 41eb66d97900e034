"""THE loop: score a segment, then learn from it.

Legend: B lanes, T tokens of a segment, 2 experts of a mixture.

Tuning, meta-training, evaluation, generation and the protocol check all read through ``read_segment``; only what they
do with its losses differs. The losses of segment t are those of theta_t, computed before segment t is learned from.
Lanes read articles side by side, each with dynamic weights and a state of its own: nothing passes from one to another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory, StepObserver
from dynlm.adapt.rules.base import reset_lane_
from dynlm.adapt.segment import score_and_learn
from dynlm.data.stream import Batch, Segment, Stream, StreamPosition, to_batch
from dynlm.runtime.tree import select_lanes


class SegmentResult(NamedTuple):
    """One segment's losses in nats (defined under its mask), the memory after it, and where the stream goes on."""

    segment: Segment
    nats_BT: Tensor
    memory: Memory
    position: StreamPosition

    @property
    def nats_T(self) -> Tensor:
        """The losses of a reading in one lane."""
        (nats_T,) = self.nats_BT
        return nats_T

    @property
    def experts_BT2(self) -> Tensor:
        """The losses of the static model and of the rule, where ``nats_BT`` are those of their mixture."""
        return self.memory.mixture.experts_BT2[:, : self.nats_BT.shape[1]]


def read_segment(
    dynamic_model: DynamicModel, memory: Memory, segment: Segment, observe: StepObserver | None = None
) -> tuple[Tensor, Memory]:
    """Score a segment, then learn from it: return (nats_BT, the next memory).

    Each lane learns from the mean of its own nats. ``memory`` is used up (its weights are written over): copy it first
    to keep it. ``observe`` is shown the gradients.
    """
    batch = to_batch(segment, dynamic_model.like, segment.longest if dynamic_model.model.pads_segments else None)
    memory = start_segment(dynamic_model, memory, segment.starts_B, batch)
    nats_BT, memory = score_and_learn(dynamic_model, memory, batch, np.any(segment.mask_BT, axis=1), observe)
    length = segment.mask_BT.shape[1]
    if padding := nats_BT.shape[1] - length:
        memory = _without_last(dynamic_model, memory, padding)
    return nats_BT[:, :length], memory


def _without_last(dynamic_model: DynamicModel, memory: Memory, padding: int) -> Memory:
    """Take padding out of the model's state, which an unfinished article goes on with."""
    model, mixture = dynamic_model.model, memory.mixture
    if mixture is not None:
        mixture = mixture._replace(state=model.without_last(mixture.state, padding))
    return memory._replace(state=model.without_last(memory.state, padding), mixture=mixture)


def start_segment(dynamic_model: DynamicModel, memory: Memory, starts: np.ndarray, batch: Batch) -> Memory:
    """Start the articles that ``starts`` marks (``batch.starts_B``, without waiting for a device), and the segment."""
    if starts.any():
        memory = start_articles(dynamic_model, memory, starts, batch.starts_B)
    if memory.rule.lanes is not None:
        # Only learning looks at it, and learning comes after scoring.
        lanes = dynamic_model.rule.start_segment(memory.rule.lanes, batch.headings_B)
        memory = memory._replace(rule=memory.rule._replace(lanes=lanes))
    return memory


def start_articles(dynamic_model: DynamicModel, memory: Memory, starts: np.ndarray, starts_B: Tensor) -> Memory:
    """Forget what is not carried over into the articles that ``starts`` marks (``starts_B`` on the device)."""
    fresh, rule = dynamic_model.reset == "article", memory.rule
    for lane in starts.nonzero()[0] if memory.params else ():
        if fresh:
            reset_lane_(dynamic_model.rule, memory.params, rule, dynamic_model.static, int(lane))
            continue
        lane_state = select_lanes(rule.lanes, slice(lane, lane + 1))
        for name, tensor in memory.params.items():
            slots = {slot: tensors[name][lane] for slot, tensors in rule.slots.items()}
            dynamic_model.rule.carry_over_(name, tensor[lane], slots, dynamic_model.static[name], lane_state)
    if rule.lanes is not None:
        rule = rule._replace(lanes=dynamic_model.rule.start_articles(rule.lanes, starts_B, fresh, dynamic_model.like))
    cache, mixture, replay = memory.cache, memory.mixture, memory.replay
    if dynamic_model.cache is not None and cache is not None:
        cache = dynamic_model.cache.begin_articles(cache, starts_B, empty=fresh)
    if mixture is not None:
        static_state = dynamic_model.model.reset_state(mixture.state, starts_B, dynamic_model.like)
        mixture = mixture.start_articles(starts_B, fresh)._replace(state=static_state)
    if replay is not None:
        replay = replay.start_articles(starts_B)
    state = dynamic_model.model.reset_state(memory.state, starts_B, dynamic_model.like)
    return memory._replace(state=state, rule=rule, cache=cache, mixture=mixture, replay=replay)


def iter_segments(
    dynamic_model: DynamicModel,
    stream: Stream,
    memory: Memory | None = None,
    position: StreamPosition | None = None,
    observe: StepObserver | None = None,
) -> Iterator[SegmentResult]:
    """Read a stream from ``position`` (its beginning) with ``memory`` (a fresh one), in the stream's lanes."""
    memory = dynamic_model.fresh_memory(stream.local_lanes) if memory is None else memory
    position = stream.begin() if position is None else position
    captured = _captured(dynamic_model, memory, stream) if observe is None else None
    while True:
        segment, position = stream.next(position)
        if segment is None:
            return
        if captured is None:
            nats_BT, memory = read_segment(dynamic_model, memory, segment, observe)
        else:
            nats_BT, memory = captured(memory, segment)
        yield SegmentResult(segment, nats_BT, memory, position)


def _captured(
    dynamic_model: DynamicModel, memory: Memory, stream: Stream
) -> Callable[[Memory, Segment], tuple[Tensor, Memory]] | None:
    """Return ``read_segment`` by a recording of one segment's kernels, which moves the weights of ``memory`` in place.

    None where the engine records nothing, and where a plug-in's state is a new value after each segment.
    """
    if memory.rule.lanes is not None or memory.rule.slots:
        return None
    if any(state is not None for state in (memory.cache, memory.mixture, memory.replay)):
        return None
    filter_ = dynamic_model.filter and dataclasses.replace(dynamic_model.filter, synchronises=False)
    quiet = dataclasses.replace(dynamic_model, filter=filter_)

    def step(inputs: tuple[Batch, Memory]) -> tuple[Tensor, Memory]:
        batch, now = inputs
        nats_BT, after = score_and_learn(quiet, memory._replace(state=now), batch)
        return nats_BT, after.state

    like, lanes = dynamic_model.like, stream.local_lanes
    tokens_BT = like.new_zeros(lanes, stream.segment, dtype=torch.int64)
    flags_B = like.new_zeros(lanes, dtype=torch.bool)
    position_B2 = like.new_zeros(lanes, 2, dtype=torch.int64)
    batch = Batch(tokens_BT, tokens_BT, like.new_zeros(lanes, stream.segment), flags_B, flags_B, position_B2)
    recorded = dynamic_model.engine.capture(step, (batch, memory.state), (memory.params, memory.filter))
    if recorded is None:
        return None
    weights = memory.params

    def read(now: Memory, segment: Segment) -> tuple[Tensor, Memory]:
        assert now.params is weights, "a recording moves the weights that it was made for"
        length = segment.mask_BT.shape[1]
        batch = to_batch(segment, like, stream.segment)
        now = start_segment(dynamic_model, now, segment.starts_B, batch)
        nats_BT, state = recorded((batch, now.state))
        return nats_BT[:, :length], now._replace(state=state)

    return read


def mean_nats(dynamic_model: DynamicModel, stream: Stream) -> float:
    """Return nats per token of a whole stream: a sum, divided once."""
    nats = [read.nats_BT[torch.from_numpy(read.segment.mask_BT)] for read in iter_segments(dynamic_model, stream)]
    flat = torch.cat(nats)
    return float(flat.double().sum()) / len(flat)
