"""Nats of each target under the softmax over the vocabulary, and their gradient, without storing the logits.

Legend: N positions, H width of the features, V vocabulary, W entries of a block of the vocabulary.

The logits of a batch are the largest tensor of training. Here a part of them at a time is computed and turned into its
own gradient in place, while it is in the processor's cache. Float32 logits are computed once, some positions at a time.
Where the features have a lower precision, products cost little beside the passes over the logits: these are computed
twice, some entries of the vocabulary at a time, first for the normaliser and then for the gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_ROWS_ON_CPU = 256
_ROWS_ON_GPU = 4096
_ENTRIES_ON_CPU = 512
_ENTRIES_ON_GPU = 16384


class _Softmax(NamedTuple):
    """What a loss is computed from."""

    features_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor
    targets_N: Tensor
    share_N: Tensor


_Gradients = tuple[Tensor, Tensor, Tensor]
"""Of the features, the weight and the bias."""


class _WeightedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, share_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        softmax = _Softmax(features_NH, weight_VH, bias_V, targets_N, share_N)
        run = _by_positions if features_NH.dtype == weight_VH.dtype else _by_entries
        nats_N, gradients = run(softmax, any(ctx.needs_input_grad[:3]))
        if gradients is not None:
            ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(nats_N)
        return (nats_N * share_N).sum(), nats_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # In training the total is the loss itself. On a GPU looking at its gradient would wait for the device.
        is_loss = d_total.device.type == "cpu" and d_total.item() == 1
        gradients = ctx.saved_tensors if is_loss else [gradient * d_total for gradient in ctx.saved_tensors]
        return *gradients, None, None


def _by_positions(softmax: _Softmax, differentiate: bool) -> tuple[Tensor, _Gradients | None]:
    """Return nats_N and the gradients, from the logits of some positions at a time."""
    features_NH, weight_VH, bias_V, targets_N, share_N = softmax
    rows = _ROWS_ON_GPU if features_NH.is_cuda else _ROWS_ON_CPU
    nats_N = features_NH.new_empty(len(features_NH))
    d_features_NH = torch.empty_like(features_NH) if differentiate else None
    d_weight_VH = torch.empty_like(weight_VH) if len(nats_N) else torch.zeros_like(weight_VH)
    d_bias_V = torch.zeros_like(bias_V)
    buffer = weight_VH.new_empty(min(rows, len(nats_N)), len(weight_VH))
    for begin in range(0, len(nats_N), rows):
        part = slice(begin, begin + rows)
        features, target = features_NH[part], targets_N[part, None]
        logits = torch.addmm(bias_V, features, weight_VH.T, out=buffer[: len(features)])
        of_target = logits.gather(1, target)
        top = logits.amax(1, keepdim=True)
        scaled = logits.sub_(top).exp_()
        total = scaled.sum(1, keepdim=True)
        nats_N[part] = (total.log() + top - of_target).squeeze(1)
        if d_features_NH is not None:
            share = share_N[part, None].to(scaled.dtype)
            d_logits = scaled.mul_(share / total).scatter_add_(1, target, -share)
            d_bias_V += d_logits.sum(0)
            torch.mm(d_logits, weight_VH, out=d_features_NH[part])
            # The first product is written over what the memory held.
            d_weight_VH.addmm_(d_logits.T, features, beta=0 if begin == 0 else 1)
    return nats_N, None if d_features_NH is None else (d_features_NH, d_weight_VH, d_bias_V)


def _by_entries(softmax: _Softmax, differentiate: bool) -> tuple[Tensor, _Gradients | None]:
    """Return what ``_by_positions`` returns, from the logits of some entries of the vocabulary at a time.

    Products have the features' precision; sums, and the gradients of the weight and the bias, have the weight's.
    """
    features_NH, weight_VH, bias_V, targets_N, share_N = softmax
    dtype, low = weight_VH.dtype, features_NH.dtype
    matrix_VH = weight_VH.to(low)
    entries = _ENTRIES_ON_GPU if features_NH.is_cuda else _ENTRIES_ON_CPU
    blocks = [slice(begin, begin + entries) for begin in range(0, len(weight_VH), entries)]

    def logits_of(block: slice) -> Tensor:
        return torch.mm(features_NH, matrix_VH[block].T).to(dtype).add_(bias_V[block])

    normalisers = []
    for block in blocks:
        logits_NW = logits_of(block)
        top_N1 = logits_NW.amax(1, keepdim=True)
        normalisers.append(logits_NW.sub_(top_N1).exp_().sum(1).log_().add_(top_N1[:, 0]))
    log_total_N = torch.logsumexp(torch.stack(normalisers), 0)
    features, of_targets = features_NH.to(dtype), matrix_VH[targets_N].to(dtype)
    # Rounded as the products are.
    nats_N = log_total_N - ((features * of_targets).sum(1).to(low).to(dtype) + bias_V[targets_N])
    if not differentiate:
        return nats_N, None
    share_N = share_N.to(dtype)
    d_features_NH = of_targets.mul_(-share_N[:, None])
    d_weight_VH, d_bias_V = torch.empty_like(weight_VH), torch.empty_like(bias_V)
    # A share of 0 has an infinite shift, and gradients of 0.
    shift_N1 = (log_total_N - share_N.log())[:, None]
    for block in blocks:
        d_logits_NW = logits_of(block).sub_(shift_N1).exp_()
        d_bias_V[block] = d_logits_NW.sum(0)
        d_low_NW = d_logits_NW.to(low)
        d_features_NH += torch.mm(d_low_NW, matrix_VH[block])
        d_weight_VH[block] = torch.mm(d_low_NW.T, features_NH)
    d_weight_VH.index_add_(0, targets_N, features.mul_(-share_N[:, None]))
    d_bias_V.index_add_(0, targets_N, -share_N)
    return nats_N, (d_features_NH.to(low), d_weight_VH, d_bias_V)


def weighted_nats(
    features_NH: Tensor, weight_VH: Tensor, bias_V: Tensor, targets_N: Tensor, share_N: Tensor
) -> tuple[Tensor, Tensor]:
    """``sum(share_N * nats_N)``, differentiable once, and ``nats_N`` itself, a constant.

    ``share_N`` is a constant weight of each position: 0 where there is nothing to score.
    """
    with torch.autocast(features_NH.device.type, enabled=False):
        total, nats_N = _WeightedNats.apply(features_NH, weight_VH, bias_V, targets_N, share_N)
    return total, nats_N
