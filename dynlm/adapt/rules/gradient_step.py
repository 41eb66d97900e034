"""The gradient step of all rules and learners as a formula."""

from __future__ import annotations

import torch
from torch import Tensor


def gradient_step(
    theta: Tensor,
    gradient: Tensor,
    lr: Tensor | float,
    precondition: Tensor | float = 1.0,
    anchor: Tensor | None = None,
    beta: Tensor | float = 0.0,
) -> Tensor:
    """Return the next weights as a new tensor; differentiable."""
    moved = theta if anchor is None else theta + beta * (anchor - theta)
    if isinstance(lr, float) and isinstance(precondition, float):
        return torch.sub(moved, gradient, alpha=lr * precondition)  # one operation, and one of each derivative
    return moved - lr * precondition * gradient
