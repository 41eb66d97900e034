"""What the last segment taught, turned into the next dynamic weights.

Every rule is one step, with alpha and lambda of each tensor (method: Krause et al. 2018, arXiv 1709.07432, for rms):

    theta_{t+1} = theta_t + beta * (theta_0 - theta_t) - alpha * scale * u_t,    beta = min(lambda * shape, 1)

with u_t the gradient of the mean nats of segment t. scale and shape are 1 for sgd; for rms and meta scale is
1 / (R + epsilon) and shape is R / (mean over tensors of mean(R)), R the root mean square of training gradients.
``gradient_step`` is the step as a formula, differentiable; ``Rule.step_`` is the same in two passes, in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.model.lanes import Gradient
from dynlm.model.lstm import Params
from dynlm.model.native import NativeKernels


class Rates(NamedTuple):
    """One tensor's learning rate and its pull toward the static parameters."""

    alpha: float
    pull: float


def gradient_step(
    theta: Tensor,
    gradient: Tensor,
    alpha: Tensor | float,
    scale: Tensor | float = 1.0,
    theta_0: Tensor | None = None,
    beta: Tensor | float = 0.0,
) -> Tensor:
    """The next weights as a new tensor: the reference, and the step of whoever differentiates through it."""
    moved = theta if theta_0 is None else theta + beta * (theta_0 - theta)
    if isinstance(alpha, float) and isinstance(scale, float):
        return torch.sub(moved, gradient, alpha=alpha * scale)  # one operation, and one of each derivative
    return moved - alpha * scale * gradient


@dataclass(frozen=True)
class Statistics:
    """R: the root mean square of each weight's gradient over training segments."""

    rms: Params

    def scale(self, epsilon: float) -> Params:
        """1 / (R + epsilon): the preconditioner of the gradient."""
        return {name: 1 / (tensor + epsilon) for name, tensor in self.rms.items()}

    def shape(self) -> Params:
        """R over its mean (of the tensors' means): weights that training moved much are pulled back harder."""
        mean = torch.stack([tensor.mean() for tensor in self.rms.values()]).mean()
        return {name: tensor / mean for name, tensor in self.rms.items()}


@dataclass(frozen=True)
class Rule:
    """A named rule with its constants for each dynamic tensor; ``rates`` empty is level 1, which learns nothing."""

    name: str
    rates: Mapping[str, Rates] = field(default_factory=dict)
    scale: Params | None = None
    shape: Params | None = None
    beta: Mapping[str, Tensor | float] = field(init=False)
    clamps: Mapping[str, bool] = field(init=False)
    """Whether some weight of a tensor has a beta that would pass 1."""

    def __post_init__(self) -> None:
        beta: dict[str, Tensor | float] = {}
        for name, rates in self.rates.items():
            shape = 1.0 if self.shape is None else self.shape[name]
            beta[name] = (shape * rates.pull).clamp(max=1) if isinstance(shape, Tensor) else min(rates.pull, 1.0)
        object.__setattr__(self, "beta", beta)
        clamps = {name: bool((b >= 1).any()) if isinstance(b, Tensor) else b >= 1 for name, b in beta.items()}
        object.__setattr__(self, "clamps", clamps)

    @property
    def learns(self) -> bool:
        """Whether reading changes anything."""
        return bool(self.rates)

    @property
    def level(self) -> int:
        """1: nothing moves; 2: nothing pulls back; 3: the static parameters pull."""
        if not self.learns:
            return 1
        return 3 if any(rates.pull for rates in self.rates.values()) else 2

    def step(self, weights: Params, gradients: Params, static: Params) -> Params:
        """The next dynamic weights, by the formula; ``weights`` stay as they are."""
        return {
            name: gradient_step(
                weights[name],
                gradients[name],
                rates.alpha,
                1.0 if self.scale is None else self.scale[name],
                static[name],
                self.beta[name],
            )
            for name, rates in self.rates.items()
        }

    @torch.no_grad()
    def step_(self, theta: Tensor, gradient: Gradient, theta_0: Tensor, native: NativeKernels | None = None) -> None:
        """``gradient_step`` written over ``theta``, the weights of B lanes: (B, ...), as the gradient's name says.

        ``theta_0`` is shared by the lanes. Only the gradient's part is moved, in two passes and without a copy, or in
        one pass by the ``native`` kernel.
        """
        rates, beta, part = self.rates[gradient.name], self.beta[gradient.name], gradient.part
        scale = None if self.scale is None else self.scale[gradient.name]
        theta, theta_0 = theta[:, part], theta_0[part]
        beta = beta[part] if isinstance(beta, Tensor) else beta
        if native is not None and gradient.rows_BT is None:
            native.step_(theta, theta_0, gradient.tensor, beta, None if scale is None else scale[part], rates.alpha)
            return
        if isinstance(beta, Tensor) or beta:
            theta.lerp_(theta_0, beta)
        if gradient.rows_BT is not None:
            _step_of_rows_(theta, gradient.tensor, gradient.rows_BT, rates.alpha, scale)
        elif scale is None:
            theta.sub_(gradient.tensor, alpha=rates.alpha)
        else:
            theta.addcmul_(gradient.tensor, scale[part], value=-rates.alpha)


def _step_of_rows_(theta_BVE: Tensor, u_BVE: Tensor, rows_BT: Tensor, alpha: float, scale: Tensor | None) -> None:
    """theta - alpha * scale * u where u is not zero; a row that is named twice is given the same value twice."""
    index_BTE = rows_BT[..., None].expand(-1, -1, theta_BVE.shape[-1])
    moved_BTE = alpha * u_BVE.gather(1, index_BTE)
    if scale is not None:
        moved_BTE *= scale[rows_BT]
    theta_BVE.scatter_(1, index_BTE, theta_BVE.gather(1, index_BTE) - moved_BTE)


LEVEL_1 = Rule("none")


def uniform_rule(
    name: str,
    dynamic: tuple[str, ...],
    rate: float,
    pull: float = 0.0,
    statistics: Statistics | None = None,
    epsilon: float = 0.0,
) -> Rule:
    """A hand-made rule: one rate and one pull for all tensors; with ``statistics`` it is rms, without sgd."""
    rates = {tensor: Rates(rate, pull) for tensor in dynamic}
    if statistics is None:
        return Rule(name, rates)
    return Rule(name, rates, statistics.scale(epsilon), statistics.shape())
