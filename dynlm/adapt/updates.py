"""Learning from a segment that was scored: the rule's step in each tensor, where the guard allows it.

Legend: B lanes, T tokens of a segment, J features of the gates, K tensors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.gates import GateScales
from dynlm.adapt.reader import Reader, StepEvent, StepObserver
from dynlm.adapt.rules.per_weight_lstm import coordinate_step_
from dynlm.adapt.state import Memory
from dynlm.adapt.update_filter import StepSizes, kept_where, step_norms
from dynlm.models.lstm.engine import Gradient, Scored, first_gradient, gradients
from dynlm.models.lstm.model import Params


def apply_updates(
    reader: Reader,
    own: Memory,
    scored: Scored,
    share_BT: Tensor,
    lanes: slice,
    observe: StepObserver | None = None,
    whole: bool = False,
    place_B2: Tensor | None = None,
) -> None:
    """Take the rule's step in the weights of ``own``, which is of ``lanes``, a gradient at a time.

    The steps that the reader's guard does not allow are not taken, nor shown to ``observe``.
    """
    rule, guard = reader.rule, reader.guard if reader.rule.learns else None
    wanted = rule.rates if rule.learns else reader.dynamic
    factors: GateScales | None = None
    if rule.gates is not None and "steepness" in rule.gates.features:
        # Steepness is of the first gradient as a whole, before any step; the softmax bias' never comes in parts.
        whole = whole or first_gradient(wanted) != "output.bias"
    sizes, nats_B = StepSizes(), torch.where(share_BT > 0, scored.nats_BT * share_BT, 0).sum(1)
    for gradient in gradients(reader.model, scored, share_BT, wanted, reader.scratch, whole, reader.native):
        name, part = gradient.name, gradient.part
        static = reader.static[name]
        theta = own.weights[name] if name in own.weights else static.expand(len(share_BT), *static.shape)
        if rule.gates is not None and own.pace is not None and factors is None:
            told_BJ = rule.gates.told(own.pace, nats_B, gradient.tensor, own.weights, reader.static, reader.scratch)
            factors = rule.gates.factors(told_BJ)
        home = own.home[name] if own.home else static
        if own.velocity:
            # Rows of an embedding that were not met go on moving: their gradients are zero, not their velocity.
            velocity = own.velocity[name][:, part].mul_(rule.momentum).add_(gradient.tensor)
            push = reader.scratch.take("push", tuple(velocity.shape), velocity).copy_(velocity)
            gradient, seen = gradient._replace(tensor=push, rows_BT=None, products=()), gradient
        else:
            seen = gradient
        shown = StepEvent(seen, gradient.tensor, theta, home, lanes, factors)
        if guard is not None and guard.track:
            sizes.add(name, step_norms(rule, gradient, factors, reader.scratch), theta[:, part])
        allowed_B = None if guard is None else guard.allowed(rule, gradient, factors, reader.scratch)
        if allowed_B is None:
            _take_step(reader, shown, gradient, observe, own.coordinates, nats_B)
        else:
            _take_allowed_steps(reader, own, shown, gradient, observe, allowed_B, place_B2, nats_B)
    if own.guarded is not None and guard is not None and guard.track:
        own.guarded.measure_(sizes, list(own.weights), share_BT)


def _take_step(
    reader: Reader,
    shown: StepEvent,
    gradient: Gradient,
    observe: StepObserver | None,
    coordinates: Params,
    nats_B: Tensor,
) -> None:
    if observe is not None:
        observe(shown)
    if coordinates:
        coordinate_step_(reader.rule, coordinates, shown.theta, gradient, shown.home, nats_B)
    elif reader.rule.learns:
        reader.rule.step_(shown.theta, gradient, shown.home, reader.native, shown.factors, reader.scratch)


def _take_allowed_steps(
    reader: Reader,
    own: Memory,
    shown: StepEvent,
    gradient: Gradient,
    observe: StepObserver | None,
    allowed_B: Tensor,
    place_B2: Tensor | None,
    nats_B: Tensor,
) -> None:
    assert reader.guard is not None and own.guarded is not None, "a guard has a place in the memory to count in"
    name, part = gradient.name, gradient.part
    own.guarded.note_(list(own.weights).index(name), ~allowed_B, place_B2)
    if own.velocity:
        kept_where(allowed_B, own.velocity[name][:, part], torch.zeros_like(gradient.tensor))
    if reader.guard.waits or observe is not None:
        for lane in allowed_B.nonzero().flatten().tolist():
            one = slice(lane, lane + 1)
            states = {key: tensor[one] for key, tensor in own.coordinates.items()}
            _take_step(reader, _of_lane(shown, lane), gradient.of_lane(lane), observe, states, nats_B[one])
        return
    theta = shown.theta[:, part]
    before = reader.scratch.take("before", tuple(theta.shape), theta).copy_(theta)
    moving = [tensor[:, part] for key, tensor in own.coordinates.items() if key.startswith(f"{name}/")]
    states_before = [tensor.clone() for tensor in moving]
    _take_step(reader, shown, gradient, None, own.coordinates, nats_B)
    for after, earlier in ((theta, before), *zip(moving, states_before, strict=True)):
        kept_where(allowed_B, after, earlier)


def _of_lane(shown: StepEvent, lane: int) -> StepEvent:
    one, at = slice(lane, lane + 1), shown.lanes.start + lane
    return StepEvent(
        shown.gradient.of_lane(lane),
        shown.push[one],
        shown.theta[one],
        shown.home[one] if shown.home.dim() == shown.theta.dim() else shown.home,
        slice(at, at + 1),
        shown.factors and GateScales(*(of_all[one] for of_all in shown.factors)),
    )
