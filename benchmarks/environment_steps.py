"""Environment steps a second of few-shot reinforcement learning, policy included, and where the time goes.

    python -m benchmarks.environment_steps [--seconds 10] [--threads 2] [--width 64] [--cpu] [--json]

Bandits and tabular tasks: 10,000 tasks in one environment each; navigation: 40 tasks in 20 copies each. Policies are
random actions, that of ``rl2``, which all tasks share, and for navigation one network for each task, as after an inner
step of ``policy-maml``. They act as in training, and what it needs is recorded. Run nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.policies import Decision, Memoryless, Policy, Seen
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import rollout
from dynlm.fewshot.learners.learner import Adapted
from dynlm.fewshot.learners.policy_gradient import PolicyRandom
from dynlm.fewshot.learners.rl2 import Rl2
from dynlm.fewshot.tasks.bandit import Bandit
from dynlm.fewshot.tasks.control import ControlSource
from dynlm.fewshot.tasks.navigation import Navigation
from dynlm.fewshot.tasks.source import seeded
from dynlm.fewshot.tasks.tabular import Tabular


class Timed:
    """Environments and a policy whose time is counted."""

    def __init__(self, environments: Environments, policy: Policy, clock: Callable[[], float]):
        self.clock = clock
        self.seconds = {"environment": 0.0, "policy": 0.0}
        self._reset, self._step, self._act = environments.reset, environments.step, policy.act
        self.initial_state = policy.initial_state
        environments.reset, environments.step = self.reset, self.step  # type: ignore[method-assign]
        self.environments = environments

    def _counted(self, name: str, call: Any, *arguments: Any) -> Any:
        begun = self.clock()
        result = call(*arguments)
        self.seconds[name] += self.clock() - begun
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


def network_policy(environments: Environments, width: int) -> Policy:
    """Return the policy of ``rl2`` with this width, or, for continuous actions, a network for each task."""
    problem = environments.problem
    if problem.num_actions:
        recurrent = Rl2(Rl2.Options("rl2", width=width), problem)
        return recurrent.policy(recurrent.initial(seeded(2)), Adapted({}, environments, 0))
    learner = PolicyRandom(PolicyRandom.Options(kind="policy-random"), problem)
    learned, generators = learner.initial(seeded(2)), [seeded(2, task) for task in range(environments.tasks)]
    return learner.policy(learned, next(learner.adapt(learned, environments, 0, generators)))


def measure(
    seconds: float = 10.0,
    threads: int = 2,
    scale: float = 1.0,
    width: int = Rl2.Options.width,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[str, float]]:
    """Steps a second of each kind of task and policy, and the shares of environment, policy and the rest.

    ``scale`` multiplies the numbers of tasks; ``width`` is that of the recurrent layer, and
    ``clock`` what time is measured by.
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
            environments = source.sample(tasks, seeded(0))
            policies = {"random actions": random_policy(source.problem), "network": network_policy(environments, width)}
            for kind, policy in policies.items():
                timed = Timed(source.sample(tasks, seeded(0)), policy, clock)
                result[f"{name}, {kind}"] = _speed(timed, copies, seconds / 6)
    finally:
        torch.set_num_threads(before)
    return result


def _speed(timed: Timed, copies: int, seconds: float) -> dict[str, float]:
    environments, rounds = timed.environments, 0
    problem, randomness = environments.problem, Randomness(seeded(1), environments.tasks)
    episodes = 1 if problem.horizon > 10 else 10
    rollout(environments, timed, randomness, episodes, copies)  # Warms up.
    timed.seconds, begun = dict.fromkeys(timed.seconds, 0.0), timed.clock()
    while not rounds or timed.clock() - begun < seconds:
        rollout(environments, timed, randomness, episodes, copies)
        rounds += 1
    taken = timed.clock() - begun
    steps = rounds * environments.tasks * copies * problem.horizon * episodes
    shares = {f"{name}_share": round(value / taken, 3) for name, value in timed.seconds.items()}
    return {"steps_a_second": round(steps / taken), **shares}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--width", type=int, default=Rl2.Options.width, help="of the recurrent layer of rl2")
    parser.add_argument("--cpu", action="store_true", help="by processor time, on a busy machine; needs --threads 1")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.cpu and options.threads != 1:
        parser.error("--cpu needs --threads 1: the processor time of several threads is their sum")
    clock = time.process_time if options.cpu else time.perf_counter
    result = measure(options.seconds, options.threads, width=options.width, clock=clock)
    if options.json:
        print(json.dumps(result))
        return
    for name, row in result.items():
        shares = f"environment {row['environment_share']:4.0%}, policy {row['policy_share']:4.0%}"
        print(f"{name:28}{row['steps_a_second']:12,.0f} steps a second; {shares}")


if __name__ == "__main__":
    main()
