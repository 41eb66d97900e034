"""Guided meta-policy search (Mendonca et al. 2019, arXiv 1904.00956): MAML whose outer step imitates experts.

    theta_i = theta + alpha * gradient of J_i(theta),
    meta-loss = mean over tasks of the imitation loss of pi_{theta_i} on the expert's actions

The inner step is that of MAML with policy gradients; the outer one is supervised, so that it needs far fewer episodes.

Legend: T tasks, E episodes, H steps of an episode, N = H steps of a rollout, D numbers of an observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import Environments
from dynlm.fewshot.control.experience import by_task
from dynlm.fewshot.control.networks import NetPolicy
from dynlm.fewshot.control.policies import Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.control.surrogates import surrogate
from dynlm.fewshot.learners.learner import LEARNERS
from dynlm.fewshot.learners.policy_gradient import OuterPolicyLearner, Support
from dynlm.runtime.validation import bounded
from dynlm.types import Params


class Labels(NamedTuple):
    """What experts do in the states of some episodes."""

    observations_TEHD: Tensor
    actions_TEH: Tensor
    """(T, E, H), or (T, E, H, A)."""
    valid_TEH: Tensor


class Demonstrations(NamedTuple):
    """What experts do in their own episodes, in those of the adapted policies, and in those before any step."""

    expert: Labels
    adapted: Labels
    initial: Labels


@LEARNERS.register_kind("guided")
class Guided(OuterPolicyLearner):
    """Guided meta-policy search.

    An expert is the best policy of a task where its environments know it (``optimal_policy``), else a policy that is
    trained on the task. Adapted policies imitate its actions in its own episodes and in some of theirs (as in DAgger,
    Ross et al. 2011). For continuous actions the loss is the expected squared distance of what is drawn, as in the
    authors' code; the likelihood would weigh means the more the smaller the standard deviation is that it teaches.
    All episodes count as environment steps, those of the experts' training too.
    """

    label = "guided search"

    @dataclass
    class Options(OuterPolicyLearner.Options):
        initial_share: float = bounded(0.0, 0, 1)
        """Share of the loss before any inner step, which keeps support episodes near those of experts; 0: none, as
        published."""
        expert_episodes: int = bounded(2, 1, 10_000)
        """Episodes of each task's expert that are imitated."""
        corrected_episodes: int = bounded(2, 1, 10_000)
        """Episodes of each adapted policy in which its expert is imitated."""
        expert_steps: int = bounded(50, 1, 100_000)
        """Steps of training an expert, where a task's best policy is not known, each on as many episodes as an inner
        step."""
        expert_rate: float = bounded(3e-3, 0, 100)
        """Learning rate (Adam's) of that training."""

    def collect(
        self, weights: Params, tasks: Environments, support: Sequence[Support], randomness: Randomness
    ) -> tuple[Demonstrations, float, int]:
        expert, taken = self.expert(tasks, randomness)
        led = rollout(tasks, expert, randomness, 1, self.options.expert_episodes).trajectories
        adapted = self.act(weights, tasks, randomness, self.options.corrected_episodes)
        before = support[0].trajectories
        shown = Demonstrations(
            _labelled(led, led.actions_NTE),
            _labelled(adapted, actions_of(expert, adapted, randomness)),
            _labelled(before, actions_of(expert, before, randomness)),
        )
        return shown, float(adapted.returns_LTE.mean()), taken + led.num_steps + adapted.num_steps

    def expert(self, tasks: Environments, randomness: Randomness) -> tuple[Policy, int]:
        """Return (the experts of T tasks, environment steps that their training took)."""
        known = tasks.optimal_policy()
        return self._trained_expert(tasks, randomness) if known is None else (known, 0)

    def _trained_expert(self, tasks: Environments, randomness: Randomness) -> tuple[Policy, int]:
        taken, generator = 0, torch.Generator().manual_seed(int(randomness.integers(2**31)[0]))
        starts = [self.net.init_params(generator) for _ in range(tasks.tasks)]
        weights = {name: torch.stack([start[name] for start in starts]).requires_grad_() for name in self.names}
        optimizer = torch.optim.Adam(weights.values(), lr=self.options.expert_rate)
        for _ in range(self.options.expert_steps):
            acted = self.act(weights, tasks, randomness, self.problem.episodes)
            taken += acted.num_steps
            experience = self.experience(acted)
            optimizer.zero_grad()
            (-surrogate("score", self.log_probs(weights, experience), experience).sum()).backward()
            optimizer.step()
        return NetPolicy(self.net, {name: tensor.detach() for name, tensor in weights.items()}), taken

    def outer_loss(self, states: Sequence[Params], collected: Demonstrations) -> Tensor:
        first, last = states[0], states[-1]
        loss = (self._imitation_loss(last, collected.expert) + self._imitation_loss(last, collected.adapted)) / 2
        share = self.options.initial_share
        return torch.lerp(loss, self._imitation_loss(first, collected.initial), share) if share else loss

    def _imitation_loss(self, weights: Params, shown: Labels) -> Tensor:
        """Return the network's imitation loss, the mean over steps of a task, then over tasks."""
        losses_TEH = self.net.imitation_losses(weights, shown.observations_TEHD, shown.actions_TEH)
        total_T = losses_TEH.where(shown.valid_TEH, 0.0).sum((1, 2))
        return (total_T / shown.valid_TEH.sum((1, 2))).mean()


def actions_of(policy: Policy, trajectories: Trajectories, randomness: Randomness) -> Tensor:
    """Return what a policy would do in each state of some episodes, (N, T, E) or (N, T, E, A)."""
    seen, (tasks, copies) = trajectories.seen(), trajectories.rewards_NTE.shape[1:]
    state, actions = policy.initial_state(tasks, copies), []
    for step in range(len(trajectories.rewards_NTE)):
        decision = policy.act(state, Seen(*(each[step] for each in seen)), randomness)
        state = decision.state
        actions.append(decision.actions)
    return torch.stack(actions)


def _labelled(trajectories: Trajectories, actions_NTE: Tensor) -> Labels:
    return Labels(by_task(trajectories.observations_NTED), by_task(actions_NTE), by_task(trajectories.valid_NTE))
