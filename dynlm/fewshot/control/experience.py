"""Episodes as constants that the objectives of policy gradients are computed from.

Legend: T tasks, E episodes, H steps of an episode, N = H steps of a rollout, D numbers of an observation, A numbers of
an action.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from dynlm.fewshot.control.advantages import generalised_advantages, returns_to_go
from dynlm.fewshot.control.baseline import fit_baseline
from dynlm.fewshot.control.rollout import Trajectories


class Experience(NamedTuple):
    """Episodes of T tasks, with the advantages of what was done in them."""

    observations_TEHD: Tensor
    actions_TEH: Tensor
    """(T, E, H), or (T, E, H, A)."""
    log_probs_TEH: Tensor
    """Log-probabilities of the actions when they were sampled."""
    advantages_TEH: Tensor
    valid_TEH: Tensor
    """Whether the step was taken, and is no padding after an episode's end."""


def experience_of(trajectories: Trajectories, discount: float, gae_lambda: float, normalised: bool) -> Experience:
    """Return single episodes of E copies as experience, by ``generalised_advantages`` with ``fit_baseline``.

    With ``normalised`` the advantages of each task are shifted and scaled to mean 0 and variance 1. Trajectories need
    records of log-probabilities, ``log_prob``.
    """
    observations_TEHD = by_task(trajectories.observations_NTED)
    valid_TEH = by_task(trajectories.valid_NTE)
    returns_TEH = by_task(returns_to_go(trajectories, discount))
    values_NTE = fit_baseline(observations_TEHD, returns_TEH, valid_TEH).movedim(-1, 0)
    advantages_TEH = by_task(generalised_advantages(trajectories, values_NTE, discount, gae_lambda).advantages)
    if normalised:
        count_T11 = valid_TEH.sum((1, 2), keepdim=True)
        shifted_TEH = advantages_TEH - advantages_TEH.sum((1, 2), keepdim=True) / count_T11
        variance_T11 = (shifted_TEH.square() * valid_TEH).sum((1, 2), keepdim=True) / count_T11
        advantages_TEH = shifted_TEH / variance_T11.sqrt().clamp_min(1e-8)
    actions_TEH, log_probs_TEH = by_task(trajectories.actions_NTE), by_task(trajectories.records["log_prob"])
    return Experience(observations_TEHD, actions_TEH, log_probs_TEH, advantages_TEH, valid_TEH)


def by_task(tensor_NTE: Tensor) -> Tensor:
    """Return (N, T, E, ...) as (T, E, H, ...): single episodes with the tasks first, as their networks need them."""
    return tensor_NTE.movedim(0, 2).contiguous()
