"""A bandit of two arms whose outcomes are enumerated: each is there as often as it is likely, in float64."""

from __future__ import annotations

from typing import Any

import torch

from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.rollout import Trajectories, nothing_seen
from dynlm.fewshot.learners.learner import Learned
from dynlm.fewshot.learners.policy_gradient_maml import PolicyMaml
from dynlm.fewshot.tasks.source import seeded

SHARES = torch.tensor([0.25, 0.75], dtype=torch.float64)
"""Probabilities of the policy's arms."""
PAID = torch.tensor([0.5, 0.25], dtype=torch.float64)
"""Probabilities that the arms give 1."""
PROBLEM = ControlProblem(0, 1, 16, num_actions=2)


def learner_with_policy(shares: torch.Tensor, **options: Any) -> tuple[PolicyMaml, Learned]:
    """Return a learner whose initial policy has these probabilities, though all of its weights count."""
    kind = PolicyMaml.Options(
        hidden=[3], activation="tanh", inner_rate=0.8, normalised=False, discount=1.0, ratio_clip=10.0, **options
    )
    learner = PolicyMaml(kind, PROBLEM)
    meta = {name: tensor.double() for name, tensor in learner.initial(seeded(0)).meta.items()}
    hidden = torch.tanh(meta["linear.0.bias"])
    meta["linear.1.bias"] = shares.log() - hidden @ meta["linear.1.weight"]
    return learner, Learned({name: tensor.requires_grad_() for name, tensor in meta.items()}, {})


def enumerated() -> Trajectories:
    """Return 16 pulls: every arm and reward as often as it is likely under SHARES."""
    actions, rewards = [], []
    for arm in range(2):
        pulls = round(16 * float(SHARES[arm]))
        wins = round(pulls * float(PAID[arm]))
        actions += [arm] * pulls
        rewards += [1.0] * wins + [0.0] * (pulls - wins)
    actions_NTE = torch.tensor(actions)[None, None]
    rewards_NTE = torch.tensor(rewards, dtype=torch.float64)[None, None]
    all_NTE = torch.ones(1, 1, 16, dtype=torch.bool)
    return Trajectories(
        torch.zeros(1, 1, 16, 0, dtype=torch.float64),
        actions_NTE,
        rewards_NTE,
        all_NTE,
        all_NTE,
        1,
        nothing_seen(PROBLEM, 1, 16),
        {"log_prob": SHARES.log()[actions_NTE]},
    )
