"""The distribution of the next token under a cache, to generate from.

Legend: V vocabulary, C slots, H width of the features; one lane, one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.partners.cache import Cache, CacheInput, CacheState
from dynlm.adapt.partners.cache_gate import Gate
from dynlm.models.protocol import NextTokenDistribution
from dynlm.runtime.tree import clone


@torch.no_grad()
def log_next(cache: Cache, state: CacheState, features_11H: Tensor, logits_11V: Tensor) -> Tensor:
    """Return log p_11V of the mixture of ``state``'s window with a model that gives ``logits_11V``."""
    log_p_V = logits_11V[0, 0].log_softmax(-1)
    slots, written = state.keys_BCH.shape[1], int(state.written_B[0])
    index_C = written - 1 - (written - 1 - torch.arange(slots, device=log_p_V.device)) % slots
    visible_C = index_C >= max(0, written - cache.window)
    if not bool(visible_C.any()):
        return log_p_V[None, None]
    like_C = state.keys_BCH[0][visible_C] @ features_11H[0, 0]
    parts = [log_p_V]
    for inverse_temperature in cache.inverse_temperatures:
        weight_C = (like_C * inverse_temperature).softmax(0)
        parts.append(torch.zeros_like(log_p_V).index_add_(0, state.tokens_BC[0][visible_C], weight_C).log())
    return (torch.stack(parts, -1) + _log_shares(cache, state, features_11H, logits_11V)).logsumexp(-1)[None, None]


def _log_shares(cache: Cache, state: CacheState, features_11H: Tensor, logits_11V: Tensor) -> Tensor:
    if not isinstance(cache.gate, Gate):
        return logits_11V.new_tensor([1 - cache.gate, cache.gate]).log()
    scaled_11V = (logits_11V - logits_11V.amax(-1, keepdim=True)).exp()
    # A gate sees nothing of the target: any will do. The lookup writes the pair, into a copy.
    target_11, one_11 = state.tokens_BC[:, :1], features_11H.new_ones(1, 1)
    next_tokens = NextTokenDistribution(scaled_11V, scaled_11V.sum(-1, keepdim=True))
    lookup, _ = cache.look(clone(state), CacheInput(features_11H, target_11, one_11, one_11, next_tokens))
    assert lookup.features_BTK is not None
    return cache.gate.log_shares(lookup.features_BTK)[0, 0]
