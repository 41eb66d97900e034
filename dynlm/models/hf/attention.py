"""Attention of a segment's tokens to the cached tokens before them and to themselves, for ``transformers``.

Legend: B lanes, T tokens of a segment, S tokens attended to (the cached ones, then the segment's), G key-value heads,
R query heads of each, D width of a head.

Cached keys and values are constants: only those of the segment's own tokens have gradients, which takes three of the
backward pass's five large products to a small part. Query heads that share keys are rows of one product: no keys are
repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from dynlm.errors import UserError

NAME = "dynlm_segment"
_UNKNOWN = ("softcap", "s_aux")


def implementation(module: Any, chosen: str) -> str:
    """Return the name in ``transformers`` of the attention that ``model.attention`` chooses for a model.

    Soft caps and sinks are those of the model's source. Raises UserError for sdpa where the model cannot have it.
    """
    plain = module._supports_sdpa and getattr(module.config, "attn_logit_softcapping", None) is None
    if chosen == "sdpa" and not plain:
        raise UserError("model.attention is 'sdpa', which this model's attention is not", do="choose 'eager'")
    return (NAME if plain else "eager") if chosen == "segment" else chosen


def segment_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **more: Any
) -> tuple[Tensor, None]:
    """Return (attention (B, T, G R, D), None), as an attention function of ``transformers``.

    ``query``: (B, G R, T, D); ``key``, ``value``: (B, G, S, D); ``attention_mask``: True where a token is attended to.
    On a GPU, and for position biases, PyTorch's fused kernel runs instead. Raises UserError for a kind of attention
    that is neither.
    """
    if any(more.get(name) is not None for name in _UNKNOWN) or more.get("dropout"):
        raise UserError("model.attention is 'segment', which this model's attention is not", do="choose 'eager'")
    if query.is_cuda or more.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **more)  # type: ignore[no-any-return]
    (lanes, _, length, width), (groups, seen) = query.shape, key.shape[1:3]
    hidden = torch.ones(length, length, dtype=torch.bool, device=query.device).triu_(1)[None, None]
    if attention_mask is not None:
        # Most often only the segment's own later tokens are hidden.
        own = attention_mask[..., : seen - length].all()
        hidden = (attention_mask[..., seen - length :] if own else attention_mask).logical_not()
    scale = more.get("scaling") or width**-0.5
    grouped_BGRTD = query.reshape(lanes, groups, -1, length, width)
    output_BGRTD = _SegmentAttention.apply(grouped_BGRTD, key, value, hidden[:, :, None], scale)
    return output_BGRTD.flatten(1, 2).transpose(1, 2), None


class _SegmentAttention(torch.autograd.Function):
    """softmax(scale Q K^T) V, where ``hidden`` (B or 1, 1, 1, T, the last S or fewer) is not true."""

    @staticmethod
    def forward(
        ctx: Any, query_BGRTD: Tensor, key_BGSD: Tensor, value_BGSD: Tensor, hidden: Tensor, scale: float
    ) -> Tensor:
        query_BGND = (query_BGRTD * scale).flatten(2, 3)
        scores_BGNS = query_BGND @ key_BGSD.transpose(2, 3)
        last_BGRTS = scores_BGNS.unflatten(2, query_BGRTD.shape[2:4])[..., -hidden.shape[-1] :]
        last_BGRTS.masked_fill_(hidden, torch.finfo(scores_BGNS.dtype).min)
        p_BGNS = scores_BGNS.softmax(3)
        output_BGND = p_BGNS @ value_BGSD
        ctx.save_for_backward(query_BGND, key_BGSD, value_BGSD, p_BGNS, output_BGND)
        ctx.scale, ctx.rows = scale, query_BGRTD.shape[2:4]
        return output_BGND.unflatten(2, ctx.rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        query_BGND, key_BGSD, value_BGSD, p_BGNS, output_BGND = ctx.saved_tensors
        d_output_BGND = gradients[0].flatten(2, 3)
        mean_BGN1 = (d_output_BGND * output_BGND).sum(3, keepdim=True)
        d_scores_BGNS = (d_output_BGND @ value_BGSD.transpose(2, 3)).sub_(mean_BGN1).mul_(p_BGNS)
        d_query = (d_scores_BGNS @ key_BGSD).mul_(ctx.scale).unflatten(2, ctx.rows)
        own = slice(key_BGSD.shape[2] - ctx.rows[1], None)
        d_key, d_value = torch.zeros_like(key_BGSD), torch.zeros_like(value_BGSD)
        d_key[:, :, own] = d_scores_BGNS[..., own].transpose(2, 3) @ query_BGND
        d_value[:, :, own] = p_BGNS[..., own].transpose(2, 3) @ d_output_BGND
        return d_query, d_key, d_value, None, None


AttentionInterface.register(NAME, segment_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
