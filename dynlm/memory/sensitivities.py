"""Exact first-order meta-gradients of the rates, forward in time, at a cost that does not grow with the horizon.

With u_t taken as a constant (first order, as in Andrychowicz et al. 2016) a step's Jacobian d theta_{t+1} / d theta_t
is the diagonal 1 - beta, so the sensitivities s = d theta / d rate obey, weight by weight,

    s_alpha <- (1 - beta) s_alpha - scale * u_t
    s_pull  <- (1 - beta) s_pull  + shape * (theta_0 - theta_t)      (0 where beta is clamped at 1)

and dL_t / d rate = <u_t, s>, summed over the tensor that shares the rate.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from dynlm.memory.rules import Rule
from dynlm.model.lstm import Params


class Sensitivities(NamedTuple):
    """Derivatives of the dynamic weights by their tensor's alpha and pull."""

    alpha: Params
    pull: Params


def no_sensitivities(weights: Params) -> Sensitivities:
    """Of weights that no rate has moved yet: zeros."""
    return Sensitivities(
        {name: torch.zeros_like(tensor) for name, tensor in weights.items()},
        {name: torch.zeros_like(tensor) for name, tensor in weights.items()},
    )


@torch.no_grad()
def meta_gradients(sensitivities: Sensitivities, gradients: Params) -> dict[str, tuple[float, float]]:
    """(dL / d alpha, dL / d pull) of each tensor, for the segment whose gradient at theta_t is ``gradients``."""
    return {
        name: (
            float(torch.dot(gradient.flatten(), sensitivities.alpha[name].flatten())),
            float(torch.dot(gradient.flatten(), sensitivities.pull[name].flatten())),
        )
        for name, gradient in gradients.items()
    }


@torch.no_grad()
def advance_(sensitivities: Sensitivities, rule: Rule, weights: Params, gradients: Params, static: Params) -> None:
    """Carry ``sensitivities`` over the step that ``rule`` is about to take from ``weights``; written over them."""
    for name in rule.rates:
        beta = rule.beta[name]
        free = 1 - beta
        s_alpha, s_pull = sensitivities.alpha[name], sensitivities.pull[name]
        s_alpha.mul_(free)
        if rule.scale is None:
            s_alpha.sub_(gradients[name])
        else:
            s_alpha.addcmul_(gradients[name], rule.scale[name], value=-1)
        s_pull.mul_(free)
        toward = static[name] - weights[name]
        if rule.shape is None:
            if beta < 1:
                s_pull.add_(toward)
        else:
            s_pull.addcmul_(toward, rule.shape[name] * (free > 0))
