"""The distribution of the next token under a cache: what is drawn from where text is generated.

Legend: V vocabulary, C slots, H width of the features, F flatnesses; one lane, one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.partners.cache import Cache, CacheState, NextTokenDistribution
from dynlm.adapt.partners.cache_gate import Gate


@torch.no_grad()
def log_next(cache: Cache, state: CacheState, features_11H: Tensor, logits_11V: Tensor) -> Tensor:
    """log p_11V of the mixture of a model that gives ``logits_11V`` with what ``state`` has in sight; it stays so."""
    log_p_V = logits_11V[0, 0].log_softmax(-1)
    slots, written = state.keys_BCH.shape[1], int(state.written_B[0])
    number_C = written - 1 - (written - 1 - torch.arange(slots, device=log_p_V.device)) % slots
    in_sight_C = number_C >= max(0, written - cache.window)
    if not bool(in_sight_C.any()):
        return log_p_V[None, None]
    like_C = state.keys_BCH[0][in_sight_C] @ features_11H[0, 0]
    parts = [log_p_V]
    for flatness in cache.flatness:
        weight_C = (like_C * flatness).softmax(0)
        parts.append(torch.zeros_like(log_p_V).index_add_(0, state.tokens_BC[0][in_sight_C], weight_C).log())
    return (torch.stack(parts, -1) + _log_shares(cache, state, features_11H, logits_11V)).logsumexp(-1)[None, None]


def _log_shares(cache: Cache, state: CacheState, features_11H: Tensor, logits_11V: Tensor) -> Tensor:
    if not isinstance(cache.gate, Gate):
        return logits_11V.new_tensor([1 - cache.gate, cache.gate]).log()
    scaled_11V = (logits_11V - logits_11V.amax(-1, keepdim=True)).exp()
    # A gate looks at nothing of the target: any will do. What is looked at writes the pair down, in a copy.
    target_11 = state.tokens_BC[:, :1]
    one_11 = features_11H.new_ones(1, 1)
    told = NextTokenDistribution(scaled_11V, scaled_11V.sum(-1, keepdim=True))
    seen, _ = cache.look(state.copy(), features_11H, target_11, one_11, one_11, told)
    assert seen.evidence_BTK is not None
    return cache.gate.log_shares(seen.evidence_BTK)[0, 0]
