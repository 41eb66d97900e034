"""Meta-gradients by reverse mode through an unroll that keeps everything: the check of the forward ones.

First order: gradients u_t, features and the model's state are constants; equal to the forward ones to rounding.
Second order: nothing is, and the result is the derivative of the loss itself. Memory grows with every segment of the
window; one lane.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.gates import Gates, GateScales, SegmentStats
from dynlm.adapt.rules.base import SegmentEvent
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.online_rate import OnlineShift
from dynlm.adapt.segment import shares
from dynlm.data.stream import Batch, Stream, StreamPosition, to_batch
from dynlm.models.protocol import Gradient, token_nats
from dynlm.runtime.tree import detach
from dynlm.types import Params, State


def unrolled_meta_gradient(
    dynamic_model: DynamicModel,
    meta: LearnedRule,
    phi: Params,
    stream: Stream,
    segments: int,
    place: StreamPosition | None = None,
    second_order: bool = False,
) -> tuple[float, Params]:
    """Return (sum over segments of mean nats, its gradient by phi) of a fresh memory's reading in one lane.

    The rule is ``meta.rule(phi)``, not the model's own. Seven arguments: a reference, called by tests.
    """
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in phi.items()}
    rule = meta.rule(leaves)
    model = dynamic_model.model.twice_differentiable() if second_order else dynamic_model.model
    like, static = dynamic_model.like, {name: tensor.detach() for name, tensor in dynamic_model.static.items()}
    theta = {name: static[name].clone().requires_grad_() for name in meta.names}
    anchor, running, steps = dict(static), _zeros(theta), 0
    state = model.init_state(1, like)
    stats = SegmentStats.initial(1, like, False, bool(rule.boundary.slow_step), bool(rule.decay_step))
    moved = {name: torch.zeros_like(tensor) for name, tensor in static.items()}
    decayed = {name: moved[name] for name in theta}
    place = stream.begin() if place is None else place
    past: list[tuple[Batch, State]] = []
    total, nats = torch.zeros((), dtype=like.dtype, device=like.device), 0.0
    for _ in range(segments):
        segment, place = stream.next(place)
        if segment is None:
            break
        batch = to_batch(segment, like)
        if segment.starts_B[0]:
            fresh = dynamic_model.reset == "article"
            past = []
            state = model.reset_state(state, batch.starts_B, like)
            stats = stats.start_articles(batch.starts_B, fresh)
            moved = {
                name: rule.boundary.slow_share(name, 1.0) * (theta[name] - anchor[name]).detach() for name in theta
            }
            theta, anchor = _started(rule, theta, anchor, static, None if fresh else stats)
            kept = {
                name: 0.0 if fresh else 1 - torch.as_tensor(rule.boundary.reset.get(name, 0.0)).detach()
                for name in theta
            }
            decayed = {name: kept[name] * tensor for name, tensor in decayed.items()}
            if fresh or rule.moments is None:
                running, steps = _zeros(theta), 0
        stats = stats.complete_headings(batch.headings_B)
        state = state if second_order else detach(state)
        scored_from = state
        read_with = theta if second_order else {n: t.detach().requires_grad_() for n, t in theta.items()}
        output = model.forward({**static, **read_with}, state, batch.inputs_BT)
        state = output.state
        loss = (token_nats(output.logits_BTV, batch.targets_BT) * shares(batch)).sum()
        found = torch.autograd.grad(loss, list(read_with.values()), create_graph=second_order)
        u = dict(zip(read_with, found, strict=True))
        # dL / d theta_t is u_t, whatever graph theta_t has: to first order the chain from phi to theta_t does the rest.
        total = total + (loss if second_order else sum((theta[name] * u[name]).sum() for name in theta))
        nats += float(loss.detach())
        scales = None
        if rule.gates is not None:
            loss_1 = (loss if second_order else loss.detach())[None]
            first = u[model.output_tensor(u)][None]
            scales = _scales(rule.gates, stats, (loss_1, first), theta, static)
        if stats.decay_shift is not None:
            ones = torch.ones(1, len(theta), dtype=like.dtype)
            scales = GateScales(ones[:, :0], ones, ones) if scales is None else scales
            scales = scales._replace(decay_shift_B=stats.decay_shift.shift_B)
        steps += 1
        running = {name: _next_running(rule, before, u[name]) for name, before in running.items()}
        update = {name: _update(rule, *sums, steps) for name, sums in running.items()}
        if stats.decay_shift is not None:
            assert scales is not None
            stats = stats._replace(decay_shift=_with_slope(stats.decay_shift, u, decayed))
            for index, (name, weights) in enumerate(theta.items()):
                beta = torch.clamp(rule.beta[name] * scales.of_tensor(index)[1][0], max=1)
                decayed[name] = (decayed[name] + beta * (anchor[name] - weights - decayed[name])).detach()
        theta = rule.step(theta, update, anchor, scales)
        if stats.slow_shift is not None:
            stats = stats._replace(slow_shift=_with_slope(stats.slow_shift, u, moved))
        stats = stats.end_segment(
            (loss if second_order else loss.detach())[None], rule.boundary.slow_step, rule.decay_step
        )
        if dynamic_model.replay is not None:
            theta = _learned_again(dynamic_model, rule, theta, (anchor, static), past, stats)
            if batch.inputs_BT.shape[1] == dynamic_model.replay.tokens:
                past.append((batch, scored_from))
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return nats, {
        key: torch.zeros_like(leaf) if gradient is None else gradient
        for (key, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _learned_again(
    dynamic_model: DynamicModel,
    rule: ElementwiseRule,
    theta: Params,
    anchors: tuple[Params, Params],
    past: list[tuple[Batch, State]],
    stats: SegmentStats,
) -> Params:
    """Return the weights after the step by an earlier segment of the article."""
    (anchor, static), replay, model = anchors, dynamic_model.replay, dynamic_model.model
    assert replay is not None
    held = past[-replay.segments :]
    if not held:
        return theta
    # The buffer is a ring: its first slots may hold the latest segments.
    ring = {number % replay.segments: number for number in range(len(past) - len(held), len(past))}
    batch, state = past[ring[int(len(past) * 0.6180339887498949 % 1 * len(held))]]
    read_with = {n: t.detach().requires_grad_() for n, t in theta.items()}
    output = model.forward({**static, **read_with}, state, batch.inputs_BT)
    loss = (token_nats(output.logits_BTV, batch.targets_BT) * shares(batch)).sum()
    u = dict(zip(read_with, torch.autograd.grad(loss, list(read_with.values())), strict=True))
    if rule.gates is not None:
        scales = _scales(rule.gates, stats, (loss.detach()[None], u[model.output_tensor(u)][None]), theta, static)
    else:
        ones = torch.ones(1, len(theta), dtype=dynamic_model.like.dtype)
        scales = GateScales(ones[:, :0], ones, ones)
    replay_B = torch.full((1,), replay.rate, dtype=dynamic_model.like.dtype)
    return rule.step(theta, u, anchor, scales._replace(replay_B=replay_B))


def _with_slope(shift: OnlineShift, u: Params, moved: Params) -> OnlineShift:
    """Return the shift with the hypergradient <u, m> of a segment."""
    slope = sum((u[name].detach() * moved[name]).sum() for name in u)
    return shift._replace(slope_B=torch.as_tensor(slope)[None])


def _zeros(theta: Params) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the running sums of gradients and of their squares before any."""
    return {name: (torch.zeros_like(tensor), torch.zeros_like(tensor)) for name, tensor in theta.items()}


def _next_running(rule: ElementwiseRule, before: tuple[Tensor, Tensor], u: Tensor) -> tuple[Tensor, Tensor]:
    """Return the running sums after a gradient."""
    if rule.moments is None:
        return rule.momentum * before[0] + u, before[1]
    beta1, beta2 = rule.moments
    return beta1 * before[0] + (1 - beta1) * u, beta2 * before[1] + (1 - beta2) * u**2


def _update(rule: ElementwiseRule, mean: Tensor, square: Tensor, steps: int) -> Tensor:
    """Return what the step subtracts in proportion to."""
    if rule.moments is None:
        return mean
    beta1, beta2 = rule.moments
    return mean / (1 - beta1**steps) / ((square / (1 - beta2**steps)).sqrt() + 1e-8)


def _started(
    rule: ElementwiseRule, theta: Params, anchor: Params, static: Params, stats: SegmentStats | None
) -> tuple[Params, Params]:
    """Return the weights and the anchor that the next article starts with; without ``stats``, fresh ones."""
    if stats is None:
        return {name: static[name].clone().requires_grad_() for name in theta}, dict(static)
    anchor = {name: rule.boundary.next_anchor(name, theta[name], anchor[name], static[name], stats) for name in theta}
    share: Mapping[str, float | Tensor] = rule.boundary.reset
    return {name: theta[name] + share.get(name, 0.0) * (anchor[name] - theta[name]) for name in theta}, anchor


def _scales(
    gates: Gates, stats: SegmentStats, segment: tuple[Tensor, Tensor], theta: Params, static: Params
) -> GateScales:
    """Return the multipliers of a segment (mean nats, first gradient), whose features are constants at first order."""
    loss_1, first = segment
    weights = {name: tensor[None] for name, tensor in theta.items()}
    features_1J = gates.features_of(SegmentEvent(stats, loss_1, Gradient("first", first), weights, static))
    return gates.scales(features_1J if loss_1.requires_grad else features_1J.detach())
