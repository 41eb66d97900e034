"""Exact first-order meta-gradients of the rates, forward in time, at a cost that does not grow with the horizon.

Legend: B lanes, K dynamic tensors.

With u_t taken as a constant (first order, as in Andrychowicz et al. 2016) a step's Jacobian d theta_{t+1} / d theta_t
is the diagonal 1 - beta. The sensitivities to the logarithms of a tensor's rate and pull obey, weight by weight,

    s_alpha <- (1 - beta) s_alpha - alpha * scale * u_t
    s_pull  <- (1 - beta) s_pull  + beta * (theta_0 - theta_t)       (0 where beta is clamped at 1)

and dL_t / d log rate = <u_t, s>, summed over whatever shares the rate. The first recurrence is the one that
theta_t - theta_0 itself obeys, from the same zero: s_alpha is the distance from home and need not be kept, and one
tensor beside the weights is all that meta-training costs. Where the rates themselves move while the text is read, both
are derivatives by a constant added to the logarithm at all times.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dynlm.memory.rules import Rule
from dynlm.memory.state import Memory
from dynlm.model.lanes import Gradient
from dynlm.model.lstm import Params
from dynlm.model.scratch import Scratch


class Sensitivities:
    """d theta_t / d log pull of every lane and weight, and the meta-gradients gathered so far.

    An ``Observer`` of the reading that ``rule`` does from ``memory``; ``rule`` is set anew when its rates change.
    """

    def __init__(self, rule: Rule, memory: Memory, static: Params):
        self.rule = rule
        self.names = list(memory.weights)
        self.pull: Params = {name: torch.zeros_like(tensor) for name, tensor in memory.weights.items()}
        like = next(iter(self.pull.values()))
        self.gathered_K2 = torch.zeros(len(self.names), 2, dtype=torch.float64, device=like.device)
        """Sum over segments and lanes of dL / d (log alpha, log pull); zero it after taking it."""
        self._static = static
        self._scratch = Scratch()

    def restart(self, lanes: Iterable[int]) -> None:
        """These lanes' weights go home, where no rate has moved them."""
        for tensor in self.pull.values():
            for lane in lanes:
                tensor[lane].zero_()

    @torch.no_grad()
    def __call__(self, gradient: Gradient, theta: Tensor, lanes: slice) -> None:
        """Gather the meta-gradients of a segment at theta_t, then carry the sensitivities over the coming step."""
        name, part = gradient.name, gradient.part
        beta, theta, s_pull = self.rule.beta[name], theta[:, part], self.pull[name][lanes, part]
        home = torch.sub(
            self._static[name][part], theta, out=self._scratch.take("home", tuple(theta.shape), gradient.tensor)
        )
        sums = self.gathered_K2[self.names.index(name)]
        for lane, u in enumerate(gradient.tensor):
            sums[0] -= torch.dot(u.flatten(), home[lane].flatten())
            sums[1] += torch.dot(u.flatten(), s_pull[lane].flatten())
        if isinstance(beta, Tensor):
            s_pull.lerp_(home, beta[part])
            if self.rule.clamps[name]:
                s_pull.mul_(beta[part] < 1)
        elif beta < 1:
            s_pull.lerp_(home, beta)
        else:
            s_pull.zero_()
