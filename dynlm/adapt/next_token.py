"""Predict the next token with a memory, without learning from it: what text is generated from.

Legend: V vocabulary; one lane, one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.partners.cache_next import log_next
from dynlm.adapt.state import Memory


@torch.no_grad()
def predict_next(dynamic_model: DynamicModel, memory: Memory, token: int) -> tuple[Tensor, Memory]:
    """Return (logits_V of what follows ``token``, the memory with the model's state after it), in one lane.

    The cache and the mixture's weights stay as they are.
    """
    token_11 = torch.tensor([[token]], device=dynamic_model.device)
    params = {**dynamic_model.static, **{name: tensor[0] for name, tensor in memory.params.items()}}
    logits_11V, features_11H, state = dynamic_model.model.forward(params, memory.state, token_11)
    memory = memory._replace(state=state)
    if dynamic_model.cache is not None:
        logits_11V = log_next(dynamic_model.cache, memory.cache, features_11H, logits_11V)
    if memory.mixture is not None:
        static = dynamic_model.model.forward(dynamic_model.static, memory.mixture.state, token_11)
        logits_11V = memory.mixture.log_mixture(static.logits_BTV, logits_11V)
        memory = memory._replace(mixture=memory.mixture._replace(state=static.state))
    return logits_11V[0, 0], memory
