"""What the last segment taught, turned into the next dynamic weights.

Every rule is one step, with alpha and lambda of each tensor (method: Krause et al. 2018, arXiv 1709.07432, for rms):

    theta_{t+1} = theta_t + beta * (theta_0 - theta_t) - alpha * scale * u_t,    beta = min(lambda * shape, 1)

with u_t the gradient of the mean nats of segment t. scale and shape are 1 for sgd; for rms and meta scale is
1 / (R + epsilon) and shape is R / (mean over tensors of mean(R)), R the root mean square of training gradients.
``gradient_step`` is the step as a formula, differentiable; ``Rule.step_`` is the same in two passes, in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.gates import Gates, GateScales
from dynlm.models.lstm.engine import Gradient
from dynlm.models.lstm.model import Params
from dynlm.models.lstm.native import NativeKernels
from dynlm.models.scratch import Scratch


class Rates(NamedTuple):
    """One tensor's learning rate and its pull toward the static parameters.

    Numbers, or 0-dimensional tensors where a meta-gradient is taken by autograd.
    """

    alpha: float | Tensor
    pull: float | Tensor


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
    """A named rule with its constants for each dynamic tensor; ``rates`` empty is level 1, which learns nothing.

    ``gates`` change rates and pulls from segment to segment. ``flush`` is each tensor's share of the way home that its
    weights go when an article begins: 0 carries all of them over, 1 forgets. ``consolidation`` is each tensor's share
    of what an article taught that its end makes part of home, times each weight's ``limits``, and ``fading`` the share
    of the way back to theta_0 that home goes first. With ``momentum`` the step is by a running sum of gradients.
    ``coordinates`` are the gates of the LSTM meta-learner: every weight's own alpha and beta, from segment to segment.
    """

    name: str
    rates: Mapping[str, Rates] = field(default_factory=dict)
    scale: Params | None = None
    shape: Params | None = None
    gates: Gates | None = None
    flush: Mapping[str, float | Tensor] = field(default_factory=dict)
    consolidation: Mapping[str, float | Tensor] = field(default_factory=dict)
    limits: Params | None = None
    fading: Mapping[str, float | Tensor] = field(default_factory=dict)
    momentum: float = 0.0
    coordinates: Params | None = None
    beta: Mapping[str, Tensor | float] = field(init=False)
    clamps: Mapping[str, bool] = field(init=False)
    """Whether some weight of a tensor has a beta that would pass 1."""
    largest_beta: Mapping[str, Tensor] = field(init=False)
    largest_scale: Mapping[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        beta: dict[str, Tensor | float] = {}
        for name, rates in self.rates.items():
            shape = 1.0 if self.shape is None else self.shape[name]
            pull = shape * rates.pull
            beta[name] = pull.clamp(max=1) if isinstance(pull, Tensor) else min(pull, 1.0)
        object.__setattr__(self, "beta", beta)
        clamps = {name: bool((b >= 1).any()) if isinstance(b, Tensor) else b >= 1 for name, b in beta.items()}
        object.__setattr__(self, "clamps", clamps)
        largest = {name: torch.as_tensor(b).detach().amax() for name, b in beta.items()}
        object.__setattr__(self, "largest_beta", largest)
        scale = dict.fromkeys(beta, 1.0) if self.scale is None else self.scale
        largest = {name: torch.as_tensor(scale[name]).detach().abs().amax() for name in beta}
        object.__setattr__(self, "largest_scale", largest)

    def of(self, names: Iterable[str]) -> Rule:
        """The same rule where only the tensors of ``names`` move."""
        kept = [name for name in self.rates if name in set(names)]
        gates = None
        if self.gates is not None:
            rows = [list(self.rates).index(name) for name in kept]
            gates = replace(self.gates, rate_KJ=self.gates.rate_KJ[rows], pull_KJ=self.gates.pull_KJ[rows])
        return replace(self, rates={name: self.rates[name] for name in kept}, gates=gates)

    @property
    def learns(self) -> bool:
        """Whether reading changes anything."""
        return bool(self.rates)

    @property
    def level(self) -> int:
        """1: nothing moves; 2: nothing pulls back; 3: the static parameters pull."""
        if not self.learns:
            return 1
        back = any(share and not self.consolidation.get(name) for name, share in self.flush.items())
        return 3 if back or any(self.fading.values()) or any(rates.pull for rates in self.rates.values()) else 2

    def taken_in(self, name: str) -> float | Tensor:
        """Each weight's share of what an article taught that home takes in."""
        return self.consolidation.get(name, 0.0) * (1.0 if self.limits is None else self.limits[name])

    def next_home(self, name: str, theta: Tensor, home: Tensor, theta_0: Tensor) -> Tensor:
        """Home once an article has ended with the weights ``theta``, of one lane."""
        faded = home + self.fading.get(name, 0.0) * (theta_0 - home)
        return faded + self.taken_in(name) * (theta - home)

    def step(self, weights: Params, gradients: Params, home: Params, factors: GateScales | None = None) -> Params:
        """The next dynamic weights of one lane, by the formula; ``weights`` stay as they are."""
        moved = {}
        for number, (name, rates) in enumerate(self.rates.items()):
            alpha, beta = rates.alpha, self.beta[name]
            if factors is not None:
                alpha = alpha * factors.rate_BK[0, number]
                beta = torch.clamp(beta * factors.pull_BK[0, number], max=1)
            scale = 1.0 if self.scale is None else self.scale[name]
            moved[name] = gradient_step(weights[name], gradients[name], alpha, scale, home[name], beta)
        return moved

    @torch.no_grad()
    def step_(
        self,
        theta: Tensor,
        gradient: Gradient,
        home: Tensor,
        native: NativeKernels | None = None,
        factors: GateScales | None = None,
        scratch: Scratch | None = None,
    ) -> None:
        """``gradient_step`` written over ``theta``, the weights of B lanes: (B, ...), as the gradient's name says.

        ``home`` is shared by the lanes (as theta_0 is) or each lane's own. Only the gradient's part is moved, in two
        passes and without a copy, or in one pass by the ``native`` kernel. ``factors`` scale the gradient in place.
        """
        rates, beta, part = self.rates[gradient.name], self.beta[gradient.name], gradient.part
        alpha = float(rates.alpha)
        scale = None if self.scale is None else self.scale[gradient.name]
        own_home = home.dim() == theta.dim()
        theta, home = theta[:, part], home[:, part] if own_home else home[part]
        beta = beta[part] if isinstance(beta, Tensor) else beta
        if factors is not None:
            number = list(self.rates).index(gradient.name)
            like = (-1, *(1,) * (theta.dim() - 1))
            gradient.tensor.mul_(factors.rate_BK[:, number].view(like))
            if self.gates is not None and self.gates.moves_pulls:
                # A tensor of this size made anew for each segment would break up the heap.
                out = None if scratch is None else scratch.take("pulled", tuple(theta.shape), theta)
                pulled = torch.mul(factors.pull_BK[:, number].view(like).expand_as(theta), beta, out=out)
                beta = pulled.clamp_(max=1)
        if native is not None and gradient.rows_BT is None and not own_home and not _per_lane(beta, theta):
            native.step_(theta, home, gradient.tensor, beta, None if scale is None else scale[part], alpha)
            return
        if isinstance(beta, Tensor) or beta:
            theta.lerp_(home.expand_as(theta), beta)
        if gradient.rows_BT is not None:
            _step_of_rows_(theta, gradient.tensor, gradient.rows_BT, alpha, scale)
        elif scale is None:
            theta.sub_(gradient.tensor, alpha=alpha)
        else:
            theta.addcmul_(gradient.tensor, scale[part], value=-alpha)


def _per_lane(beta: Tensor | float, theta: Tensor) -> bool:
    """Whether each lane has a pull of its own."""
    return isinstance(beta, Tensor) and beta.dim() == theta.dim()


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
