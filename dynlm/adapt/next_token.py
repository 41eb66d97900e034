"""Predict the next token with a memory, without learning from it: what text is generated from.

Legend: T tokens, V vocabulary, C slots of a cache, H width of the features; one lane.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.partners.cache import Cache, CacheInput, CacheState
from dynlm.adapt.partners.cache_gate import Gate
from dynlm.models.softmax import NextTokenDistribution
from dynlm.runtime.tree import clone


@torch.no_grad()
def predict_next(dynamic_model: DynamicModel, memory: Memory, token: int) -> tuple[Tensor, Memory]:
    """Return (logits_V of what follows ``token``, the memory with the model's state after it), in one lane.

    The cache and the mixture's weights stay as they are.
    """
    logits_TV, memory = predict_after_each(dynamic_model, memory, [token])
    return logits_TV[0], memory


@torch.no_grad()
def predict_after_each(dynamic_model: DynamicModel, memory: Memory, tokens: Sequence[int]) -> tuple[Tensor, Memory]:
    """Return (logits_TV of what follows each of ``tokens``, the memory with the model's state after the last).

    None of them is learned from: weights, cache and the mixture's weights stay as they are.
    """
    tokens_1T = torch.tensor([list(tokens)], device=dynamic_model.device)
    params = {**dynamic_model.static, **{name: tensor[0] for name, tensor in memory.params.items()}}
    logits_1TV, features_1TH, state = dynamic_model.model.forward(params, memory.state, tokens_1T)
    memory = memory._replace(state=state)
    if (cache := dynamic_model.cache) is not None:
        pairs = zip(features_1TH.split(1, 1), logits_1TV.split(1, 1), strict=True)
        logits_1TV = torch.cat([log_with_cache(cache, memory.cache, *pair) for pair in pairs], 1)
    if memory.mixture is not None:
        static = dynamic_model.model.forward(dynamic_model.static, memory.mixture.state, tokens_1T)
        logits_1TV = memory.mixture.log_mixture(static.logits_BTV, logits_1TV)
        memory = memory._replace(mixture=memory.mixture._replace(state=static.state))
    return logits_1TV[0], memory


@torch.no_grad()
def log_with_cache(cache: Cache, state: CacheState, features_11H: Tensor, logits_11V: Tensor) -> Tensor:
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
    gate_features_11K = None
    if isinstance(cache.gate, Gate):
        # A gate sees nothing of the target: any will do. The lookup writes the pair, into a copy.
        target_11, one_11 = state.tokens_BC[:, :1], features_11H.new_ones(1, 1)
        next_tokens = NextTokenDistribution.of(logits_11V)
        lookup, _ = cache.look(clone(state), CacheInput(features_11H, target_11, one_11, one_11, next_tokens))
        gate_features_11K = lookup.features_BTK
    return (torch.stack(parts, -1) + cache.log_shares(gate_features_11K, logits_11V)).logsumexp(-1).view(1, 1, -1)
