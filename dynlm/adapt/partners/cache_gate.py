"""The gate of a cache: a small network that gives the mixture's shares from what is known before the target.

    shares = softmax(W2 tanh(W1 z + b1) + b2),    z the gate features, each with mean 0 and deviation 1

Features: the model's confidence, the cache's confidence, whether they agree, and which of the two was better recently.
Legend: K gate features, M hidden units, F inverse temperatures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynlm.types import Params

_OF_MODEL = ("model's log p, its likeliest", "model's log sum p^2", "model's log p, cache's likeliest")
_COUNTS = ("log(1 + pairs in sight)", "log(1 + tokens of the article)")
_OF_EACH = ("log largest weight", "log sum weight^2", "log p, its likeliest", "gain of late")


def gate_feature_names(inverse_temperatures: Sequence[float]) -> list[str]:
    """Return the names of the K gate features, in order."""
    each = [f"cache's {name} at {value:g}" for name in _OF_EACH for value in inverse_temperatures]
    return [*_OF_MODEL, *_COUNTS, *each]


@dataclass(frozen=True)
class Gate:
    """The network's parameters: ``center`` and ``spread`` (K,), ``hidden.*`` (M, K), ``output.*`` (1 + F, M)."""

    params: Params

    def to(self, device: torch.device | str) -> Gate:
        """Return the same on ``device``."""
        return Gate({name: tensor.to(device) for name, tensor in self.params.items()})


def log_shares(params: Params, features_NK: Tensor) -> Tensor:
    """Return the log share of the model and of each inverse temperature: (..., 1 + F); differentiable."""
    z_NK = (features_NK - params["center"]) / params["spread"]
    hidden_NM = torch.tanh(z_NK @ params["hidden.weight"].T + params["hidden.bias"])
    return torch.log_softmax(hidden_NM @ params["output.weight"].T + params["output.bias"], -1)


def gate_shapes(features: int, hidden: int, shares: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a gate's parameters."""
    return {
        "center": (features,),
        "spread": (features,),
        "hidden.weight": (hidden, features),
        "hidden.bias": (hidden,),
        "output.weight": (shares, hidden),
        "output.bias": (shares,),
    }


def initial_gate(shares: Sequence[float], features_NK: Tensor, hidden: int, generator: torch.Generator) -> Params:
    """Return parameters that give the 1 + F ``shares`` for any input, normalised to the scale of ``features_NK``."""
    like, count = features_NK, features_NK.shape[1]
    weight_MK = (2 * torch.rand(hidden, count, generator=generator) - 1) * (1 / math.sqrt(count))
    return {
        "center": like.mean(0),
        # A feature that never changes says nothing, and is not amplified.
        "spread": like.std(0, correction=0).clamp(min=1e-3),
        "hidden.weight": weight_MK.to(like),
        "hidden.bias": like.new_zeros(hidden),
        "output.weight": like.new_zeros(len(shares), hidden),
        "output.bias": like.new_tensor(shares).log(),
    }
