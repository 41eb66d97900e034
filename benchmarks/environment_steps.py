"""Environment steps a second of few-shot reinforcement learning, policy included, and where the time goes.

    python -m benchmarks.environment_steps [--seconds 10] [--threads 2] [--json]

Bandits and tabular tasks: 10,000 tasks in one environment each; navigation: 40 tasks in 20 copies each. Policies are
random actions, a recurrent policy that all tasks share (a GRU of 32), and for navigation one network for each task (two
layers of 100, as after an inner step). Run nothing else on the machine meanwhile.

Legend: T tasks, E copies of each, F numbers that a policy sees, H hidden units, A actions or numbers of one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from typing import Any

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.policies import Decision, Memoryless, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.tasks.bandit import Bandit
from dynlm.fewshot.tasks.control import ControlSource
from dynlm.fewshot.tasks.navigation import Navigation
from dynlm.fewshot.tasks.source import seeded
from dynlm.fewshot.tasks.tabular import Tabular

GRU_WIDTH, NET_WIDTH = 32, 100


class Recurrent:
    """A GRU that all tasks share, with linear logits."""

    def __init__(self, problem: ControlProblem):
        self.problem = problem
        self.cell = torch.nn.GRUCell(problem.seen_size, GRU_WIDTH)
        self.head = torch.nn.Linear(GRU_WIDTH, problem.num_actions)

    def initial_state(self, tasks: int, copies: int) -> Tensor:
        return torch.zeros(tasks * copies, GRU_WIDTH)

    def act(self, state: Tensor, seen: Seen, randomness: Randomness) -> Decision:
        state = self.cell(self.problem.encode(seen).flatten(0, 1), state)
        logits_TEA = self.head(state).unflatten(0, seen.rewards.shape)
        return Decision(randomness.categorical(logits_TEA), state)


class TaskNetworks:
    """Gaussian actions around the output of each task's own network."""

    def __init__(self, problem: ControlProblem, tasks: int):
        widths = (problem.observation_size, NET_WIDTH, NET_WIDTH, problem.action_size)
        self.weights = [0.1 * torch.randn(tasks, a, b) for a, b in itertools.pairwise(widths)]
        self.biases = [torch.zeros(tasks, 1, width) for width in widths[1:]]

    def initial_state(self, tasks: int, copies: int) -> None:
        return None

    def act(self, state: None, seen: Seen, randomness: Randomness) -> Decision:
        x_TEF = seen.observations
        for index, (bias, weight) in enumerate(zip(self.biases, self.weights, strict=True)):
            x_TEF = torch.baddbmm(bias, torch.relu(x_TEF) if index else x_TEF, weight)
        return Decision(x_TEF + 0.1 * randomness.normal(*x_TEF.shape[1:]), state)


class Timed:
    """Environments and a policy whose time is counted."""

    def __init__(self, environments: Environments, policy: Policy):
        self.seconds = {"environment": 0.0, "policy": 0.0}
        self._reset, self._step, self._act = environments.reset, environments.step, policy.act
        self.initial_state = policy.initial_state
        environments.reset, environments.step = self.reset, self.step  # type: ignore[method-assign]
        self.environments = environments

    def _counted(self, name: str, call: Any, *arguments: Any) -> Any:
        begun = time.perf_counter()
        result = call(*arguments)
        self.seconds[name] += time.perf_counter() - begun
        return result

    def reset(self, copies: int, randomness: Randomness) -> tuple[Any, Tensor]:
        result: tuple[Any, Tensor] = self._counted("environment", self._reset, copies, randomness)
        return result

    def step(self, state: Any, actions: Tensor, randomness: Randomness) -> Step:
        result: Step = self._counted("environment", self._step, state, actions, randomness)
        return result

    def act(self, state: Any, seen: Seen, randomness: Randomness) -> Decision:
        result: Decision = self._counted("policy", self._act, state, seen, randomness)
        return result


def random_policy(problem: ControlProblem) -> Policy:
    """Return the policy of uniformly random actions."""

    def choose(step: int, seen: Seen, randomness: Randomness) -> Tensor:
        copies = seen.rewards.shape[1]
        if problem.num_actions:
            return randomness.integers(problem.num_actions, copies)
        return problem.low + (problem.high - problem.low) * randomness.uniform(copies, problem.action_size)

    return Memoryless(choose)


def measure(seconds: float = 10.0, threads: int = 2, scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Steps a second of each kind of task and policy, and the shares of environment, policy and the rest.

    ``scale`` multiplies the numbers of tasks.
    """
    many, few = max(1, round(10_000 * scale)), max(1, round(40 * scale))
    sources: dict[str, tuple[ControlSource, int, int]] = {
        "bandit": (Bandit(Bandit.Options()), many, 1),
        "tabular": (Tabular(Tabular.Options()), many, 1),
        "navigation": (Navigation(Navigation.Options()), few, 20),
    }
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    result = {}
    try:
        for name, (source, tasks, copies) in sources.items():
            problem = source.problem
            network: Policy = Recurrent(problem) if problem.num_actions else TaskNetworks(problem, tasks)
            for kind, policy in (("random actions", random_policy(problem)), ("network", network)):
                timed = Timed(source.sample(tasks, seeded(0)), policy)
                result[f"{name}, {kind}"] = _speed(timed, copies, seconds / 6)
    finally:
        torch.set_num_threads(before)
    return result


def _speed(timed: Timed, copies: int, seconds: float) -> dict[str, float]:
    environments, rounds = timed.environments, 0
    problem, randomness = environments.problem, Randomness(seeded(1), environments.tasks)
    episodes = 1 if problem.horizon > 10 else 10
    rollout(environments, timed, randomness, episodes, copies)  # Warms up.
    timed.seconds, begun = dict.fromkeys(timed.seconds, 0.0), time.perf_counter()
    while not rounds or time.perf_counter() - begun < seconds:
        rollout(environments, timed, randomness, episodes, copies)
        rounds += 1
    taken = time.perf_counter() - begun
    steps = rounds * environments.tasks * copies * problem.horizon * episodes
    shares = {f"{name}_share": round(value / taken, 3) for name, value in timed.seconds.items()}
    return {"steps_a_second": round(steps / taken), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result = measure(options.seconds, options.threads)
    if options.json:
        print(json.dumps(result))
        return
    for name, row in result.items():
        shares = f"environment {row['environment_share']:4.0%}, policy {row['policy_share']:4.0%}"
        print(f"{name:28}{row['steps_a_second']:12,.0f} steps a second; {shares}")


if __name__ == "__main__":
    main()
