"""A segment read the fast way: scored, and learned from, in blocks of lanes; nothing but kernels.

Legend: B lanes, T tokens of a segment, V vocabulary, H the last layer's width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.gates import SegmentStats, after_segment
from dynlm.adapt.partners.cache import CacheState, NextTokenDistribution, side_by_side
from dynlm.adapt.partners.mixture import MixtureState
from dynlm.adapt.reader import Reader, StepObserver
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.state import Memory
from dynlm.adapt.update_filter import FilterState, UpdateFilter, restore_
from dynlm.adapt.updates import apply_updates
from dynlm.data.batch import Batch
from dynlm.models.lstm.engine import Scored, forward
from dynlm.models.lstm.model import Hidden, Params, restarted

_LOGITS_BYTES_AT_A_TIME = 1 << 28


def score_and_learn(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    busy_B: np.ndarray | None = None,
    observe: StepObserver | None = None,
    whole: bool = False,
) -> tuple[Tensor, Memory]:
    """``read_segment`` once its articles are begun: nothing but kernels, whose number only the shapes decide.

    What a lane without an article reads and learns means nothing; a block of lanes of which none is in ``busy_B`` is
    passed over. With ``whole`` every tensor's gradient comes in one piece, as on a GPU.
    """
    blocks = _blocks(reader, batch)
    nats_BT, after = _read_blocks(reader, memory, batch, blocks, busy_B, observe, whole)
    if reader.hedge is None:
        return nats_BT, after
    # Only now, when the rule has learned: until then it needs the scratch of its own reading.
    hedge = hedge_of(memory)
    beside = Memory({}, hedge.hidden)
    level_1_BT, beside = _read_blocks(level_1_of(reader), beside, batch, blocks, busy_B, None, whole)
    nats_BT, hedge = reader.hedge.mix(hedge, level_1_BT, beside.hidden, nats_BT, batch.mask_BT)
    return nats_BT, after._replace(hedge=hedge)


def _read_blocks(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    blocks: Sequence[slice],
    busy_B: np.ndarray | None,
    observe: StepObserver | None,
    whole: bool,
) -> tuple[Tensor, Memory]:
    share_BT = shares(batch)
    done = [
        _read_block(reader, memory, batch, share_BT, lanes, observe, whole)
        if busy_B is None or busy_B[lanes].any()
        else _passed_over(lanes_of(memory, lanes), share_BT[lanes])
        for lanes in blocks
    ]
    nats_BT, own_BT, hidden, cache = put_together(memory, done)
    pace = memory.pace and after_segment(memory.pace, (own_BT * share_BT).sum(1))
    return nats_BT, memory._replace(hidden=hidden, pace=pace, cache=cache)


def _read_block(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    share_BT: Tensor,
    lanes: slice,
    observe: StepObserver | None,
    whole: bool,
) -> ReadLanes:
    own, share_BT = lanes_of(memory, lanes), share_BT[lanes]

    def score(hidden: Hidden) -> Scored:
        inputs_BT, targets_BT = batch.inputs_BT[lanes], batch.targets_BT[lanes]
        how = (reader.scratch, reader.precision, reader.native)
        return forward(reader.model, reader.static, own.weights, inputs_BT, targets_BT, hidden, *how)

    place_B2 = None if batch.position_B2 is None else batch.position_B2[lanes]
    scored = score(own.hidden)
    if reader.guard is not None and own.guarded is not None:
        scored, share_BT = _guarded(reader.guard, own, own.guarded, reader.static, scored, share_BT, place_B2, score)
    nats_BT, cache = scored.nats_BT, own.cache
    if reader.cache is not None and cache is not None:
        features_BTH, told = scored.layers[-1].outputs_BTH, NextTokenDistribution(scored.scaled_BTV, scored.total_BT1)
        targets_BT, mask_BT = batch.targets_BT[lanes], batch.mask_BT[lanes]
        nats_BT, cache = reader.cache.read(cache, features_BTH, targets_BT, mask_BT, nats_BT, told, reader.scratch)
    if reader.rule.learns or observe is not None:
        apply_updates(reader, own, scored, share_BT, lanes, observe, whole, place_B2)
    return ReadLanes(nats_BT, scored.nats_BT, scored.hidden, cache)


def _guarded(
    guard: UpdateFilter,
    own: Memory,
    guarded: FilterState,
    static: Params,
    scored: Scored,
    share_BT: Tensor,
    place_B2: Tensor | None,
    score: Callable[[Hidden], Scored],
) -> tuple[Scored, Tensor]:
    """(the segment as it counts, what is learned from of it), once memories that gave no sane losses are restored."""
    broken_B = guard.broken(scored.nats_BT, share_BT)
    if broken_B is None:
        return scored, share_BT
    lost_B = broken_B & ~torch.where(share_BT > 0, scored.nats_BT, 0).isfinite().all(1)
    if guard.waits and lost_B.any():
        restore_(own.weights, own.home, own.velocity, own.coordinates, static, lost_B)
        # A state that these weights left may be no better than they are.
        whole_B = torch.stack([tensor.isfinite().all(1) for layer in own.hidden for tensor in layer]).all(0)
        scored = score(restarted(own.hidden, lost_B & ~whole_B))
        guarded.rescored_B.add_((share_BT > 0).sum(1) * lost_B)
    restore_(own.weights, own.home, own.velocity, own.coordinates, static, broken_B)
    guarded.note_(-1, broken_B, place_B2)
    return scored, share_BT.masked_fill(broken_B[:, None], 0)


class ReadLanes(NamedTuple):
    """Some lanes after a segment: nats as they count, the weights' ``own`` (without a cache), and states."""

    nats_BT: Tensor
    own_BT: Tensor
    hidden: Hidden
    cache: CacheState | None


def _passed_over(own: Memory, share_BT: Tensor) -> ReadLanes:
    nats_BT = torch.zeros_like(share_BT)
    return ReadLanes(nats_BT, nats_BT, own.hidden, own.cache)


def put_together(memory: Memory, done: Sequence[ReadLanes]) -> ReadLanes:
    if len(done) == 1:
        return done[0]
    nats_BT, own_BT = torch.cat([read.nats_BT for read in done]), torch.cat([read.own_BT for read in done])
    caches = [read.cache for read in done if read.cache is not None]
    cache = memory.cache and side_by_side(memory.cache, caches)
    return ReadLanes(nats_BT, own_BT, _side_by_side([read.hidden for read in done]), cache)


def lanes_of(memory: Memory, lanes: slice) -> Memory:
    """Views of what ``lanes`` hold."""
    return Memory(
        {name: tensor[lanes] for name, tensor in memory.weights.items()},
        _of_lanes(memory.hidden, lanes),
        memory.pace and SegmentStats(*(of_all[lanes] for of_all in memory.pace)),
        {name: tensor[lanes] for name, tensor in memory.home.items()},
        {name: tensor[lanes] for name, tensor in memory.velocity.items()},
        {name: tensor[lanes] for name, tensor in memory.coordinates.items()},
        memory.cache and memory.cache.of_lanes(lanes),
        guarded=memory.guarded and memory.guarded.of_lanes(lanes),
    )


def _of_lanes(hidden: Hidden, lanes: slice) -> Hidden:
    return tuple((h[lanes], c[lanes]) for h, c in hidden)


def _side_by_side(states: Sequence[Hidden]) -> Hidden:
    """The states of some lanes after those of others, as one."""
    return tuple(
        (torch.cat([h for h, _ in layer]), torch.cat([c for _, c in layer])) for layer in zip(*states, strict=True)
    )


def lanes_at_a_time(reader: Reader, length: int) -> int:
    """How many lanes' segments of ``length`` tokens are read together."""
    embedding = reader.static["embedding"]
    by_logits = _LOGITS_BYTES_AT_A_TIME // (length * reader.model.vocabulary * embedding.element_size())
    if reader.rule.learns and embedding.device.type == "cpu":
        # Lanes with weights of their own: as many as there are cores, since more would only crowd the caches.
        by_logits = min(by_logits, torch.get_num_threads())
    return max(1, by_logits)


def _blocks(reader: Reader, batch: Batch) -> list[slice]:
    """The lanes to be read at a time."""
    lanes, length = batch.inputs_BT.shape
    at_a_time = lanes_at_a_time(reader, length)
    return [slice(begin, min(begin + at_a_time, lanes)) for begin in range(0, lanes, at_a_time)]


def shares(batch: Batch) -> Tensor:
    """Each token's share_BT of its lane's mean."""
    return batch.mask_BT / batch.mask_BT.sum(1, keepdim=True).clamp(min=1)


def level_1_of(reader: Reader) -> Reader:
    """The plain LSTM, as the mixture's other expert."""
    return dataclasses.replace(reader, rule=LEVEL_1, dynamic=(), cache=None, hedge=None, guard=None)


def hedge_of(memory: Memory) -> MixtureState:
    assert memory.hedge is not None, "a reader with a hedge reads with a memory that has one"
    return memory.hedge
