"""Predict the next token with a memory, without learning from it: what text is generated from.

Legend: V vocabulary; one lane, one token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.adapt.partners.cache_next import log_next
from dynlm.adapt.reader import Reader
from dynlm.adapt.state import Memory


@torch.no_grad()
def predict_next(reader: Reader, memory: Memory, token: int) -> tuple[Tensor, Memory]:
    """Return (logits_V of what follows ``token``, the memory with the model's state after it), in one lane.

    The cache and the mixture's weights stay as they are.
    """
    token_11 = torch.tensor([[token]], device=reader.device)
    params = {**reader.static, **{name: tensor[0] for name, tensor in memory.params.items()}}
    logits_11V, features_11H, state = reader.model.forward(params, memory.state, token_11)
    memory = memory._replace(state=state)
    if reader.cache is not None:
        logits_11V = log_next(reader.cache, memory.cache, features_11H, logits_11V)
    if memory.mixture is not None:
        static = reader.model.forward(reader.static, memory.mixture.state, token_11)
        logits_11V = memory.mixture.log_mixture(static.logits_BTV, logits_11V)
        memory = memory._replace(mixture=memory.mixture._replace(state=static.state))
    return logits_11V[0, 0], memory
