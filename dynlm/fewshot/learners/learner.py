"""The interface of a learner, and the registry of learners.

To add a learner, write one module here, or in another package with an entry point in the group ``dynlm.learners``: a
subclass of ``Learner`` under ``@LEARNERS.register_kind``, with its own ``Options``.

Legend: T tasks, Q query examples, O outputs.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.nets import ConvNetOptions, PerceptronOptions
from dynlm.fewshot.registry import KindOptions, OptionsRegistry
from dynlm.fewshot.tasks.source import Episodes, Labelled, Problem, TaskSource
from dynlm.types import Params

LEARNERS = OptionsRegistry("learner", "kind", "dynlm.fewshot.learners", "dynlm.learners")
LEARNERS.renamed = {"pixels": "nearest-neighbour"}
LEARNERS.ignored = [item.name for part in (ConvNetOptions, PerceptronOptions) for item in dataclasses.fields(part)]
LEARNERS.ignored += ["inner_rate", "inner_steps", "statistics"]
Generators = Sequence[torch.Generator]
RUNNING, MOMENTUM = "running.", 0.1
"""Prefix of running statistics among the buffers, and the share of a new batch in them."""


class Learned(NamedTuple):
    """The result of meta-training: meta-parameters, and buffers such as running statistics."""

    meta: Params
    buffers: Params


class Adapted(NamedTuple):
    """What a learner knows of T tasks after ``step`` inner steps: any tensors, and the support sets."""

    state: Params
    support: Labelled
    step: int


class MetaStep(NamedTuple):
    """The result of a batch of episodes: mean query loss and score, meta-gradients and the next buffers."""

    loss: float
    score: float
    gradients: Params
    buffers: Params


def add_prefix(prefix: str, params: Params) -> Params:
    """Return all tensors, with ``prefix`` before their names."""
    return {prefix + name: tensor for name, tensor in params.items()}


def strip_prefix(prefix: str, params: Params) -> Params:
    """Return the tensors whose names begin with ``prefix``, by the rest of their names."""
    return {name[len(prefix) :]: tensor for name, tensor in params.items() if name.startswith(prefix)}


class Learner(ABC):
    """Adapts to tasks by their support sets, predicts their query sets, and meta-learns from episodes.

    It has no state beside its options and the ``Problem``: ``Learned`` and ``Adapted`` are passed in and returned.
    """

    label: ClassVar[str]
    """Its name in tables and figures."""
    is_trained: ClassVar[bool] = True
    """Whether there is anything to meta-train."""
    takes_steps: ClassVar[bool] = False
    """Whether it adapts by steps, which ``evaluate.steps`` may set."""
    any_ways: ClassVar[bool] = False
    """Whether it may be trained and evaluated with different numbers of classes; it needs classes then."""
    query_statistics: str = "none"
    """Which batch statistics normalise a query example: none, running, transductive or inductive."""

    @dataclass
    class Options(KindOptions):
        """Which learner, and how it adapts."""

        SECTION, REGISTRY = "learner", LEARNERS

        kind: str = "maml"
        """maml, fomaml, anil, meta-sgd, maml++, reptile, prototypes, lstm-reader, lstm-optimiser, random,
        nearest-neighbour, or one that another package registers (entry points dynlm.learners)."""

    def __init__(self, options: Any, problem: Problem):
        self.options, self.problem = options, problem

    @classmethod
    def check_task(cls, options: Any, task: TaskSource.Options) -> None:
        """Raise UserError where this learner cannot learn these tasks, or where options are for other tasks."""
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
    def initial(self, generator: torch.Generator) -> Learned:
        """Return meta-parameters and buffers before meta-training."""

    @abstractmethod
    def adapt(self, learned: Learned, support: Labelled, steps: int, generators: Generators) -> Iterator[Adapted]:
        """Adapt to T tasks; yield the state after 0, 1, ..., ``steps`` steps. A learner without steps yields once.

        Each task has its own generator, so that its result does not depend on the others in the batch.
        """

    @abstractmethod
    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        """Return the outputs for query inputs (T, Q, O): logits of classes, or values."""

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        """Return the meta-gradients of a batch of episodes, at ``progress`` (0 to 1) of the training."""
        raise NotImplementedError(f"{self.label} is not trained")

    def differentiate(
        self, learned: Learned, outputs_TQO: Tensor, targets_TQ: Tensor, loss: Tensor | None = None
    ) -> MetaStep:
        """Return a meta-step with the gradients of ``loss``, by default that of the outputs, and unchanged buffers."""
        loss = self.problem.loss(outputs_TQO, targets_TQ) if loss is None else loss
        names = [name for name, tensor in learned.meta.items() if tensor.requires_grad]
        grads = torch.autograd.grad(loss, [learned.meta[name] for name in names], allow_unused=True)
        gradients = {name: grad for name, grad in zip(names, grads, strict=True) if grad is not None}
        score = float(self.problem.scores(outputs_TQO.detach(), targets_TQ).mean())
        return MetaStep(float(loss.detach()), score, gradients, learned.buffers)
