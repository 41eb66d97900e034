"""Policies that nobody trained: their known returns, and what they do in tasks whose answer is known."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import ControlProblem
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories
from dynlm.fewshot.evaluate import score_episodes
from dynlm.fewshot.learners.bandit_yardsticks import Counts, Ucb1
from dynlm.fewshot.learners.learner import LEARNERS, Adapted, Learned
from dynlm.fewshot.learners.policy import PolicyLearner
from dynlm.fewshot.options import EvaluateOptions, FewShotOptions
from dynlm.fewshot.results import EpisodeScores
from dynlm.fewshot.tasks.source import SOURCES, seeded, task_sampler
from dynlm.fewshot.tasks.tabular import TabularEnvironments

GIVEN: dict[str, Any] = {"epsilon-greedy": {"epsilon": 0.0}, "ucb1": {"confidence": 0.1}, "opsrl": {"samples": 3}}
GIVEN |= {"epsilon-greedy-q": {"epsilon": 0.01}, "meta-parameters": {"inverse_temperature": 5.0}}


def options_of(kind: str, source: str, at_once: int = 250, tasks: int = 1000, **task: Any) -> FewShotOptions:
    evaluation = EvaluateOptions(episodes=tasks, at_once=at_once)
    learner = LEARNERS[kind].Options(**GIVEN.get(kind, {}))
    return FewShotOptions(task=SOURCES[source].Options(**task), learner=learner, evaluate=evaluation)


@functools.cache
def scores_of(kind: str, source: str, at_once: int = 250, tasks: int = 1000, **task: int) -> EpisodeScores:
    options = options_of(kind, source, at_once, tasks, **task)
    tasks_of, learner = options.create()
    return score_episodes(learner, learner.initial(seeded(0)), tasks_of, options)


def test_yardsticks_of_bandits_have_their_known_returns() -> None:
    """10 arms and 10 pulls. The expected largest of ten uniform numbers is 10 / 11."""
    wanted = {"random-actions": 5.0, "thompson": 5.6, "greedy": 6.65, "epsilon-greedy": 6.65, "ucb1": 6.65}
    for kind, mean in {**wanted, "gittins": 6.65, "oracle": 100 / 11}.items():
        found, half = scores_of(kind, "bandit").total()
        assert abs(found - mean) < 1.3 * half, (kind, found, half)
    assert scores_of("gittins", "bandit").total()[0] > scores_of("thompson", "bandit").total()[0] + 0.5


def test_yardsticks_of_tabular_tasks_are_in_order() -> None:
    totals = {
        k: scores_of(k, "tabular", tasks=300).total()
        for k in ("random-actions", "epsilon-greedy-q", "psrl", "opsrl", "oracle")
    }
    means = {kind: mean for kind, (mean, _) in totals.items()}
    assert means["random-actions"] == pytest.approx(100, abs=4)
    assert means["psrl"] > 127 and means["opsrl"] > 125 and means["epsilon-greedy-q"] > 140 and means["oracle"] > 200
    optimal = scores_of("oracle", "tabular", tasks=300).optimal_total()
    assert optimal is not None and abs(means["oracle"] - optimal) < 2 * totals["oracle"][1]


def test_regret_is_what_is_missing_to_the_best_policy() -> None:
    scores = scores_of("oracle", "bandit")
    regret = scores.regret()
    assert regret is not None and regret.shape == (2, 10) and abs(regret[0, -1]) < 1.5 * regret[1, -1]
    worse = scores_of("random-actions", "bandit").regret()
    assert worse is not None and (worse[0, 1:] > worse[0, :-1]).all()
    assert worse[0, -1] == pytest.approx(10 * (10 / 11 - 0.5), abs=0.15)


@pytest.mark.parametrize("kind", [k for k in LEARNERS.names() if issubclass(LEARNERS[k], PolicyLearner)])
def test_scores_do_not_depend_on_the_batch(kind: str) -> None:
    short = {"bandit": {}, "tabular": {"episodes": 3}, "navigation": {"horizon": 20}}
    for source, task in short.items():
        try:
            many, few = (scores_of(kind, source, at_once, 8, **task) for at_once in (8, 5))
        except UserError:
            continue
        assert torch.allclose(torch.tensor(many.values_EJ), torch.tensor(few.values_EJ), atol=1e-5), source


def test_psrl_finds_the_best_policy_of_a_task_with_one() -> None:
    """Two states: action 1 leads to the second and stays there, where each step pays 3; elsewhere nothing is paid."""
    transitions = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]]])
    rewards = torch.tensor([[[0.0, 0.0], [3.0, 3.0]]])
    problem = ControlProblem(2, 10, 40, num_actions=2)
    environments = TabularEnvironments(problem, {"transitions": transitions, "rewards": rewards})
    returns = {}
    for kind in ("psrl", "opsrl", "epsilon-greedy-q"):
        learner = LEARNERS[kind](LEARNERS[kind].Options(**GIVEN.get(kind, {})), problem)
        learned = learner.initial(seeded(0))
        acted: Trajectories = learner.lifetime(
            learned, Adapted({}, environments, 0), Randomness(seeded(1), 1), copies=200
        ).trajectories
        returns[kind] = acted.returns_LTE[:, 0].mean(1)
    assert float(environments.optimal_returns()) == 27
    for kind in ("psrl", "opsrl"):
        assert float(returns[kind][0]) < 20 and float(returns[kind][-10:].mean()) == pytest.approx(27, abs=0.8), kind
    # Without exploration some copies never learn what the second state pays.
    assert 14 < float(returns["epsilon-greedy-q"][-1]) < 25


def test_constants_are_chosen_on_the_valid_split() -> None:
    options = options_of("ucb1", "bandit")
    source, _ = options.create()
    learner = Ucb1(Ucb1.Options(), source.problem)
    asked = []

    def sample(indices: Any) -> Any:
        asked.append(len(indices))
        return task_sampler(source, 0, "valid")(indices)

    learned, about = learner.tune(learner.initial(seeded(0)), sample)
    assert asked == [1000] and about["split"] == "valid" and about["grid"] == list(Ucb1.grid)
    assert (
        about["confidence"] == Ucb1.grid[about["returns"].index(max(about["returns"]))] == learner.constant_of(learned)
    )
    given = Ucb1(Ucb1.Options(confidence=0.25), source.problem)
    learned, about = given.tune(given.initial(seeded(0)), sample)
    assert asked == [1000] and about == {"confidence": 0.25} and given.constant_of(learned) == 0.25


def test_the_confidence_bound_by_hand() -> None:
    learner = Ucb1(Ucb1.Options(confidence=1.0), ControlProblem(0, 1, 10, num_actions=2))
    counts = Counts(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 3.0]]]), 4)
    values = learner.values(learner.initial(seeded(0)), counts, Randomness(seeded(0), 1))
    # Estimates 2/3 and 1/5; widths sqrt(2 ln 5 / 2) and sqrt(2 ln 5 / 4).
    assert values[0, 0].tolist() == pytest.approx([2 / 3 + 1.26864, 0.2 + 0.89706], abs=1e-4)


@pytest.mark.parametrize(
    "kind, source, task, said",
    [
        ("gittins", "tabular", {}, "learner.kind 'gittins' is for bandits, and task.source is 'tabular'"),
        ("psrl", "navigation", {}, "learner.kind 'psrl' is for tabular tasks, and task.source is 'navigation'"),
        ("thompson", "cubic", {}, "learner.kind 'thompson' acts in environments, and task.source 'cubic' has none"),
        ("maml", "bandit", {}, "learner.kind 'maml' needs labelled examples, and task.source 'bandit' has none"),
        ("gittins", "bandit", {"pulls": 101}, "task.pulls is 101, and learner.kind 'gittins' computes indices of 100"),
        ("oracle", "gymnasium", {}, "needs each task's best policy, which gymnasium does not know"),
    ],
)
def test_learners_that_do_not_fit_the_tasks_are_refused(
    kind: str, source: str, task: dict[str, int], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        options_of(kind, source, **task)


def test_a_constant_that_was_never_chosen_is_unset() -> None:
    learner = Ucb1(Ucb1.Options(), ControlProblem(0, 1, 10, num_actions=2))
    learned: Learned = learner.initial(seeded(0))
    assert learned.meta["confidence"].isnan()
