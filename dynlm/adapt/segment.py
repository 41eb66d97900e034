"""Score a segment, then learn from it, in blocks of lanes: only tensor operations, whose number the shapes decide.

Legend: B lanes, T tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, StepObserver
from dynlm.adapt.partners.cache import CacheInput
from dynlm.adapt.rules.base import reset_lanes_
from dynlm.adapt.state import Memory
from dynlm.adapt.updates import apply_updates
from dynlm.data.stream import Batch
from dynlm.models.protocol import Scored, reset_state
from dynlm.runtime.tree import concatenate_lanes, leaves, select_lanes
from dynlm.types import State


class _BlockResult(NamedTuple):
    """Some lanes after a segment: losses with the cache, the model's own, its state, and the cache's."""

    nats_BT: Tensor
    own_nats_BT: Tensor
    state: State
    cache: Any


def score_and_learn(
    dynamic_model: DynamicModel,
    memory: Memory,
    batch: Batch,
    busy_B: np.ndarray | None = None,
    observe: StepObserver | None = None,
) -> tuple[Tensor, Memory]:
    """Return (nats_BT, the next memory) of a segment whose articles have been started.

    The losses of a lane without an article mean nothing; a block of lanes of which none is in ``busy_B`` is skipped.
    """
    nats_BT, after = _read_lanes(dynamic_model, memory, batch, busy_B, observe)
    if dynamic_model.mixture is None:
        return nats_BT, after
    # The static model runs when the rule has learned: until then its losses and gradients need the scratch.
    beside = Memory({}, memory.mixture.state)
    static_BT, beside = _read_lanes(dynamic_model.level_1(), beside, batch, busy_B, None)
    nats_BT, mixture = dynamic_model.mixture.mix(memory.mixture, static_BT, beside.state, nats_BT, batch.mask_BT)
    return nats_BT, after._replace(mixture=mixture)


def shares(batch: Batch) -> Tensor:
    """Return each token's share_BT of its lane's mean."""
    return batch.mask_BT / batch.mask_BT.sum(1, keepdim=True).clamp(min=1)


def _read_lanes(
    dynamic_model: DynamicModel, memory: Memory, batch: Batch, busy_B: np.ndarray | None, observe: StepObserver | None
) -> tuple[Tensor, Memory]:
    (lanes, length), share_BT = batch.inputs_BT.shape, shares(batch)
    at_once = dynamic_model.engine.lanes_at_once(length, dynamic_model.rule.learns, dynamic_model.like)
    blocks = [slice(begin, min(begin + at_once, lanes)) for begin in range(0, lanes, at_once)]
    done = [
        _read_block(dynamic_model, memory, batch, lanes, observe)
        if busy_B is None or busy_B[lanes].any()
        else _skipped(select_lanes(memory._replace(mixture=None), lanes), share_BT[lanes])
        for lanes in blocks
    ]
    result = _joined(memory, done)
    rule = memory.rule
    if rule is not None:
        rule = rule._replace(lanes=dynamic_model.rule.end_segment(rule.lanes, (result.own_nats_BT * share_BT).sum(1)))
    return result.nats_BT, memory._replace(state=result.state, rule=rule, cache=result.cache)


def _read_block(
    dynamic_model: DynamicModel, memory: Memory, batch: Batch, lanes: slice, observe: StepObserver | None
) -> _BlockResult:
    own: Memory = select_lanes(memory._replace(mixture=None), lanes)
    own_batch: Batch = select_lanes(batch, lanes)
    share_BT = shares(own_batch)
    scored = _score(dynamic_model, own, own_batch, own.state)
    if dynamic_model.filter is not None and own.filter is not None:
        scored, share_BT = _restored(dynamic_model, own, own_batch, scored, share_BT)
    nats_BT, cache = scored.nats_BT, own.cache
    if dynamic_model.cache is not None and cache is not None:
        seen = CacheInput(scored.features_BTH, own_batch.targets_BT, own_batch.mask_BT, nats_BT, scored.next_tokens)
        nats_BT, cache = dynamic_model.cache.read(cache, seen, dynamic_model.engine.scratch)
    if dynamic_model.rule.learns or observe is not None:
        apply_updates(dynamic_model, own, scored, share_BT, lanes, observe, own_batch.position_B2)
    return _BlockResult(nats_BT, scored.nats_BT, scored.state, cache)


def _score(dynamic_model: DynamicModel, own: Memory, batch: Batch, state: State) -> Scored:
    return dynamic_model.engine.score(dynamic_model.static, own.params, batch.inputs_BT, batch.targets_BT, state)


def _restored(
    dynamic_model: DynamicModel, own: Memory, batch: Batch, scored: Scored, share_BT: Tensor
) -> tuple[Scored, Tensor]:
    """Return (the segment as it counts, what is learned from of it), with diverged weights restored."""
    filter_, counts = dynamic_model.filter, own.filter
    assert filter_ is not None and counts is not None
    diverged_B = filter_.diverged(scored.nats_BT, share_BT)
    if diverged_B is None:
        return scored, share_BT
    lost_B = diverged_B & ~torch.where(share_BT > 0, scored.nats_BT, 0).isfinite().all(1)
    if filter_.synchronises and lost_B.any():
        reset_lanes_(dynamic_model.rule, own.params, own.rule, dynamic_model.static, lost_B)
        # A state that these weights left may not be finite either.
        finite_B = torch.stack([tensor.flatten(1).isfinite().all(1) for _, tensor in leaves(own.state)]).all(0)
        scored = _score(
            dynamic_model,
            own,
            batch,
            reset_state(dynamic_model.model, own.state, lost_B & ~finite_B, dynamic_model.like),
        )
        counts.rescored_B.add_((share_BT > 0).sum(1) * lost_B)
    reset_lanes_(dynamic_model.rule, own.params, own.rule, dynamic_model.static, diverged_B)
    counts.count_(-1, diverged_B, batch.position_B2)
    return scored, share_BT.masked_fill(diverged_B[:, None], 0)


def _skipped(own: Memory, share_BT: Tensor) -> _BlockResult:
    nats_BT = torch.zeros_like(share_BT)
    return _BlockResult(nats_BT, nats_BT, own.state, own.cache)


def _joined(memory: Memory, done: Sequence[_BlockResult]) -> _BlockResult:
    if len(done) == 1:
        return done[0]
    # A cache's pairs are written in place: only its counts are joined.
    cache = None if memory.cache is None else memory.cache.joined([result.cache for result in done])
    rest: _BlockResult = concatenate_lanes([result._replace(cache=None) for result in done])
    return rest._replace(cache=cache)
