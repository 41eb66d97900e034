"""The interface of a learner, and the registry of learners.

To add a learner, write one module here, or in another package with an entry point in the group ``dynlm.learners``: a
subclass of ``SupervisedLearner`` (labelled examples) or of ``learners.policy.PolicyLearner`` (environments) under
``@LEARNERS.register_kind``, with its own ``Options``.

Legend: T tasks, Q query examples, O outputs.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.nets import ConvNetOptions, PerceptronOptions
from dynlm.fewshot.registry import KindOptions, OptionsRegistry
from dynlm.fewshot.tasks.source import Episodes, Labelled, LabelledSource, Problem, TaskSource
from dynlm.types import Params

LEARNERS = OptionsRegistry("learner", "kind", "dynlm.fewshot.learners", "dynlm.learners")
LEARNERS.renamed = {"pixels": "nearest-neighbour"}
LEARNERS.ignored = [item.name for part in (ConvNetOptions, PerceptronOptions) for item in dataclasses.fields(part)]
LEARNERS.ignored += ["inner_rate", "inner_steps", "statistics"]
Generators = Sequence[torch.Generator]
TaskSampler = Callable[[Sequence[int]], Any]
"""Returns the tasks of a split with these numbers, as one batch; each has its own generator."""
RUNNING, MOMENTUM = "running.", 0.1
"""Prefix of running statistics among the buffers, and the share of a new batch in them."""


class Learned(NamedTuple):
    """The result of meta-training: meta-parameters, and buffers such as running statistics."""

    meta: Params
    buffers: Params


class Adapted(NamedTuple):
    """What a learner knows of T tasks after ``step`` inner steps: any tensors, and what it adapted to."""

    state: Params
    support: Any
    """The support sets (``Labelled``), or the environments (``Environments``)."""
    step: int


class MetaStep(NamedTuple):
    """The result of a batch of tasks: mean query loss and score, meta-gradients and the next buffers."""

    loss: float
    score: float
    gradients: Params
    buffers: Params
    environment_steps: int = 0
    """Steps taken in environments."""


class Scores(NamedTuple):
    """Scores of T tasks (T, J) in float64, at ``steps``: numbers of inner steps, or of episodes begun."""

    steps: list[int]
    values_TJ: Tensor


def add_prefix(prefix: str, params: Params) -> Params:
    """Return all tensors, with ``prefix`` before their names."""
    return {prefix + name: tensor for name, tensor in params.items()}


def strip_prefix(prefix: str, params: Params) -> Params:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name[len(prefix) :]: tensor for name, tensor in params.items() if name.startswith(prefix)}


class Learner(ABC):
    """Adapts to tasks, is scored on them, and meta-learns from many.

    It has no state beside its options and the problem: ``Learned`` and ``Adapted`` are passed in and returned.
    """

    label: ClassVar[str]
    """Its name in tables and figures."""
    is_trained: ClassVar[bool] = True
    """Whether there is anything to meta-train."""
    takes_steps: ClassVar[bool] = False
    """Whether it adapts by steps, which ``evaluate.steps`` may set."""

    @dataclass
    class Options(KindOptions):
        """Which learner, and how it adapts."""

        SECTION, REGISTRY = "learner", LEARNERS

        kind: str = "maml"
        """maml, fomaml, anil, meta-sgd, maml++, reptile, prototypes, lstm-reader, lstm-optimiser, random,
        nearest-neighbour; rl2, policy-maml, policy-fomaml, policy-reptile, policy-pretrained, policy-random, guided,
        meta-parameters; random-actions, greedy, epsilon-greedy, ucb1, thompson, gittins, psrl,
        opsrl, epsilon-greedy-q, oracle; or a plug-in (entry points dynlm.learners)."""

    def __init__(self, options: Any, problem: Any):
        self.options, self.problem = options, problem

    @classmethod
    @abstractmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        """Raise UserError where this learner cannot learn these tasks, or where options are for other tasks."""

    @abstractmethod
    def initial(self, generator: torch.Generator) -> Learned:
        """Return meta-parameters and buffers before meta-training."""

    def tune(self, learned: Learned, sample: TaskSampler) -> tuple[Learned, dict[str, Any]]:
        """Choose constants by their scores on tasks of the valid split, which ``sample`` draws.

        Returns them as meta-parameters, with what a score has to be reported with: how they were chosen. A learner
        without such constants returns ``learned`` and nothing.
        """
        return learned, {}

    @abstractmethod
    def adapt(self, learned: Learned, support: Any, steps: int, generators: Generators) -> Iterator[Adapted]:
        """Adapt to T tasks; yield the state after 0, 1, ..., ``steps`` steps. A learner without steps yields once.

        Each task has its own generator, so that its result does not depend on the others in the batch.
        """

    @abstractmethod
    def scores(self, learned: Learned, tasks: Any, steps: int, generators: Generators) -> Scores:
        """Adapt to a batch of tasks (``Episodes`` or ``Environments``) and score each, nothing being differentiated."""

    def meta_step(self, learned: Learned, tasks: Any, progress: float, generator: torch.Generator) -> MetaStep:
        """Return the meta-gradients of a batch of tasks, at ``progress`` (0 to 1) of the training.

        A learner that is trained defines this or ``meta_steps``.
        """
        raise NotImplementedError(f"{self.label} is not trained")

    def meta_steps(
        self, learned: Learned, tasks: Any, progress: float, generator: torch.Generator
    ) -> Iterator[MetaStep]:
        """Yield what the optimiser takes a step with, one after another, on one batch of tasks: ``meta_step`` once.

        A learner that goes over its batch several times, such as PPO, yields as often. The optimiser changes the
        tensors of ``learned.meta`` in place before it asks for the next.
        """
        yield self.meta_step(learned, tasks, progress, generator)

    def protocol(self) -> dict[str, Any]:
        """Return what a score has to be reported with."""
        return {"inner_rate": vars(self.options).get("inner_rate")} if self.takes_steps else {}


class SupervisedLearner(Learner):
    """Adapts to tasks by their support sets, predicts their query sets, and meta-learns from episodes."""

    any_ways: ClassVar[bool] = False
    """Whether it may be trained and evaluated with different numbers of classes; it needs classes then."""
    query_statistics: str = "none"
    """Which batch statistics normalise a query example: none, running, transductive or inductive."""
    problem: Problem

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        if not isinstance(task, LabelledSource.Options):
            what = f"learner.kind {options.kind!r} needs labelled examples, and task.source {task.source!r} has none"
            raise UserError(what, do="choose another of the two")
        if cls.any_ways and task.is_regression:
            what = f"learner.kind {options.kind!r} needs classes, and task.source {task.source!r} has none"
            raise UserError(what, do="choose another of the two")
        ways, training_ways = task.episode_shape(False).ways, task.episode_shape(True).ways
        if ways != training_ways and not cls.any_ways:
            what = f"task.train_ways is {training_ways} and task.ways {ways}, but {options.kind} has one output a class"
            raise UserError(what, do="leave task.train_ways out, or choose --learner.kind prototypes")
        other, tasks = (ConvNetOptions, "images") if task.is_regression else (PerceptronOptions, "cubic and sinusoid")
        for name, default in vars(other()).items():
            if getattr(options, name, default) != default:
                what = f"learner.{name} is for {tasks} alone, and task.source is {task.source!r}"
                raise UserError(what, do="leave it out")

    @abstractmethod
    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]: ...

    @abstractmethod
    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        """Return the outputs for query inputs (T, Q, O): logits of classes, or values."""

    def scores(self, learned: Learned, tasks: Episodes, steps: int, generators: Generators) -> Scores:
        """Return the scores of query sets: of curves after each step, of images after the last."""
        states = self.adapt(learned, tasks.support, steps, generators)
        if self.problem.classifies:
            *_, last = states
            states = iter([last])
        columns, numbers = [], []
        with torch.no_grad():
            for adapted in states:
                outputs = self.predict(learned, adapted, tasks.query.inputs)
                columns.append(self.problem.scores(outputs, tasks.query.targets))
                numbers.append(adapted.step)
        return Scores(numbers, torch.stack(columns, 1))

    def protocol(self) -> dict[str, Any]:
        about = {"statistics": self.query_statistics} if self.problem.classifies else {}
        return about | super().protocol()

    def differentiate(
        self, learned: Learned, outputs_TQO: Tensor, targets_TQ: Tensor, loss: Tensor | None = None
    ) -> MetaStep:
        """Return a meta-step with the gradients of ``loss``, by default that of the outputs, and unchanged buffers."""
        loss = self.problem.loss(outputs_TQO, targets_TQ) if loss is None else loss
        score = float(self.problem.scores(outputs_TQO.detach(), targets_TQ).mean())
        return MetaStep(float(loss.detach()), score, gradients_of(loss, learned.meta), learned.buffers)


def gradients_of(loss: Tensor, meta: Params) -> Params:
    """Return the gradients of ``loss`` in those meta-parameters that it depends on and that require one."""
    names = [name for name, tensor in meta.items() if tensor.requires_grad]
    grads = torch.autograd.grad(loss, [meta[name] for name in names], allow_unused=True)
    return {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
