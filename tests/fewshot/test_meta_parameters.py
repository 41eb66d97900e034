"""The controller of Schweighofer & Doya: its updates by hand, and what it does without control."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.policies import Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.evaluate import score_episodes
from dynlm.fewshot.learners.learner import LEARNERS, Adapted
from dynlm.fewshot.learners.meta_parameters import ControlledPolicy, MetaParameterController
from dynlm.fewshot.options import EvaluateOptions, FewShotOptions
from dynlm.fewshot.tasks.source import SOURCES, seeded
from dynlm.fewshot.tasks.tabular import TabularEnvironments


def policy_of(problem: ControlProblem, **options: Any) -> ControlledPolicy:
    options_class = LEARNERS["meta-parameters"].Options
    learner = MetaParameterController(options_class(inverse_temperature=2.0, **options), problem)
    learned = learner.initial(seeded(0))
    return learner.policy(learned, Adapted({}, None, 0))  # type: ignore[return-value]


def seen_of(state: int, action: int, reward: float, ended: bool = False) -> Seen:
    observation = torch.eye(2)[state][None, None]
    return Seen(observation, observation, torch.tensor([[action]]), torch.tensor([[reward]]), torch.tensor([[ended]]))


@pytest.mark.parametrize("algorithm", ["q-learning", "sarsa"])
def test_action_values_by_hand(algorithm: str) -> None:
    """Learning rate 0.5 and discount 0.8, uncontrolled."""
    problem = ControlProblem(2, 3, 2, num_actions=2)
    policy = policy_of(problem, algorithm=algorithm, rate=0.5, discount=0.8, control_rate=0.0, noise=0.0)
    state, randomness = policy.initial_state(1, 1), Randomness(seeded(0), 1)
    values = torch.zeros(2, 2)
    # (state, reward for the last action, whether it ended an episode).
    steps = [(0, 0.0, False), (1, 2.0, False), (0, 4.0, False), (1, -1.0, True), (0, 3.0, False), (0, 1.0, False)]
    last_state, last_action = 0, -1
    for index, (now, reward, ended) in enumerate(steps):
        decision = policy.act(state, seen_of(now, last_action, reward, ended), randomness)
        action = int(decision.actions)
        if index:
            following = values[now].max() if algorithm == "q-learning" else values[now, action]
            target = reward + (0.0 if ended else 0.8 * float(following))
            values[last_state, last_action] += 0.5 * (target - values[last_state, last_action])
        torch.testing.assert_close(decision.state.values[0, 0], values)
        state, last_state, last_action = decision.state, now, action


def test_meta_parameters_move_along_the_noise_where_rewards_grow() -> None:
    policy = policy_of(ControlProblem(0, 1, 9, num_actions=2), control_rate=0.5, short_steps=2.0, long_steps=4.0)
    state = policy.initial_state(1, 1)
    begun = state.base[0, 0].tolist()
    assert begun == pytest.approx([0.0, math.log(2.0), math.log(0.9 / 0.1)], abs=1e-5)
    noise = torch.tensor([[[0.1, -0.2, 0.0]]])
    control = policy.control
    state = control(state._replace(step=1, noise=noise), torch.tensor([[1.0]]))
    assert float(state.short) == float(state.long) == 1.0 and state.base[0, 0].tolist() == pytest.approx(begun)
    state = control(state._replace(step=2), torch.tensor([[3.0]]))
    # short = 1 + (3 - 1) / 2 = 2, long = 1 + (2 - 1) / 4 = 1.25: the meta-parameters move by 0.5 * 0.75 * noise.
    assert float(state.short) == 2.0 and float(state.long) == 1.25
    moved = [0.375 * float(one) for one in noise[0, 0]]
    assert (state.base[0, 0] - torch.tensor(begun)).tolist() == pytest.approx(moved, abs=1e-6)
    worse = control(state._replace(step=3), torch.tensor([[-9.0]]))
    assert float(worse.base[0, 0, 1]) > float(state.base[0, 0, 1]), "against the noise where rewards fall"


def test_perturbations_are_held_and_differ_between_copies() -> None:
    policy = policy_of(ControlProblem(0, 1, 9, num_actions=2), hold=3)
    state, randomness = policy.initial_state(2, 4), Randomness(seeded(0), 2)
    blank = torch.zeros(2, 4)
    noises = []
    for _ in range(7):
        nothing = blank[..., None][..., :0]
        seen = Seen(nothing, nothing, blank.long(), blank, torch.ones_like(blank, dtype=torch.bool))
        state = policy.act(state, seen, randomness).state
        noises.append(state.noise)
    changed = [not torch.equal(one, other) for one, other in itertools.pairwise(noises)]
    assert changed == [False, False, True, False, False, True]
    assert len(set(noises[0].flatten().tolist())) == 24


def test_it_finds_a_rewarding_state() -> None:
    """Action 1 leads to the second state and stays there, where each step pays 1."""
    transitions = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    rewards = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    problem = ControlProblem(2, 10, 60, num_actions=2)
    environments = TabularEnvironments(problem, {"transitions": transitions, "rewards": 3 * rewards})
    policy = policy_of(problem, rate=0.2, control_rate=0.02)
    returns = rollout(environments, policy, Randomness(seeded(1), 1), 60, copies=100).trajectories.returns_LTE[:, 0]
    assert float(returns[-10:].mean()) > float(returns[0].mean()) + 5


@pytest.mark.parametrize("source, least", [("bandit", 5.3), ("tabular", 103)])
def test_it_beats_random_actions_and_chooses_its_temperature(source: str, least: float) -> None:
    evaluation = EvaluateOptions(episodes=600, at_once=300)
    learner_options = LEARNERS["meta-parameters"].Options(inverse_temperature=5.0 if source == "bandit" else 1.0)
    options = FewShotOptions(task=SOURCES[source].Options(), learner=learner_options, evaluate=evaluation)
    tasks, learner = options.create()
    mean, _ = score_episodes(learner, learner.initial(seeded(0)), tasks, options).total()
    assert mean > least


@pytest.mark.parametrize("source", ["navigation", "gymnasium", "cubic"])
def test_other_tasks_are_refused(source: str) -> None:
    with pytest.raises(UserError, match="learner.kind 'meta-parameters'"):
        FewShotOptions(task=SOURCES[source].Options(), learner=LEARNERS["meta-parameters"].Options())
