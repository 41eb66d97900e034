"""The two optimisers of level-1 training as values that can be saved: AdamW on a cosine, and NT-ASGD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynlm.models.lstm.model import Params
from dynlm.train.options import PretrainOptions


def rate_at(step: int, steps: int, config: PretrainOptions) -> float:
    """Learning rate of ``step`` (from 0): linear warm-up, then for adamw half a cosine down to ``final_rate``."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.optimizer == "nt-asgd":
        return config.rate * warm
    done = min(1.0, step / max(1, steps))
    cosine = config.final_rate + (1 - config.final_rate) * 0.5 * (1 + math.cos(math.pi * done))
    return config.rate * warm * cosine


class Optimiser:
    """Steps ``params`` in place from their ``.grad``.

    nt-asgd (Merity et al. 2018): SGD at a constant rate; once validation has not improved on its best of more than
    ``patience`` validations ago, the weights are averaged, and the average is what validation and the run see.
    """

    def __init__(self, params: Params, config: PretrainOptions):
        self.params = params
        self.config = config
        matrices = [p for p in params.values() if p.dim() > 1]
        others = [p for p in params.values() if p.dim() == 1]
        groups = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self._torch: torch.optim.Optimizer
        if config.optimizer == "adamw":
            self._torch = torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.99), fused=True)
        else:
            self._torch = torch.optim.SGD(groups, lr=config.rate)
        self.validations: list[float] = []
        self.averaged: Params = {}
        self.averaged_steps = 0

    def step(self, rate: float) -> None:
        """One step at ``rate``; the gradients are cleared."""
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._torch.step()
        self._torch.zero_grad(set_to_none=True)
        if self.averaged_steps:
            self.averaged_steps += 1
            with torch.no_grad():
                for name, mean in self.averaged.items():
                    mean.lerp_(self.params[name], 1 / self.averaged_steps)

    def after_validation(self, nats: float) -> bool:
        """Note a validation; True where averaging begins with it."""
        stale = self.validations[: -self.config.patience]
        begins = self.config.optimizer == "nt-asgd" and not self.averaged_steps and bool(stale) and nats > min(stale)
        self.validations.append(nats)
        if begins:
            self.averaged = {name: p.detach().clone() for name, p in self.params.items()}
            self.averaged_steps = 1
        return begins

    def current(self) -> Params:
        """The weights to validate and to keep: the average where there is one."""
        return self.averaged or {name: p.detach() for name, p in self.params.items()}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that a resumed training needs besides the parameters: (tensors, JSON)."""
        tensors = {f"average/{name}": tensor for name, tensor in self.averaged.items()}
        tensors |= state_of(self._torch, self.params)
        return tensors, {"validations": self.validations, "averaged_steps": self.averaged_steps}

    def load_state(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take up what ``state`` gave."""
        self.validations, self.averaged_steps = list(state["validations"]), state["averaged_steps"]
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "average":
                self.averaged[name] = tensor.to(self.params[name].device)
        load_state_of(self._torch, self.params, tensors)


def state_of(optimiser: torch.optim.Optimizer, params: Params) -> dict[str, Tensor]:
    """What an optimiser of torch's keeps of each parameter, as named tensors."""
    return {
        f"optimiser/{slot}/{name}": value
        for name, param in params.items()
        for slot, value in optimiser.state.get(param, {}).items()
        if isinstance(value, Tensor)
    }


def load_state_of(optimiser: torch.optim.Optimizer, params: Params, tensors: Mapping[str, Tensor]) -> None:
    """Take up what ``state_of`` gave; other tensors are passed over."""
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimiser":
            slot, _, name = rest.partition("/")
            device = "cpu" if slot == "step" and not params[name].is_cuda else params[name].device
            optimiser.state[params[name]][slot] = tensor.to(device)


def first_broken(params: Params) -> str:
    """The first tensor whose gradient is no number, or too large for one."""
    broken = [name for name, tensor in params.items() if tensor.grad is not None and not tensor.grad.isfinite().all()]
    return broken[0] if broken else "all tensors together"


def update_to_weight(params: Params, before: Params) -> dict[str, float]:
    """|update| / |weights| of each tensor's last step."""
    return {
        name: float((params[name].detach() - tensor).norm() / tensor.norm().clamp(min=1e-30))
        for name, tensor in before.items()
    }
