"""Nats of each target under the softmax over the vocabulary, and their gradient, in one pass over the logits.

Legend: N positions, H width of the features, V vocabulary.

The logits of a batch are the largest tensor of training. Here they are computed a few rows at a time, turned into
their own gradient in place while they are in the processor's cache, and never stored.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS_ON_CPU = 256
_ROWS_ON_GPU = 4096


class _WeightedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, share_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        differentiate = any(ctx.needs_input_grad[:3])
        rows = _ROWS_ON_GPU if features_NH.is_cuda else _ROWS_ON_CPU
        low_precision = features_NH.dtype != weight_VH.dtype
        matrix_VH = weight_VH.to(features_NH.dtype) if low_precision else weight_VH
        nats_N = torch.empty(features_NH.shape[0], dtype=weight_VH.dtype, device=features_NH.device)
        if differentiate:
            d_features_NH = torch.empty_like(features_NH)
            d_weight_VH = torch.zeros_like(weight_VH)
            d_bias_V = torch.zeros_like(bias_V)
        buffer = None if low_precision else weight_VH.new_empty(min(rows, len(nats_N)), weight_VH.shape[0])
        for begin in range(0, len(nats_N), rows):
            part = slice(begin, begin + rows)
            features, target = features_NH[part], targets_N[part, None]
            if buffer is None:
                logits = (features @ matrix_VH.T).to(bias_V.dtype).add_(bias_V)
            else:
                logits = torch.addmm(bias_V, features, weight_VH.T, out=buffer[: len(features)])
            of_target = logits.gather(1, target)
            top = logits.amax(1, keepdim=True)
            scaled = logits.sub_(top).exp_()
            total = scaled.sum(1, keepdim=True)
            nats_N[part] = (total.log() + top - of_target).squeeze(1)
            if differentiate:
                share = share_N[part, None].to(scaled.dtype)
                d_logits = scaled.mul_(share / total).scatter_add_(1, target, -share)
                d_bias_V += d_logits.sum(0)
                d_logits = d_logits.to(features.dtype)
                torch.mm(d_logits, matrix_VH, out=d_features_NH[part])
                if low_precision:
                    d_weight_VH += d_logits.T @ features
                else:
                    d_weight_VH.addmm_(d_logits.T, features)
        if differentiate:
            ctx.save_for_backward(d_features_NH, d_weight_VH, d_bias_V)
        ctx.mark_non_differentiable(nats_N)
        return (nats_N * share_N).sum(), nats_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_features_NH, d_weight_VH, d_bias_V = ctx.saved_tensors
        return d_features_NH * d_total, d_weight_VH * d_total, d_bias_V * d_total, None, None


def weighted_nats(
    features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, share_N: Tensor
) -> tuple[Tensor, Tensor]:
    """``sum(share_N * nats_N)``, differentiable once, and ``nats_N`` itself, a constant.

    ``share_N`` is a constant weight of each position: 0 where there is nothing to score.
    """
    with torch.autocast(features_NH.device.type, enabled=False):
        total, nats_N = _WeightedNats.apply(features_NH, weight_VH, bias_V, targets_N, share_N)
    return total, nats_N
