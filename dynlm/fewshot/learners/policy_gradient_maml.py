"""MAML with policy gradients (Finn et al. 2017, arXiv 1703.03400, section 4.2), and its variants.

    theta_i = theta + alpha * gradient of J_i(theta),    meta-objective = mean over tasks of J_i(theta_i)

J_i is the expected return in task i. Its estimate in the inner step is a surrogate whose second derivative takes into
account that the actions were sampled from the policy (``learner.surrogate``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import ControlProblem, Environments
from dynlm.fewshot.control.experience import Experience
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.surrogates import Surrogate, clipped
from dynlm.fewshot.inner_loop import Order
from dynlm.fewshot.learners.learner import LEARNERS
from dynlm.fewshot.learners.policy_gradient import OuterPolicyLearner, Support
from dynlm.runtime.validation import bounded
from dynlm.types import Params


@LEARNERS.register_kind("policy-maml")
class PolicyMaml(OuterPolicyLearner):
    """MAML; the outer objective is the clipped one of the adapted policies' episodes (as in ProMP).

    With ``multi_step_loss`` it is the mean of those after each inner step, for which the episodes of the next inner
    step are used: they cost no environment steps more.
    """

    label = "MAML"

    @dataclass
    class Options(OuterPolicyLearner.Options):
        surrogate: Surrogate = "lvc"
        """The inner objective: lvc, dice or score; they have the same gradient, and differ in the meta-gradient."""
        multi_step_loss: bool = False
        """Weigh the returns after every inner step alike, and not the last alone."""
        ratio_clip: float = bounded(0.2, 0, 10)
        """Largest change of an action's probability, as a fraction, that an advantage is pursued to."""

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.multi_step_loss and self.inner_steps == 1:
                what = "learner.multi_step_loss is set, but learner.inner_steps is 1"
                raise UserError(what, do="leave it out, or take more inner steps")
            if self.kind == "policy-fomaml" and self.surrogate != "lvc":
                what = "learner.surrogate is set, but policy-fomaml is first-order, where all are equal"
                raise UserError(what, do="leave it out")

    def __init__(self, options: Any, problem: ControlProblem):
        super().__init__(options, problem)
        self.inner_surrogate = options.surrogate

    def collect(
        self, weights: Params, tasks: Environments, support: Sequence[Support], randomness: Randomness
    ) -> tuple[list[Experience], float, int]:
        acted = self.act(weights, tasks, randomness, self.problem.queries)
        after = [each.experience for each in support[1:]] if self.options.multi_step_loss else []
        return [*after, self.experience(acted)], float(acted.returns_LTE.mean()), acted.num_steps

    def outer_loss(self, states: Sequence[Params], collected: Sequence[Experience]) -> Tensor:
        pairs, clip = zip(states[-len(collected) :], collected, strict=True), self.options.ratio_clip
        gains = [clipped(self.log_probs(weights, each), each, clip).mean() for weights, each in pairs]
        return -torch.stack(gains).mean()


@LEARNERS.register_kind("policy-fomaml")
class PolicyFomaml(PolicyMaml):
    """First-order MAML: inner gradients are constants."""

    label = "FOMAML"
    order = Order.FIRST


@LEARNERS.register_kind("policy-pretrained")
class PolicyPretrained(PolicyMaml):
    """One policy trained on all tasks without inner steps, which takes them on new tasks."""

    label = "pretrained"

    @dataclass
    class Options(PolicyMaml.Options):
        def __post_init__(self) -> None:
            super().__post_init__()
            for name, default in (("surrogate", "lvc"), ("learned_rates", False), ("multi_step_loss", False)):
                if getattr(self, name) != default:
                    what = f"learner.{name} is set, but policy-pretrained takes no inner steps in training"
                    raise UserError(what, do="leave it out")

    @property
    def training_steps(self) -> int:
        return 0
