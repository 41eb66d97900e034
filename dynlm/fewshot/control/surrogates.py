"""Objectives whose derivatives are those of the expected return, computed from sampled actions.

With p_t the probability of the action taken in step t, q_t its probability when it was sampled (a constant) and A_t
its advantage, all are sums over steps of

    score   log(p_t) A_t                              first derivative (REINFORCE); the second ignores that actions were
                                                      sampled from the policy (the original MAML's estimate)
    lvc     (p_t / q_t) A_t                           first derivative; of the second all but products of different
                                                      steps, which vary much (Rothfuss et al. 2019, arXiv 1810.06784,
                                                      eq. 8; Liu et al. 2019, arXiv 1904.12191)
    dice    (c_t - c_{t-1}) A_t, c_t = p_1/q_1 ... p_t/q_t   derivatives of any order (Foerster et al. 2018,
                                                      arXiv 1802.05098; this form: Farquhar et al. 2019, arXiv
                                                      1909.10549, eq. 13)
    clipped min((p_t / q_t) A_t, clip(p_t / q_t, 1 - c, 1 + c) A_t)   for several steps on the same actions (Schulman
                                                      et al. 2017, arXiv 1707.06347, eq. 7)

Where p = q, the first derivatives of all four are equal. Sums are divided by the number of steps of each task.

Legend: T tasks, E episodes, H steps of an episode.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from dynlm.fewshot.control.experience import Experience

Surrogate = Literal["lvc", "dice", "score"]


def surrogate(kind: Surrogate, log_probs_TEH: Tensor, experience: Experience) -> Tensor:
    """Return the objective of each task (T,), from the log-probabilities under the weights to differentiate in."""
    advantages_TEH = experience.advantages_TEH
    if kind == "score":
        return _mean(log_probs_TEH * advantages_TEH, experience)
    log_ratios_TEH = (log_probs_TEH - experience.log_probs_TEH).where(experience.valid_TEH, 0.0)
    if kind == "lvc":
        return _mean(log_ratios_TEH.exp() * advantages_TEH, experience)
    until_TEH = log_ratios_TEH.cumsum(-1)
    return _mean((until_TEH.exp() - (until_TEH - log_ratios_TEH).exp()) * advantages_TEH, experience)


def clipped_gains(log_ratios: Tensor, advantages: Tensor, ratio_clip: float) -> Tensor:
    """Return the clipped gain of each step, from log(p / q)."""
    ratios = log_ratios.exp()
    return torch.minimum(ratios * advantages, ratios.clamp(1 - ratio_clip, 1 + ratio_clip) * advantages)


def clipped(log_probs_TEH: Tensor, experience: Experience, ratio_clip: float) -> Tensor:
    """Return the clipped objective of each task (T,)."""
    log_ratios_TEH = log_probs_TEH - experience.log_probs_TEH
    return _mean(clipped_gains(log_ratios_TEH, experience.advantages_TEH, ratio_clip), experience)


def _mean(values_TEH: Tensor, experience: Experience) -> Tensor:
    valid_TEH = experience.valid_TEH
    return values_TEH.where(valid_TEH, 0.0).sum((1, 2)) / valid_TEH.sum((1, 2))
