"""The two optimisers of level-1 training, AdamW on a cosine and NT-ASGD, and how optimisers are saved."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from dynlm.runtime.checkpoints import State
from dynlm.runtime.tree import clone, detach
from dynlm.train.options import PretrainOptions
from dynlm.types import Params


def lr_at(step: int, steps: int, config: PretrainOptions) -> float:
    """Return the learning rate of ``step`` (from 0): linear warm-up, then for adamw half a cosine to ``final_rate``."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.optimizer == "nt-asgd":
        return config.lr * warm
    done = min(1.0, step / max(1, steps))
    cosine = config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
    return config.lr * warm * cosine


class Optimiser:
    """Moves ``params`` in place by their ``.grad``.

    nt-asgd (Merity et al. 2018): SGD at a constant rate; once validation has not improved on its best of more than
    ``patience`` validations ago, the weights are averaged, and the average is what is validated and kept.
    """

    def __init__(self, params: Params, config: PretrainOptions):
        self.params = params
        self.config = config
        groups = [
            {"params": [p for p in params.values() if p.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in params.values() if p.dim() == 1], "weight_decay": 0.0},
        ]
        self._torch: torch.optim.Optimizer
        if config.optimizer == "adamw":
            self._torch = torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.99), fused=True)
        else:
            self._torch = torch.optim.SGD(groups, lr=config.lr)
        self.validations: list[float] = []
        self.averaged: Params = {}
        self.averaged_steps = 0

    def step(self, lr: float) -> None:
        """Take one step with learning rate ``lr`` and clear the gradients."""
        for group in self._torch.param_groups:
            group["lr"] = lr
        self._torch.step()
        self._torch.zero_grad(set_to_none=True)
        if self.averaged_steps:
            self.averaged_steps += 1
            with torch.no_grad():
                for name, mean in self.averaged.items():
                    mean.lerp_(self.params[name], 1 / self.averaged_steps)

    def after_validation(self, nats: float) -> bool:
        """Record a validation; returns whether averaging begins with it."""
        stale = self.validations[: -self.config.patience]
        begins = self.config.optimizer == "nt-asgd" and not self.averaged_steps and bool(stale) and nats > min(stale)
        self.validations.append(nats)
        if begins:
            self.averaged = clone(detach(self.params))
            self.averaged_steps = 1
        return begins

    def current(self) -> Params:
        """Return the weights to validate and to keep: the average where there is one."""
        current: Params = self.averaged or detach(self.params)
        return current

    def state_dict(self) -> State:
        """Return all that a resumed training needs beside the parameters."""
        averaged = {f"average/{name}": tensor for name, tensor in self.averaged.items()}
        tensors = averaged | optimizer_tensors(self._torch, self.params)
        return State(tensors, {"validations": self.validations, "averaged_steps": self.averaged_steps})

    def load_state_dict(self, state: State) -> None:
        self.validations, self.averaged_steps = list(state.values["validations"]), state.values["averaged_steps"]
        if self.averaged_steps:
            self.averaged = {name: state.tensors[f"average/{name}"].to(p.device) for name, p in self.params.items()}
        load_optimizer_tensors(self._torch, self.params, state.tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer, params: Params) -> dict[str, Tensor]:
    """Return what an optimiser of torch's stores of each parameter, as named tensors."""
    return {
        f"optimiser/{slot}/{name}": value
        for name, param in params.items()
        for slot, value in optimizer.state.get(param, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, params: Params, tensors: Mapping[str, Tensor]) -> None:
    """Load what ``optimizer_tensors`` returned; other tensors are ignored."""
    for key, tensor in tensors.items():
        kind, _, rest = key.partition("/")
        if kind == "optimiser":
            slot, _, name = rest.partition("/")
            device = "cpu" if slot == "step" and not params[name].is_cuda else params[name].device
            optimizer.state[params[name]][slot] = tensor.to(device)
