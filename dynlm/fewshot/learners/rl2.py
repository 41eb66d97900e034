"""RL^2: a recurrent policy whose memory runs through all episodes of a task, trained by PPO.

Legend: N steps of a task, T tasks, E copies of each (here one), B = T * E, F numbers that a policy sees, D those of an
observation, H width, A discrete actions or numbers of an action, O = A + 1 outputs, K = 1 or D + 1 heads. States have
the batch last, so that each gate is one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.control.actions import ActionDistribution, Categorical, Gaussian
from dynlm.fewshot.control.advantages import generalised_advantages, returns_to_go
from dynlm.fewshot.control.environments import ControlProblem, Environments
from dynlm.fewshot.control.gru import GruWeights, gru_sequence, gru_step, initial_gru, project
from dynlm.fewshot.control.policies import Decision, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.control.surrogates import clipped_gains
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned, MetaStep, add_prefix, gradients_of, strip_prefix
from dynlm.fewshot.learners.policy import PolicyLearner
from dynlm.fewshot.nets import uniform
from dynlm.runtime.validation import LARGEST_WIDTH, bounded
from dynlm.types import Params

_GRU, _HEAD_WEIGHT, _HEAD_BIAS, _LOG_STD = "gru.", "head.weight", "head.bias", "log_std"
_SCALE, _COUNT = "return_scale", "return_count"
_HEAD_BOUND, _LEAST_SHARE = 0.01, 0.05


def gru_of(meta: Params) -> GruWeights:
    """Return the weights of the recurrent layer."""
    return GruWeights(**strip_prefix(_GRU, meta))


def distribution_of(problem: ControlProblem, meta: Params) -> ActionDistribution:
    """Return how actions are drawn."""
    return Categorical() if problem.num_actions else Gaussian(problem, meta[_LOG_STD])


def outputs_of(meta: Params, states_NHB: Tensor, observations_NBD: Tensor) -> Tensor:
    """Return the outputs in these states (N, B, O).

    They are linear in the state or, where the head's weights are (1 + D) H rows, in the state's products with 1 and
    with each number of the observation: outputs = sum over k of c_k W_k' h with c = (1, observation).
    """
    width, bias_O1 = states_NHB.shape[1], meta[_HEAD_BIAS][:, None]
    weight_KHO = meta[_HEAD_WEIGHT].unflatten(0, (-1, width))
    weight_NMH = weight_KHO.transpose(1, 2).flatten(0, 1).expand(len(states_NHB), -1, -1)
    if len(weight_KHO) == 1:
        return torch.baddbmm(bias_O1, weight_NMH, states_NHB).transpose(1, 2)
    parts_NKOB = torch.bmm(weight_NMH, states_NHB).unflatten(1, (len(weight_KHO), -1))
    factors_NKB = F.pad(observations_NBD, (1, 0), value=1.0).transpose(1, 2)
    return ((parts_NKOB * factors_NKB[:, :, None]).sum(1) + bias_O1).transpose(1, 2)


@dataclass(frozen=True)
class RecurrentPolicy:
    """A GRU with linear outputs: what actions are drawn from, and a value.

    It sees ``problem.encode`` and, with ``interactions``, ``problem.encode_interactions``.
    """

    problem: ControlProblem
    meta: Params
    interactions: bool = False
    draws: bool = True
    """Whether actions are drawn; else they are the most probable ones."""

    def initial_state(self, tasks: int, copies: int) -> Tensor:
        return torch.zeros(gru_of(self.meta).recurrent.shape[1], tasks * copies)

    def act(self, state: Tensor, seen: Seen, randomness: Randomness) -> Decision:
        x_TEF, weights = self.problem.encode(seen), gru_of(self.meta)
        if self.interactions:
            x_TEF = torch.cat([x_TEF, self.problem.encode_interactions(seen)], -1)
        x_BF = x_TEF.flatten(0, 1)
        state_HB, *_ = gru_step(project(x_BF, weights), state, weights)
        outputs_BO = outputs_of(self.meta, state_HB[None], seen.observations.flatten(0, 1)[None])[0]
        outputs_TEA = outputs_BO[:, :-1].unflatten(0, seen.rewards.shape)
        distribution = distribution_of(self.problem, self.meta)
        actions = distribution.draw(outputs_TEA, randomness) if self.draws else distribution.mode(outputs_TEA)
        return Decision(actions, state_HB, {"inputs": x_BF, "outputs": outputs_BO})


class Batch(NamedTuple):
    """What PPO learns from; the second axis is the tasks."""

    inputs_NBF: Tensor
    actions_NB: Tensor
    """(N, B) or (N, B, A)."""
    log_probs_NB: Tensor
    """Those of the policy that acted."""
    advantages_NB: Tensor
    targets_NB: Tensor
    """Returns to go in units of the value head."""
    valid_NB: Tensor

    def part(self, index: int, parts: int) -> Batch:
        """Return one of some parts of the tasks."""
        return Batch(*(tensor.tensor_split(parts, 1)[index] for tensor in self))


@LEARNERS.register_kind("rl2")
class Rl2(PolicyLearner):
    """The recurrent policy is the learner that meta-training finds (Duan et al. 2016, arXiv 1611.02779; Wang et al.
    2016, arXiv 1611.05763): it sees the last action, reward and termination, and its state lasts for the whole task.

    All episodes of a task are one to PPO (Schulman et al. 2017, arXiv 1707.06347), which maximises their total return.
    """

    label = "RL²"

    @dataclass
    class Options(PolicyLearner.Options):
        width: int = bounded(64, 1, LARGEST_WIDTH)
        """Width of the recurrent layer (a GRU)."""
        interactions: bool = False
        """Whether the policy also sees products of the last observation, action and reward, and has outputs of its own
        for each number of the observation: what it remembers is then kept, and used, by observation and action."""
        discount: float = bounded(1.0, 0, 1)
        """Discount of a reward for each step until it, through all episodes of a task."""
        gae_lambda: float = bounded(0.6, 0, 1)
        """Lambda of generalised advantage estimation; 1: returns minus values."""
        epochs: int = bounded(3, 1, 1000)
        """Passes over the tasks of a meta-step; with one pass in one minibatch PPO is A2C."""
        minibatches: int = bounded(4, 1, 1000)
        """Parts of these tasks, for each of which the optimiser takes a step in each pass."""
        ratio_clip: float = bounded(0.2, 0, 10)
        """Largest change of an action's probability, as a fraction, that an advantage is pursued to."""
        entropy: float = bounded(0.003, 0, 10)
        """Weight of the entropy bonus, at first: it decreases linearly to 0."""
        value_weight: float = bounded(0.5, 0, 100)
        """Weight of the value head's squared error."""
        test_actions: Literal["drawn", "most-probable"] = "drawn"
        """Actions in evaluation; in training they are drawn."""

    def initial(self, generator: torch.Generator) -> Learned:
        problem, width = self.problem, self.options.width
        actions = problem.num_actions or problem.action_size
        inputs, heads = problem.seen_size, 1
        if self.options.interactions:
            inputs, heads = inputs + problem.interactions_size, 1 + problem.observation_size
        meta = add_prefix(_GRU, initial_gru(inputs, width, generator)._asdict())
        meta[_HEAD_WEIGHT] = uniform((heads * width, actions + 1), _HEAD_BOUND, generator)
        meta[_HEAD_BIAS] = torch.zeros(actions + 1)
        if not problem.num_actions:
            meta[_LOG_STD] = torch.full((actions,), -0.5)
        return Learned(meta, {_SCALE: torch.ones(()), _COUNT: torch.zeros(())})

    def policy(self, learned: Learned, adapted: Adapted) -> Policy:
        options = self.options
        return RecurrentPolicy(self.problem, learned.meta, options.interactions, options.test_actions == "drawn")

    def protocol(self) -> dict[str, Any]:
        return super().protocol() | {"test_actions": self.options.test_actions}

    def meta_steps(
        self, learned: Learned, tasks: Environments, progress: float, generator: torch.Generator
    ) -> Iterator[MetaStep]:
        options = self.options
        constants = {name: tensor.detach() for name, tensor in learned.meta.items()}
        policy = RecurrentPolicy(self.problem, constants, options.interactions)
        acted = rollout(tasks, policy, Randomness(generator, tasks.tasks), self.problem.episodes).trajectories
        batch, buffers = self.batch(learned, acted)
        score, steps = float(acted.returns_LTE.sum(0).mean()), acted.num_steps
        for _ in range(options.epochs):
            for index in range(min(options.minibatches, tasks.tasks)):
                part = batch.part(index, options.minibatches)
                loss = self.loss(learned.meta, part, options.entropy * (1 - progress))
                gradients = gradients_of(loss, learned.meta)
                yield MetaStep(float(loss.detach()), score, gradients, buffers, steps)
                steps = 0

    def batch(self, learned: Learned, acted: Trajectories) -> tuple[Batch, Params]:
        """Return what PPO learns from, and the next buffers.

        The value head's units: the return to go minus its mean over tasks at that step, divided by a running standard
        deviation. Neither how returns shrink toward the end nor their scale is left to learn.
        """
        options, valid_NTE = self.options, acted.valid_NTE
        outputs_NBO = acted.records["outputs"]
        returns_NTE = returns_to_go(acted, options.discount)
        counts_N11 = valid_NTE.sum((1, 2), keepdim=True).clamp_min(1)
        means_N11 = (returns_NTE * valid_NTE).sum((1, 2), keepdim=True) / counts_N11
        variance = ((returns_NTE - means_N11).square() * valid_NTE).sum() / counts_N11.sum()
        share = (1 / (learned.buffers[_COUNT] + 1)).clamp_min(_LEAST_SHARE)
        scale = torch.lerp(learned.buffers[_SCALE], variance.sqrt(), share).clamp_min(1e-6)
        values_NTE = means_N11 + scale * outputs_NBO[..., -1].unflatten(1, valid_NTE.shape[1:])
        advantages_NTE, targets_NTE = generalised_advantages(acted, values_NTE, options.discount, options.gae_lambda)
        of_valid = advantages_NTE[valid_NTE]
        advantages_NTE = (advantages_NTE - of_valid.mean()) / of_valid.std(unbiased=False).clamp_min(1e-8)
        actions_NB = acted.actions_NTE.flatten(1, 2)
        log_probs_NB = distribution_of(self.problem, learned.meta).log_prob(outputs_NBO[..., :-1], actions_NB).detach()
        flat = (advantages_NTE, (targets_NTE - means_N11) / scale, valid_NTE)
        batch = Batch(acted.records["inputs"], actions_NB, log_probs_NB, *(each.flatten(1, 2) for each in flat))
        return batch, {_SCALE: scale, _COUNT: learned.buffers[_COUNT] + 1}

    def loss(self, meta: Params, batch: Batch, entropy_weight: float) -> Tensor:
        """Return PPO's loss (Schulman et al. 2017, equations 7 and 9), a mean over the steps that were taken."""
        states_NHB = gru_sequence(batch.inputs_NBF, gru_of(meta))
        observations_NBD = batch.inputs_NBF[..., : self.problem.observation_size]
        outputs_NBO = outputs_of(meta, states_NHB, observations_NBD)
        outputs_NBA, values_NB = outputs_NBO[..., :-1], outputs_NBO[..., -1]
        distribution = distribution_of(self.problem, meta)
        log_ratios_NB = distribution.log_prob(outputs_NBA, batch.actions_NB) - batch.log_probs_NB
        gains_NB = clipped_gains(log_ratios_NB, batch.advantages_NB, self.options.ratio_clip)
        losses_NB = self.options.value_weight * (values_NB - batch.targets_NB).square() - gains_NB
        losses_NB = losses_NB - entropy_weight * distribution.entropy(outputs_NBA)
        return (losses_NB * batch.valid_NB).sum() / batch.valid_NB.sum()
