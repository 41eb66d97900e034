"""A baseline of returns that is fitted to the episodes of a task.

Legend: T tasks, E episodes, H steps of an episode, N = E * H, D numbers of an observation, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-5
_LARGEST_OBSERVATION = 10.0


def fit_baseline(observations_TEHD: Tensor, returns_TEH: Tensor, valid_TEH: Tensor) -> Tensor:
    """Return the least-squares fit of the returns of each task (T, E, H), 0 at padding.

    It is linear in the observations, their squares, t, t^2, t^3 and 1, with t the share of the horizon that has passed
    (Duan et al. 2016, arXiv 1604.06778, section 4.1), and computed in float64.
    """
    x_TEHD = observations_TEHD.double().clamp(-_LARGEST_OBSERVATION, _LARGEST_OBSERVATION)
    horizon = x_TEHD.shape[2]
    time_H1 = torch.arange(horizon, dtype=torch.float64)[:, None] / horizon
    powers_H4 = torch.cat([time_H1**power for power in range(4)], -1)
    parts = [x_TEHD, x_TEHD.square(), powers_H4.expand(*x_TEHD.shape[:-1], -1)]
    features_TNF = (torch.cat(parts, -1) * valid_TEH[..., None]).flatten(1, 2)
    products_TFF = features_TNF.mT @ features_TNF
    products_TFF += _RIDGE * torch.eye(products_TFF.shape[-1], dtype=torch.float64)
    right_TF1 = features_TNF.mT @ returns_TEH.double().flatten(1)[..., None]
    fitted_TN1 = features_TNF @ torch.linalg.solve(products_TFF, right_TF1)
    return fitted_TN1.view(returns_TEH.shape).to(returns_TEH)
