"""How much of the mixture the model has and how much each reading of the cache: a small network looks and decides.

    shares = softmax(W2 tanh(W1 z + b1) + b2),    z the evidence, each piece with mean 0 and deviation 1

Evidence is what is known before the target is: how sure the model is, how sure the cache is, whether they agree, and
which of the two has been the better one of late. Legend: K pieces of evidence, M hidden units, F flatnesses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynlm.models.lstm.model import Params

_OF_ALL = ("model's log p, its likeliest", "model's log sum p^2", "model's log p, cache's likeliest")
_OF_PLACE = ("log(1 + pairs in sight)", "log(1 + tokens of the article)")
_OF_EACH = ("log largest weight", "log sum weight^2", "log p, its likeliest", "gain of late")


def evidence_names(flatness: Sequence[float]) -> list[str]:
    """What each of the K pieces of evidence is, in order."""
    each = [f"cache's {name} at {value:g}" for name in _OF_EACH for value in flatness]
    return [*_OF_ALL, *_OF_PLACE, *each]


@dataclass(frozen=True)
class Gate:
    """The network's parameters: ``center`` and ``spread`` (K,), ``hidden.*`` (M, K), ``output.*`` (1 + F, M)."""

    params: Params

    def log_shares(self, evidence_NK: Tensor) -> Tensor:
        """Log of the share of the model and of each flatness: (..., 1 + F)."""
        return log_shares(self.params, evidence_NK)

    def to(self, device: torch.device | str) -> Gate:
        """The same on a device."""
        return Gate({name: tensor.to(device) for name, tensor in self.params.items()})


def log_shares(params: Params, evidence_NK: Tensor) -> Tensor:
    """``Gate.log_shares`` as a formula, differentiable."""
    z_NK = (evidence_NK - params["center"]) / params["spread"]
    hidden_NM = torch.tanh(z_NK @ params["hidden.weight"].T + params["hidden.bias"])
    return torch.log_softmax(hidden_NM @ params["output.weight"].T + params["output.bias"], -1)


def initial_gate(shares: Sequence[float], evidence_NK: Tensor, hidden: int, generator: torch.Generator) -> Params:
    """Fresh parameters that give the 1 + F ``shares`` whatever the evidence, whose scale is that of ``evidence_NK``."""
    pieces = evidence_NK.shape[1]
    bound = 1 / math.sqrt(pieces)
    weight_MK = (2 * torch.rand(hidden, pieces, generator=generator) - 1) * bound
    like = evidence_NK
    return {
        "center": like.mean(0),
        # A piece that never changes says nothing, and is not blown up.
        "spread": like.std(0, correction=0).clamp(min=1e-3),
        "hidden.weight": weight_MK.to(like),
        "hidden.bias": like.new_zeros(hidden),
        "output.weight": like.new_zeros(len(shares), hidden),
        "output.bias": like.new_tensor(shares).log(),
    }
