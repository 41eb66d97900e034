"""Meta-gradients by reverse mode through an unroll that keeps everything: the general way, and the forward one's check.

First order: gradients u_t, features and the LSTM's state are constants; equal to ``memory.sensitivities`` to rounding.
Second order: nothing is, and the result is the derivative of the loss itself. The memory it takes grows with every
segment of the window; in lanes, give one window each.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from dynlm.adapt.gates import (
    Gates,
    GateScales,
    SegmentStats,
    after_segment,
    at_articles,
    at_headings,
    init_segment_stats,
)
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.learned import Meta
from dynlm.adapt.segment import shares
from dynlm.data.batch import to_batch
from dynlm.data.stream import Stream, StreamPosition
from dynlm.models.lstm.engine import first_gradient
from dynlm.models.lstm.model import Params, detached, naive_layer, restarted


def unrolled_meta_gradient(
    reader: Reader,
    meta: Meta,
    phi: Params,
    stream: Stream,
    segments: int,
    place: StreamPosition | None = None,
    second_order: bool = False,
) -> tuple[float, Params]:
    """(sum over segments of mean nats, its gradient by phi) of a fresh memory's reading in one lane.

    ``reader``'s own rule is not used: the rule is ``meta.rule(phi)``.
    """
    assert stream.local_lanes == 1
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in phi.items()}
    rule = meta.rule(leaves)
    # cuDNN's and oneDNN's LSTM have no second derivatives.
    model = dataclasses.replace(reader.model, layer=naive_layer) if second_order else reader.model
    like = reader.static["embedding"].detach()
    static = {name: tensor.detach() for name, tensor in reader.static.items()}
    theta = {name: static[name].clone().requires_grad_() for name in meta.names}
    home = dict(static)
    velocity = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
    hidden, pace = model.initial_hidden(1, like), init_segment_stats(1, like)
    place = stream.begin() if place is None else place
    total, told = torch.zeros((), dtype=like.dtype, device=like.device), 0.0
    for _ in range(segments):
        segment, place = stream.next(place)
        if segment is None:
            break
        batch = to_batch(segment, like)
        if segment.starts_B[0]:
            hidden, pace = (
                restarted(hidden, batch.starts_B),
                at_articles(pace, batch.starts_B, reader.reset == "article"),
            )
            if reader.reset == "article":
                theta, home = {name: static[name].clone().requires_grad_() for name in theta}, dict(static)
            else:
                home = {name: rule.next_home(name, theta[name], home[name], static[name]) for name in theta}
                theta = {name: theta[name] + rule.flush.get(name, 0.0) * (home[name] - theta[name]) for name in theta}
            velocity = {name: torch.zeros_like(tensor) for name, tensor in velocity.items()}
        pace = at_headings(pace, batch.headings_B)
        if not second_order:
            hidden = detached(hidden)
        read_with = theta if second_order else {n: t.detach().requires_grad_() for n, t in theta.items()}
        loss, _, hidden = model.naive_loss(
            {**static, **read_with}, batch.inputs_BT, batch.targets_BT, shares(batch), hidden
        )
        found = torch.autograd.grad(loss, list(read_with.values()), create_graph=second_order)
        u = dict(zip(read_with, found, strict=True))
        # dL / d theta_t is u_t, whatever graph theta_t has: to first order the chain from phi to theta_t does the rest.
        total = total + (loss if second_order else sum((theta[name] * u[name]).sum() for name in theta))
        told += float(loss.detach())
        factors = None
        if rule.gates is not None:
            factors = _factors(rule.gates, pace, loss, u, theta, static, second_order)
        velocity = {name: rule.momentum * tensor + u[name] for name, tensor in velocity.items()}
        theta = rule.step(theta, velocity, home, factors)
        pace = after_segment(pace, (loss if second_order else loss.detach())[None])
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return told, {
        key: torch.zeros_like(leaf) if gradient is None else gradient
        for (key, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _factors(
    gates: Gates, pace: SegmentStats, loss: Tensor, u: Params, theta: Params, static: Params, second_order: bool
) -> GateScales:
    first = u[first_gradient(u)][None]
    weights = {name: tensor[None] for name, tensor in theta.items()}
    told_1J = gates.told(pace, loss[None], first, weights, static)
    return gates.factors(told_1J if second_order else told_1J.detach())
