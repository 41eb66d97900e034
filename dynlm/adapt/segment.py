"""Score a segment, then learn from it, in blocks of lanes: only tensor operations, whose number the shapes decide.

Legend: B lanes, T tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory, StepObserver
from dynlm.adapt.partners.cache import CacheInput
from dynlm.adapt.rules.base import Rule, SegmentEvent, StepEvent, reset_lanes_
from dynlm.adapt.update_filter import UpdateFilter, add_squares_
from dynlm.data.stream import Batch
from dynlm.models.protocol import Scored
from dynlm.runtime.tree import concatenate_lanes, expand_lanes, leaves, select_lanes
from dynlm.types import Params, State


class _Block(NamedTuple):
    """A segment of some lanes, which are ``lanes`` of the whole memory: their own memory and tokens.

    ``replayed``: whether it was scored before, and is only learned from again.
    """

    dynamic_model: DynamicModel
    memory: Memory
    batch: Batch
    lanes: slice
    observe: StepObserver | None
    replayed: bool = False


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
    if after.replay is not None:
        _learn_again(dynamic_model, after, batch.mask_BT.any(1), observe)
        after = after._replace(replay=after.replay.store_(batch, memory.state))
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
    share_BT = shares(batch)
    restored_before_B = None if memory.filter is None else memory.filter.restored_B.clone()
    done = []
    for part in _parts(dynamic_model, memory, batch):
        own: Memory = select_lanes(memory._replace(mixture=None), part)
        if busy_B is None or busy_B[part].any():
            done.append(_read_block(_Block(dynamic_model, own, select_lanes(batch, part), part, observe)))
        else:
            nats_BT = torch.zeros_like(share_BT[part])
            done.append((nats_BT, nats_BT, own.state, own.cache))
    nats, own_nats, states, caches = zip(*done, strict=True)
    # A cache's pairs are written in place: only its counts are joined.
    cache = None if memory.cache is None else memory.cache.joined(caches)
    rule = memory.rule
    if rule.lanes is not None:
        nats_B = (concatenate_lanes(own_nats) * share_BT).sum(1)
        after = dynamic_model.rule.end_segment(rule.lanes, nats_B)
        if memory.filter is not None and restored_before_B is not None:
            restored_B = memory.filter.restored_B > restored_before_B
            after = dynamic_model.rule.restore_lanes(after, restored_B, dynamic_model.like)
        rule = rule._replace(lanes=after)
    return concatenate_lanes(nats), memory._replace(state=concatenate_lanes(states), rule=rule, cache=cache)


def _parts(dynamic_model: DynamicModel, memory: Memory, batch: Batch) -> Iterator[slice]:
    """Iterate over the blocks of lanes that the engine takes at once."""
    lanes, length = batch.inputs_BT.shape
    at_once = dynamic_model.engine.lanes_at_once(length, memory.params, dynamic_model.like)
    for begin in range(0, lanes, at_once):
        yield slice(begin, min(begin + at_once, lanes))


def _learn_again(dynamic_model: DynamicModel, memory: Memory, busy_B: Tensor, observe: StepObserver | None) -> None:
    """Take a step by a segment that was scored before (``partners.replay``); cache and state are not touched."""
    assert dynamic_model.replay is not None and memory.replay is not None
    if (drawn := dynamic_model.replay.draw(memory.replay, busy_B, dynamic_model.like)) is None:
        return
    batch, state = drawn
    for part in _parts(dynamic_model, memory, batch):
        own: Memory = select_lanes(memory._replace(mixture=None, cache=None), part)
        block = _Block(dynamic_model, own, select_lanes(batch, part), part, observe, replayed=True)
        scored = _score(block, select_lanes(state, part), dynamic_model.rule.tensors)
        _apply_updates(block, scored, shares(block.batch))


def _read_block(block: _Block) -> tuple[Tensor, Tensor, State, Any]:
    """Return the lanes' (losses with the cache, the model's own, its state, the cache's) after the segment."""
    dynamic_model, own, batch = block.dynamic_model, block.memory, block.batch
    share_BT, rule = shares(batch), dynamic_model.rule
    names = rule.tensors if rule.learns else dynamic_model.dynamic if block.observe is not None else ()
    scored = _score(block, own.state, names)
    if dynamic_model.filter is not None and own.filter is not None:
        scored, share_BT = _restored(block, scored, share_BT)
    nats_BT, cache = scored.nats_BT, own.cache
    if dynamic_model.cache is not None and cache is not None:
        seen = CacheInput(scored.features_BTH, batch.targets_BT, batch.mask_BT, nats_BT, scored.next_tokens)
        nats_BT, cache = dynamic_model.cache.read(cache, seen, dynamic_model.engine.scratch)
    if names:
        _apply_updates(block, scored, share_BT)
    return nats_BT, scored.nats_BT, scored.state, cache


def _score(block: _Block, state: State, names: Collection[str]) -> Scored:
    dynamic_model, own, batch = block.dynamic_model, block.memory, block.batch
    lane_params = dynamic_model.rule.with_pending(own.params, own.rule.lanes)
    return dynamic_model.engine.score(
        dynamic_model.static, lane_params, batch.inputs_BT, batch.targets_BT, state, names
    )


def _restored(block: _Block, scored: Scored, share_BT: Tensor) -> tuple[Scored, Tensor]:
    """Return (the segment as it counts, what is learned from of it), with diverged weights restored."""
    dynamic_model, own = block.dynamic_model, block.memory
    rule, static, filter_ = dynamic_model.rule, dynamic_model.static, dynamic_model.filter
    assert filter_ is not None
    diverged_B = filter_.diverged(scored.nats_BT, share_BT)
    if diverged_B is None:
        return scored, share_BT
    assert own.filter is not None
    lost_B = diverged_B & ~torch.where(share_BT > 0, scored.nats_BT, 0).isfinite().all(1)
    if filter_.synchronises and lost_B.any():
        reset_lanes_(rule, own.params, own.rule, static, lost_B)
        # A state that these weights left may not be finite either.
        finite_B = torch.stack([tensor.flatten(1).isfinite().all(1) for _, tensor in leaves(own.state)]).all(0)
        state = dynamic_model.model.reset_state(own.state, lost_B & ~finite_B, dynamic_model.like)
        scored = _score(block, state, rule.tensors)
        own.filter.rescored_B.add_((share_BT > 0).sum(1) * lost_B)
    reset_lanes_(rule, own.params, own.rule, static, diverged_B)
    own.filter.count_(-1, diverged_B, block.batch.position_B2)
    return scored, share_BT.masked_fill(diverged_B[:, None], 0)


def _apply_updates(block: _Block, scored: Scored, share_BT: Tensor) -> None:
    """Update the weights by one gradient after another; a rejected update is not applied, nor shown."""
    dynamic_model, memory = block.dynamic_model, block.memory
    engine, rule, static = dynamic_model.engine, dynamic_model.rule, dynamic_model.static
    scratch, native = engine.scratch, engine.native
    filter_ = dynamic_model.filter if rule.learns else None
    names = rule.tensors if rule.learns else dynamic_model.dynamic
    nats_B = torch.where(share_BT > 0, scored.nats_BT * share_BT, 0).sum(1)
    scales, squares, is_first = None, Params(), True
    lane_state, slots = memory.rule
    for gradient in engine.gradients(scored, share_BT, names, rule.measures_gradient):
        name, part = gradient.name, gradient.part
        theta_0 = static[name]
        theta = memory.params[name] if name in memory.params else theta_0.expand(len(share_BT), *theta_0.shape)
        if is_first:
            is_first = False
            replay = dynamic_model.replay if block.replayed else None
            replay_B = None if replay is None else torch.full_like(nats_B, replay.rate)
            segment = SegmentEvent(lane_state, nats_B, gradient, memory.params, static, scratch, replay_B)
            scales = rule.segment_scales(segment)
        own = {slot: tensors[name][:, part] for slot, tensors in slots.items()}
        u, anchor = gradient.tensor, own.get("anchor", theta_0[part])
        event = rule.prepare_(
            StepEvent(
                gradient, u, theta[:, part], anchor, own, block.lanes, nats_B, scratch, lane_state, scales, native
            )
        )
        if filter_ is not None and filter_.track and (norm_B := rule.update_norms(event)) is not None:
            add_squares_(squares, name, norm_B, event.theta)
        if filter_ is not None and not _is_within(filter_, rule, event):
            _take_where_within(block, filter_, event)
            continue
        if block.observe is not None:
            block.observe(event)
        if rule.learns:
            rule.step_(event)
    if memory.filter is not None and filter_ is not None and filter_.track and not block.replayed:
        memory.filter.measure_(squares, dynamic_model.dynamic, share_BT)


def _is_within(filter_: UpdateFilter, rule: Rule, event: StepEvent) -> bool:
    """Return whether every lane's update is known to be within its limit."""
    if not filter_.synchronises:
        return False
    limit = filter_.limits[event.name]
    if rule.update_norm_bound(event) <= limit:
        return True
    norm_B = rule.update_norms(event)
    return norm_B is not None and bool((norm_B <= limit).all())


def _take_where_within(block: _Block, filter_: UpdateFilter, event: StepEvent) -> None:
    """Take the update in the lanes where it is within its limit; count the others."""
    rule, memory, observe = block.dynamic_model.rule, block.memory, block.observe
    limit, norm_B = filter_.limits[event.name], rule.update_norms(event)
    allowed_B = None if norm_B is None else norm_B <= limit
    # What the step writes to; the slots of a rule are few, and those of one without norms are copied at each step.
    before = event.scratch.take("before", tuple(event.theta.shape), event.theta).copy_(event.theta)
    slots_before = {slot: tensor.clone() for slot, tensor in event.slots.items()}
    if observe is not None and allowed_B is not None:
        for lane in allowed_B.nonzero().flatten().tolist():
            observe(event.select_lane(lane))
    rule.step_(event)
    if allowed_B is None:
        allowed_B = torch.linalg.vector_norm((event.theta - before).flatten(1), dim=1) <= limit
    assert memory.filter is not None, "a model with an update filter reads with a memory that has its state"
    memory.filter.count_(block.dynamic_model.dynamic.index(event.name), ~allowed_B, block.batch.position_B2)
    event.theta.copy_(torch.where(expand_lanes(allowed_B, event.theta), event.theta, before))
    for slot, tensor in event.slots.items():
        tensor.copy_(torch.where(expand_lanes(allowed_B, tensor), tensor, slots_before[slot]))
    rule.reject_(event, allowed_B)
