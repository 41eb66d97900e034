"""The recurrent layer beside torch's own, and distributions of actions beside torch's."""

from __future__ import annotations

import pytest
import torch

from dynlm.fewshot.control.actions import Categorical, Gaussian, log_softmax
from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.gru import GruWeights, gru_sequence, gru_step, initial_gru, project
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.tasks.source import seeded


def random_weights(inputs: int, width: int) -> GruWeights:
    shapes = initial_gru(inputs, width, seeded(0))
    drawn = (torch.randn(tensor.shape, generator=seeded(1), dtype=torch.float64) for tensor in shapes)
    return GruWeights(*(tensor.requires_grad_() for tensor in drawn))


@pytest.mark.parametrize("steps, batch", [(1, 1), (6, 3)])
def test_a_sequence_equals_torchs_gru_with_its_gradients(steps: int, batch: int) -> None:
    weights = random_weights(5, 4)
    x, upper = (torch.randn(steps, batch, n, generator=seeded(n), dtype=torch.float64) for n in (5, 4))
    ours = gru_sequence(x, weights).transpose(1, 2)
    theirs, _ = torch.gru(x, upper.new_zeros(1, batch, 4), list(weights), True, 1, 0.0, True, False, False)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad((out * upper).sum(), weights) for out in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


def test_steps_equal_the_sequence() -> None:
    weights = GruWeights(*(tensor.detach() for tensor in random_weights(3, 2)))
    x, hidden = torch.randn(4, 5, 3, generator=seeded(2), dtype=torch.float64), torch.zeros(2, 5, dtype=torch.float64)
    for x_BF, after in zip(x, gru_sequence(x, weights), strict=True):
        hidden, *_ = gru_step(project(x_BF, weights), hidden, weights)
        assert torch.equal(hidden, after)


def test_discrete_actions_equal_torchs_distribution() -> None:
    logits = 30 * torch.randn(7, 2, 5, generator=seeded(0))
    torch.testing.assert_close(log_softmax(logits), logits.log_softmax(-1))
    ours, theirs = Categorical(), torch.distributions.Categorical(logits=logits)
    actions = theirs.sample()
    torch.testing.assert_close(ours.log_prob(logits, actions), theirs.log_prob(actions))
    torch.testing.assert_close(ours.entropy(logits), theirs.entropy())
    torch.testing.assert_close(ours.imitation_loss(logits, actions), -theirs.log_prob(actions))
    drawn = ours.draw(logits[:, :1].expand(-1, 4000, -1), Randomness(seeded(1), 7))
    shares = torch.stack([(drawn == action).double().mean(1) for action in range(5)], -1)
    torch.testing.assert_close(shares, theirs.probs[:, 0].double(), atol=0.03, rtol=0)


def test_normal_actions_equal_torchs_distribution_in_the_problems_units() -> None:
    problem = ControlProblem(1, 1, 1, action_size=2, low=-1.0, high=3.0)
    ours = Gaussian(problem, torch.tensor([-1.0, 0.5]))
    outputs = torch.randn(3, 2, 2, generator=seeded(0))
    theirs = torch.distributions.Normal(1 + 2 * outputs, 2 * ours.log_std.exp())
    actions = theirs.sample()
    # The density of actions in units in which the bounds are -1 and 1 is larger, by the half range for each number.
    wanted = (theirs.log_prob(actions) + torch.tensor(2.0).log()).sum(-1)
    torch.testing.assert_close(ours.log_prob(outputs, actions), wanted)
    torch.testing.assert_close(ours.entropy(outputs), (theirs.entropy() - torch.tensor(2.0).log()).sum(-1))
    drawn = ours.draw(outputs[:, :1].expand(-1, 20_000, -1), Randomness(seeded(1), 3))
    torch.testing.assert_close(drawn.mean(1), theirs.mean[:, 0], atol=0.1, rtol=0)
    torch.testing.assert_close(drawn.std(1), theirs.stddev[:, 0], atol=0.06, rtol=0)
    torch.testing.assert_close(ours.mode(outputs), theirs.mean)
    # The imitation loss is the mean over what is drawn of half the squared distance, in units of half the range.
    distances = 0.5 * ((drawn - actions[:, :1]) / 2).square().sum(-1)
    torch.testing.assert_close(distances.mean(1), ours.imitation_loss(outputs, actions)[:, 0], atol=0.05, rtol=0.03)


def test_each_task_may_have_standard_deviations_of_its_own() -> None:
    problem = ControlProblem(1, 1, 1, action_size=2, low=-1.0, high=3.0)
    log_std_T1A = torch.tensor([[[-1.0, 0.5]], [[0.3, -0.2]]])
    outputs, actions = (torch.randn(2, 4, 2, generator=seeded(seed)) for seed in (0, 1))
    together = Gaussian(problem, log_std_T1A)
    for task in range(2):
        alone = Gaussian(problem, log_std_T1A[task, 0])
        for method in ("log_prob", "imitation_loss"):
            one, other = getattr(together, method)(outputs, actions), getattr(alone, method)(outputs, actions)
            torch.testing.assert_close(one[task], other[task])
        assert torch.equal(together.entropy(outputs)[task], alone.entropy(outputs)[task])
