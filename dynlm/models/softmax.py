"""Losses of the next token from logits, in few passes over memory.

Legend: B lanes, T tokens of a segment, N = B T, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ELEMENTS_AT_ONCE = 1 << 18
"""Logits that stay in a core's cache from one operation to the next."""


class NextTokenDistribution(NamedTuple):
    """The model's distribution before the target is known: p = scaled / total, the most probable token scaled to 1."""

    scaled_BTV: Tensor
    total_BT1: Tensor

    @classmethod
    def of(cls, logits_BTV: Tensor) -> NextTokenDistribution:
        """Return the distribution of these logits."""
        return cls(*_softmax(logits_BTV)[:2])


def nats_and_distribution(logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, NextTokenDistribution]:
    """Return each target's negative log probability in nats (B, T), differentiable once, and the distributions."""
    nats_BT, scaled_BTV, total_BT1 = _TokenNats.apply(logits_BTV, targets_BT)
    return nats_BT, NextTokenDistribution(scaled_BTV, total_BT1)


class _TokenNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_BTV: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scaled_BTV, total_BT1, top_BT1 = _softmax(logits_BTV)
        nats_BT1 = total_BT1.log() + top_BT1 - logits_BTV.gather(2, targets_BT[..., None])
        ctx.mark_non_differentiable(scaled_BTV, total_BT1)
        ctx.save_for_backward(scaled_BTV, total_BT1, targets_BT)
        ctx.set_materialize_grads(False)
        return nats_BT1[..., 0], scaled_BTV, total_BT1

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """d nats / d logits: the probabilities, minus 1 at the target."""
        scaled_BTV, total_BT1, targets_BT = ctx.saved_tensors
        d_nats_BT1 = gradients[0][..., None]
        d_logits_BTV = scaled_BTV * (d_nats_BT1 / total_BT1)
        return d_logits_BTV.scatter_add_(2, targets_BT[..., None], -d_nats_BT1), None


def _softmax(logits_BTV: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (scaled_BTV, total_BT1, top_BT1), where log p = logits - top - log(total)."""
    logits_NV = logits_BTV.flatten(0, 1)
    scaled_NV, top_N1 = torch.empty_like(logits_NV), logits_NV.new_empty(len(logits_NV), 1)
    total_N1 = torch.empty_like(top_N1)
    rows = len(logits_NV) if logits_NV.is_cuda else max(1, _ELEMENTS_AT_ONCE // logits_NV.shape[1])
    for part, scaled, top, total in zip(
        *(t.split(rows) for t in (logits_NV, scaled_NV, top_N1, total_N1)), strict=True
    ):
        torch.amax(part, 1, keepdim=True, out=top)
        torch.sum(torch.sub(part, top, out=scaled).exp_(), 1, keepdim=True, out=total)
    shape = logits_BTV.shape[:2]
    scaled_BTV, total_BT1, top_BT1 = (t.unflatten(0, shape) for t in (scaled_NV, total_N1, top_N1))
    return scaled_BTV, total_BT1, top_BT1
