"""The reference of ``segment``: plain operations under autograd and the rule's formula, a lane at a time.

Legend: B lanes, T tokens of a segment, V vocabulary, H the last layer's width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.gates import GateScales, after_segment
from dynlm.adapt.partners.cache import CacheState, NextTokenDistribution
from dynlm.adapt.partners.cache_reference import naive_read
from dynlm.adapt.reader import Reader, StepEvent, StepObserver
from dynlm.adapt.rules.per_weight_lstm import naive_coordinate_steps
from dynlm.adapt.segment import ReadLanes, hedge_of, lanes_of, level_1_of, put_together, shares
from dynlm.adapt.state import Memory
from dynlm.adapt.update_filter import StepSizes, restore_
from dynlm.data.batch import Batch
from dynlm.models.lstm.engine import Gradient, first_gradient
from dynlm.models.lstm.model import Hidden, Params, detached


def read_naively(reader: Reader, memory: Memory, batch: Batch, observe: StepObserver | None) -> tuple[Tensor, Memory]:
    """``score_and_learn``'s reference, mixed with level 1 where the reader asks for it: (nats_BT, the next memory)."""
    nats_BT, after = _read_by_autograd(reader, memory, batch, observe)
    if reader.hedge is None:
        return nats_BT, after
    hedge = hedge_of(memory)
    level_1_BT, beside = _read_by_autograd(level_1_of(reader), Memory({}, hedge.hidden), batch, None)
    nats_BT, hedge = reader.hedge.mix(hedge, level_1_BT, beside.hidden, nats_BT, batch.mask_BT, reference=True)
    return nats_BT, after._replace(hedge=hedge)


def _read_by_autograd(
    reader: Reader, memory: Memory, batch: Batch, observe: StepObserver | None
) -> tuple[Tensor, Memory]:
    """What the rule alone reads and learns, without level 1 beside it."""
    share_BT = shares(batch)
    rule, done = reader.rule, []
    moved: list[Params] = []
    velocities: list[Params] = []
    for lane in range(len(share_BT)):
        one = slice(lane, lane + 1)
        own = lanes_of(memory, one)
        place_12 = None if batch.position_B2 is None else batch.position_B2[one]
        theta, share_1T = {name: tensor.clone() for name, tensor in memory.of_lane(lane).items()}, share_BT[one]
        leaves, (total, nats_1T, hidden) = _scored_naively(reader, theta, batch, one, share_1T, own.hidden)
        read_with = theta
        if reader.guard is not None and own.guarded is not None and not float(total.detach()) <= reader.guard.nats:
            broken_1 = torch.ones_like(own.guarded.restored_B, dtype=torch.bool)
            restore_(own.weights, own.home, own.velocity, own.coordinates, reader.static, broken_1)
            own.guarded.note_(-1, broken_1, place_12)
            theta = memory.of_lane(lane)
            if not nats_1T[share_1T > 0].isfinite().all():
                own.guarded.rescored_B.add_((share_1T > 0).sum())
                read_with, own = theta, own._replace(hidden=_without_nan(own.hidden))
                _, nats_1T, hidden = _scored_naively(reader, theta, batch, one, share_1T, own.hidden)[1]
            # Nothing is learned from this segment.
            share_1T = 0 * share_1T
            leaves, (total, *_) = _scored_naively(reader, theta, batch, one, share_1T, own.hidden)
        told_1T, cache = nats_1T.detach(), own.cache
        if reader.cache is not None and cache is not None:
            told_1T, cache = _mixed_naively(reader, {**reader.static, **read_with}, own, cache, batch, one, told_1T)
        velocity = {name: tensor[0] for name, tensor in own.velocity.items()}
        if leaves:
            u = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
            home = {name: own.home[name][0] if own.home else reader.static[name] for name in leaves}
            factors = None
            if rule.gates is not None and own.pace is not None:
                first = u[first_gradient(u)][None]
                told_1J = rule.gates.told(own.pace, total.detach()[None], first, own.weights, reader.static)
                factors = rule.gates.factors(told_1J)
            velocity = {name: rule.momentum * tensor + u[name] for name, tensor in velocity.items()}
            push = velocity or u
            allowed = _allowed_naively(reader, own, theta, push, factors, share_1T, place_12)
            velocity = {name: v if allowed[name] else torch.zeros_like(v) for name, v in velocity.items()}
            if observe is not None:
                for name in filter(allowed.get, leaves):
                    gradient = Gradient(name, u[name][None])
                    observe(
                        StepEvent(gradient, push[name][None], leaves[name].detach()[None], home[name], one, factors)
                    )
            if rule.learns:
                if own.coordinates:
                    stepped = naive_coordinate_steps(rule, own.coordinates, allowed, theta, push, home, total)
                else:
                    stepped = rule.step(theta, push, home, factors)
                theta = {**theta, **{name: stepped[name] for name in stepped if allowed[name]}}
        done.append(ReadLanes(told_1T, nats_1T.detach(), detached(hidden), cache))
        moved.append(theta)
        velocities.append(velocity)
    nats_BT, own_BT, after, _ = put_together(memory, done)
    caches = [read.cache for read in done if read.cache is not None]
    return nats_BT, memory._replace(
        weights={name: torch.stack([theta[name] for theta in moved]) for name in memory.weights},
        hidden=after,
        pace=memory.pace and after_segment(memory.pace, (own_BT * share_BT).sum(1)),
        velocity={name: torch.stack([velocity[name] for velocity in velocities]) for name in memory.velocity},
        cache=memory.cache and CacheState(*(torch.cat(of_all) for of_all in zip(*caches, strict=True))),
    )


def _scored_naively(
    reader: Reader, theta: Params, batch: Batch, lane: slice, share_1T: Tensor, hidden: Hidden
) -> tuple[Params, tuple[Tensor, Tensor, Hidden]]:
    """(the leaves to differentiate by, the loss, nats and state) of one lane's segment."""
    leaves = {name: theta.get(name, reader.static[name]).detach().requires_grad_() for name in reader.dynamic}
    inputs_1T, targets_1T = batch.inputs_BT[lane], batch.targets_BT[lane]
    return leaves, reader.model.naive_loss({**reader.static, **leaves}, inputs_1T, targets_1T, share_1T, hidden)


def _allowed_naively(
    reader: Reader,
    own: Memory,
    theta: Params,
    push: Params,
    factors: GateScales | None,
    share_1T: Tensor,
    place_12: Tensor | None,
) -> dict[str, bool]:
    """Whether each tensor's step may be taken, by the guard's own words."""
    allowed = dict.fromkeys(push, True)
    if reader.guard is None or own.guarded is None:
        return allowed
    rule, sizes = reader.rule, StepSizes()
    for number, (name, rates) in enumerate(rule.rates.items()):
        scale = 1.0 if rule.scale is None else rule.scale[name]
        alpha = rates.alpha if factors is None else rates.alpha * factors.rate_BK[0, number]
        pulled = torch.as_tensor(rule.beta[name] if factors is None else rule.beta[name] * factors.pull_BK[0, number])
        step = (alpha * scale * push[name]).norm()
        allowed[name] = bool(step <= reader.guard.limits[name]) and bool(pulled.isfinite().all())
        if not allowed[name]:
            own.guarded.note_(list(own.weights).index(name), torch.ones_like(own.guarded.restored_B) > 0, place_12)
        sizes.add(name, step[None], theta[name][None])
    if reader.guard.track:
        own.guarded.measure_(sizes, list(own.weights), share_1T)
    return allowed


@torch.no_grad()
def _mixed_naively(
    reader: Reader, params: Params, own: Memory, cache: CacheState, batch: Batch, lane: slice, nats_1T: Tensor
) -> tuple[Tensor, CacheState]:
    """The mixture's nats of one lane by the cache's reference."""
    assert reader.cache is not None
    features_T1H, _, _ = reader.model.features(params, batch.inputs_BT[lane], own.hidden)
    logits_1TV, _ = reader.model.logits(params, batch.inputs_BT[lane], own.hidden)
    told = NextTokenDistribution(logits_1TV.softmax(-1), torch.ones_like(nats_1T)[..., None])
    features_1TH = features_T1H.transpose(0, 1)
    return naive_read(reader.cache, cache, features_1TH, batch.targets_BT[lane], batch.mask_BT[lane], nats_1T, told)


def _without_nan(hidden: Hidden) -> Hidden:
    return tuple((h.nan_to_num(0, 0, 0), c.nan_to_num(0, 0, 0)) for h, c in hidden)
