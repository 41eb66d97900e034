"""Environments of ``gymnasium`` (extra ``dynlm[rl]``) with a distribution of their parameters.

They step in its own vector API, one after another in one process, so that they are far slower than the other tasks.

Legend: T tasks, E copies of each, B = T * E environments.
"""

from __future__ import annotations

import functools
import inspect
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.control.environments import ControlProblem, Environments, Step
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.tasks.control import ControlSource, control_protocol
from dynlm.fewshot.tasks.source import SOURCES
from dynlm.runtime.validation import bounded, shortened
from dynlm.types import Params

_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class GymProblem(ControlProblem):
    """A ``ControlProblem`` that knows how to make its environments."""

    environment: str = ""
    arguments: tuple[str, ...] = ()
    """Parameters that are arguments of the constructor; the others are attributes of the environment."""
    integers: tuple[str, ...] = ()
    """Parameters that are integers."""
    discrete_observations: bool = False

    def make(self, values: dict[str, float]) -> Any:
        """Return an environment with these values of the parameters."""
        import gymnasium

        values = {name: round(value) if name in self.integers else value for name, value in values.items()}
        arguments = {name: values[name] for name in self.arguments}
        made = gymnasium.make(self.environment, max_episode_steps=self.horizon, disable_env_checker=True, **arguments)
        for name in values.keys() - arguments.keys():
            setattr(made.unwrapped, name, values[name])
        return made


class GymEnvironments(Environments):
    """``parameters`` are numbers (T,) by name. The environments are made once and used by one rollout at a time."""

    problem: GymProblem

    def __init__(self, problem: GymProblem, parameters: Params):
        super().__init__(problem, parameters)
        self._made: dict[int, Any] = {}

    def reset(self, copies: int, randomness: Randomness) -> tuple[Any, Tensor]:
        if copies not in self._made:
            self._made[copies] = self._make(copies)
        vector = self._made[copies]
        seeds_B = randomness.integers(_LARGEST_SEED, copies).flatten().tolist()
        return vector, self._observed(vector.reset(seed=seeds_B)[0], copies)

    def _make(self, copies: int) -> Any:
        from gymnasium.vector import SyncVectorEnv

        rows = [{name: float(tensor[task]) for name, tensor in self.parameters.items()} for task in range(self.tasks)]
        return SyncVectorEnv([functools.partial(self.problem.make, values) for values in rows for _ in range(copies)])

    def step(self, state: Any, actions: Tensor, randomness: Randomness) -> Step:
        space, copies = state.single_action_space, actions.shape[1]
        if self.problem.num_actions:
            taken_B = actions.flatten().numpy() + space.start
        else:
            flat_BA = actions.flatten(0, 1).numpy().astype(space.dtype)
            taken_B = np.clip(flat_BA.reshape(-1, *space.shape), space.low, space.high)
        observations, rewards_B, terminated_B, truncated_B, _ = state.step(taken_B)
        rewards_TE, ended_TE = (
            torch.from_numpy(np.asarray(values_B)).unflatten(0, (-1, copies))
            for values_B in (rewards_B, terminated_B | truncated_B)
        )
        return Step(state, self._observed(observations, copies), rewards_TE.float(), ended_TE)

    def _observed(self, observations: Any, copies: int) -> Tensor:
        values_B = torch.from_numpy(np.array(observations)).unflatten(0, (-1, copies))
        if self.problem.discrete_observations:
            return F.one_hot(values_B, self.problem.observation_size).float()
        return values_B.flatten(2).float()


@SOURCES.register_kind("gymnasium")
class Gymnasium(ControlSource):
    """Any gymnasium environment; a task is one value of each of its ``parameters``, drawn uniformly from a range."""

    @dataclass
    class Options(ControlSource.Options):
        has_oracle = False

        environment: str = "Pendulum-v1"
        """Name of the environment."""
        parameters: dict[str, list[float]] = field(default_factory=dict)
        """What differs between tasks: ranges [low, high] of constructor arguments or attributes, such as {g: [5, 15]}.
        Whole numbers are drawn where the environment's own value is one."""
        horizon: int | None = bounded(None, 1, 100_000)
        """Largest number of steps of an episode; unset: the environment's own."""
        episodes: int = bounded(10, 1, 10_000)
        """Episodes of a task, or of each inner step."""

        def __post_init__(self) -> None:
            super().__post_init__()
            for name, ends in self.parameters.items():
                numbers = isinstance(ends, list) and all(isinstance(end, int | float) for end in ends)
                if not numbers or len(ends) != 2 or not all(map(math.isfinite, ends)) or ends[0] > ends[1]:
                    what = f"task.parameters has {name}: {shortened(ends)}"
                    raise UserError(what, do="write a range, such as [5, 15]")

        def size_label(self) -> str:
            return f"{self.environment.replace('/', '-')}-{self.episodes}-episodes"

        def protocol(self) -> dict[str, Any]:
            return control_protocol(self, "environment", "parameters", "horizon", "episodes")

    problem: GymProblem

    def __init__(self, options: Options):
        super().__init__(options)
        self.problem = _problem_of(options)

    def sample(self, count: int, generator: torch.Generator) -> GymEnvironments:
        parameters = {}
        for name, (low, high) in self.options.parameters.items():
            drawn_T = torch.rand(count, generator=generator, dtype=torch.float64)
            if name in self.problem.integers:
                parameters[name] = low + (drawn_T * (high - low + 1)).floor()
            else:
                parameters[name] = low + (high - low) * drawn_T
        return GymEnvironments(self.problem, parameters)


def _problem_of(options: Gymnasium.Options) -> GymProblem:
    """Return the problem of an environment. Raises UserError where it cannot be made, or its spaces do not fit."""
    try:
        import gymnasium
        from gymnasium.envs.registration import load_env_creator
        from gymnasium.spaces import Box, Discrete
    except ModuleNotFoundError as error:
        raise UserError("task.source 'gymnasium' needs gymnasium", do="pip install dynlm[rl]") from error
    name = options.environment
    if not options.parameters:
        what = f"task.parameters is empty: all tasks of {name} would be the same"
        raise UserError(what, do="write ranges of what differs between tasks, such as {g: [5, 15]}")
    try:
        spec = gymnasium.spec(name)
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        made = gymnasium.make(name, disable_env_checker=True)
    except Exception as error:  # The code of another package may raise anything.
        what = f"task.environment {name!r} cannot be made ({type(error).__name__}: {' '.join(str(error).split())})"
        raise UserError(what, do="name an environment that gymnasium has") from error
    signature = inspect.signature(creator).parameters  # type: ignore[arg-type]
    integers = []
    for parameter, ends in options.parameters.items():
        if parameter not in signature and not hasattr(made.unwrapped, parameter):
            what = f"task.parameters has {parameter!r}, which {name} has neither as argument nor as attribute"
            raise UserError(what, do="name one that it has")
        own = signature[parameter].default if parameter in signature else getattr(made.unwrapped, parameter)
        if isinstance(own, int) and not isinstance(own, bool) and all(float(end).is_integer() for end in ends):
            integers.append(parameter)
    seen, acts = made.observation_space, made.action_space
    if not isinstance(seen, Box | Discrete) or not isinstance(acts, Box | Discrete):
        what = f"{name} has observations {shortened(seen)} and actions {shortened(acts)}"
        raise UserError(what, do="choose an environment whose spaces are Box or Discrete")
    if isinstance(acts, Box) and not (np.isfinite(acts.low).all() and np.isfinite(acts.high).all()):
        raise UserError(f"{name} has unbounded actions", do="choose an environment with bounded ones")
    horizon = options.horizon or spec.max_episode_steps
    if horizon is None:
        raise UserError(f"task.horizon is unset, and {name} has no limit of steps", do="set task.horizon")
    sizes: dict[str, Any] = {"num_actions": int(acts.n)} if isinstance(acts, Discrete) else {}
    if isinstance(acts, Box):
        sizes = {"action_size": math.prod(acts.shape), "low": float(acts.low.min()), "high": float(acts.high.max())}
    problem = GymProblem(
        int(seen.n) if isinstance(seen, Discrete) else math.prod(seen.shape),
        horizon,
        options.episodes,
        options.queries,
        **sizes,
        environment=name,
        arguments=tuple(parameter for parameter in options.parameters if parameter in signature),
        integers=tuple(integers),
        discrete_observations=isinstance(seen, Discrete),
    )
    for end in (0, 1):
        values = {parameter: ends[end] for parameter, ends in options.parameters.items()}
        try:
            other = problem.make(values)
        except Exception as error:
            what = f"{name} cannot be made with {values} ({type(error).__name__}: {' '.join(str(error).split())})"
            raise UserError(what, do="choose other task.parameters") from error
        if (other.observation_space, other.action_space) != (seen, acts):
            what = f"the spaces of {name} change with task.parameters: {shortened(other.observation_space)}"
            raise UserError(what, do="leave out the parameters that change them")
    return problem
