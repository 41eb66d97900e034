"""Returns to go and advantages over all episodes of a task.

Legend: N steps, T tasks, E copies of each.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.fewshot.control.rollout import Trajectories


class Estimates(NamedTuple):
    """Advantages, and the returns to go that a value function is fitted to (N, T, E)."""

    advantages: Tensor
    returns: Tensor


def returns_to_go(trajectories: Trajectories, discount: float) -> Tensor:
    """Return the discounted sum of the rewards from each step to the end of the task's last episode (N, T, E)."""
    zeros_NTE = torch.zeros_like(trajectories.rewards_NTE)
    return generalised_advantages(trajectories, zeros_NTE, discount, 1.0).returns


def generalised_advantages(
    trajectories: Trajectories, values_NTE: Tensor, discount: float, gae_lambda: float
) -> Estimates:
    """Return generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, equation 16),

        A_t = delta_t + discount * lambda * A_{t+1},    delta_t = r_t + discount * V_{t+1} - V_t

    and A_t + V_t. The task's episodes are one (Duan et al. 2016): nothing is cut where an episode ends. Steps after the
    end of an episode that was shorter than others are passed over, and their own estimates are 0.
    """
    advantages_NTE, later_TE = torch.zeros_like(values_NTE), torch.zeros_like(values_NTE[0])
    next_value_TE = later_TE
    for step in reversed(range(len(values_NTE))):
        valid_TE, value_TE = trajectories.valid_NTE[step], values_NTE[step]
        delta_TE = trajectories.rewards_NTE[step] + discount * next_value_TE - value_TE
        advantages_NTE[step] = (delta_TE + discount * gae_lambda * later_TE) * valid_TE
        later_TE = torch.where(valid_TE, advantages_NTE[step], later_TE)
        next_value_TE = torch.where(valid_TE, value_TE, next_value_TE)
    return Estimates(advantages_NTE, (advantages_NTE + values_NTE) * trajectories.valid_NTE)
