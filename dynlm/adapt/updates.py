"""Apply a rule's updates to a segment's gradients, where the update filter allows them.

Legend: B lanes, T tokens of a segment.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, StepObserver
from dynlm.adapt.rules.base import StepEvent
from dynlm.adapt.state import Memory
from dynlm.adapt.update_filter import UpdateFilter, UpdateSizes
from dynlm.models.protocol import Scored
from dynlm.runtime.tree import expand_lanes


def apply_updates(
    dynamic_model: DynamicModel,
    memory: Memory,
    scored: Scored,
    share_BT: Tensor,
    lanes: slice,
    observe: StepObserver | None = None,
    position_B2: Tensor | None = None,
) -> None:
    """Update the weights of ``memory``, which is of ``lanes``, by one gradient after another.

    A rejected update is not applied, nor shown to ``observe``. ``position_B2``: article and position of the segment.
    Seven arguments: two of them are how the reading is observed.
    """
    engine, rule, filter_ = (
        dynamic_model.engine,
        dynamic_model.rule,
        dynamic_model.filter if dynamic_model.rule.learns else None,
    )
    names = rule.tensors if rule.learns else dynamic_model.dynamic
    nats_B = torch.where(share_BT > 0, scored.nats_BT * share_BT, 0).sum(1)
    scales, sizes, is_first = None, UpdateSizes(), True
    lane_state, slots = (None, {}) if memory.rule is None else memory.rule
    for gradient in engine.gradients(scored, share_BT, names, rule.measures_gradient):
        name, part = gradient.name, gradient.part
        static = dynamic_model.static[name]
        theta = memory.params[name] if name in memory.params else static.expand(len(share_BT), *static.shape)
        if is_first:
            is_first = False
            scales = rule.segment_scales(
                lane_state, nats_B, gradient, memory.params, dynamic_model.static, engine.scratch
            )
        own = {slot: tensors[name][:, part] for slot, tensors in slots.items()}
        event = StepEvent(
            gradient,
            gradient.tensor,
            theta[:, part],
            own.get("anchor", static[part]),
            own,
            lanes,
            nats_B,
            engine.scratch,
            lane_state,
            scales,
            engine.native,
        )
        event = rule.prepare_(event)
        if filter_ is not None and filter_.track and (norm_B := rule.update_norms(event)) is not None:
            sizes.add(name, norm_B, event.theta)
        if not rule.learns:
            if observe is not None:
                observe(event)
        elif filter_ is None:
            _take(dynamic_model, event, observe)
        else:
            _take_filtered(dynamic_model, filter_, memory, event, observe, position_B2)
    if memory.filter is not None and filter_ is not None and filter_.track:
        memory.filter.measure_(sizes, list(memory.params), share_BT)


def _take(dynamic_model: DynamicModel, event: StepEvent, observe: StepObserver | None) -> None:
    if observe is not None:
        observe(event)
    dynamic_model.rule.step_(event)


def _take_filtered(
    dynamic_model: DynamicModel,
    filter_: UpdateFilter,
    memory: Memory,
    event: StepEvent,
    observe: StepObserver | None,
    position_B2: Tensor | None,
) -> None:
    """Take the update in the lanes where it is within its limit; count the others."""
    rule, limit = dynamic_model.rule, filter_.limits[event.name]
    if filter_.synchronises and rule.update_norm_bound(event) <= limit:
        _take(dynamic_model, event, observe)
        return
    norm_B = rule.update_norms(event)
    allowed_B = None if norm_B is None else norm_B <= limit
    if filter_.synchronises and allowed_B is not None and allowed_B.all():
        _take(dynamic_model, event, observe)
        return
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
    memory.filter.count_(list(memory.params).index(event.name), ~allowed_B, position_B2)
    event.theta.copy_(torch.where(expand_lanes(allowed_B, event.theta), event.theta, before))
    for slot, tensor in event.slots.items():
        tensor.copy_(torch.where(expand_lanes(allowed_B, tensor), tensor, slots_before[slot]))
    rule.reject_(event, allowed_B)
