"""The gradient step toward an anchor: as a formula, and in place in some rows of an embedding.

Legend: B lanes, V rows, E width, T tokens of a segment.
"""

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
    """Return the next weights of a rule or few-shot learner as a new tensor; differentiable."""
    moved = theta if anchor is None else theta + beta * (anchor - theta)
    if isinstance(lr, float) and isinstance(precondition, float):
        return torch.sub(moved, gradient, alpha=lr * precondition)  # one operation, and one of each derivative
    return moved - lr * precondition * gradient


def largest_norm(of_lanes: Tensor) -> float:
    """Return the largest norm of any lane."""
    if len(of_lanes) == 1:
        return float(torch.linalg.vector_norm(of_lanes))
    return float(torch.linalg.vector_norm(of_lanes, dim=tuple(range(1, of_lanes.dim()))).amax())


def descend_(theta: Tensor, u: Tensor, rows_BT: Tensor | None, lr: float, precondition: Tensor | None) -> None:
    """Subtract lr * precondition * u in place; ``rows_BT``: the only rows in which u can differ from zero."""
    if rows_BT is not None:
        step_rows_(theta, u, rows_BT, lr, precondition)
    elif precondition is None:
        theta.sub_(u, alpha=lr)
    else:
        theta.addcmul_(u, precondition, value=-lr)


def step_rows_(theta_BVE: Tensor, u_BVE: Tensor, rows_BT: Tensor, lr: float, precondition: Tensor | None) -> None:
    """Take the step in the rows ``rows_BT`` alone; a row that is named twice is given the same value twice."""
    index_BTE = rows_BT[..., None].expand(-1, -1, theta_BVE.shape[-1])
    moved_BTE = lr * u_BVE.gather(1, index_BTE)
    if precondition is not None:
        moved_BTE *= precondition[rows_BT]
    theta_BVE.scatter_(1, index_BTE, theta_BVE.gather(1, index_BTE) - moved_BTE)
