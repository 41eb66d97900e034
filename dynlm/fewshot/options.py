"""Options of a few-shot run: all sections, and those that learners and task sources do not own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import LEARNERS, Learner
from dynlm.fewshot.learners.maml import Maml
from dynlm.fewshot.tasks.glyphs import Glyphs
from dynlm.fewshot.tasks.source import LARGEST_COUNT, SOURCES, TaskSource
from dynlm.runtime.validation import LARGEST_SEED, Section, bounded


@dataclass
class RunOptions(Section):
    """The run's folder and its seed."""

    SECTION = "run"

    name: str = "glyphs-maml"
    """The run's name: its folder is runs/fewshot/NAME."""
    folder: str = "runs/fewshot"
    """Folder of all few-shot runs."""
    seed: int = bounded(0, 0, LARGEST_SEED)
    """Seed of every random number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError(f"run.name is {self.name!r}", do="choose a plain folder name")

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.folder) / self.name


@dataclass
class TrainOptions(Section):
    """Meta-training."""

    SECTION = "train"
    COMMON = "steps tasks rate start"

    steps: int = bounded(1000)
    """Meta-steps."""
    tasks: int = bounded(16, 1, LARGEST_COUNT)
    """Tasks of a meta-step, in one batch."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Optimiser of the meta-parameters: adam, or sgd (Reptile's outer step)."""
    rate: float = 1e-3
    """Learning rate of the meta-parameters."""
    final_rate: float = bounded(1.0, 0, 1)
    """Final learning rate as a fraction of the initial one: linear decay for sgd, half a cosine for adam."""
    clip: float = 0.0
    """Largest norm of the meta-gradient; 0 does not clip."""
    start: str | None = None
    """Folder of a trained few-shot run whose learner training starts from; unset: fresh parameters."""
    average: float = bounded(0.0, 0, 0.99999)
    """Decay of a Polyak average of the meta-parameters, which is saved in their place; 0 saves the last."""
    log_every: int = bounded(50, 1)
    """Meta-steps between lines of the log."""
    checkpoint_every: int = bounded(500, 1)
    """Meta-steps between checkpoints."""


@dataclass
class EvaluateOptions(Section):
    """Evaluation on tasks that were not trained on."""

    SECTION = "evaluate"
    COMMON = "episodes split"

    episodes: int = bounded(1000, 2)
    """Episodes: new tasks, each scored once."""
    split: Literal["train", "valid", "test"] = "test"
    """Split whose classes they are drawn from."""
    steps: int | None = bounded(None, 0, LARGEST_COUNT)
    """Inner steps; unset: 10 for regression, 3 for environments, else those of training."""
    at_once: int = bounded(50, 1, LARGEST_COUNT)
    """Tasks in one batch; tasks do not depend on it, and results only by rounding."""
    shown_tasks: int = bounded(3, 0, LARGEST_COUNT)
    """Tasks saved with all predictions, for figures."""
    shown_steps: int = bounded(30, 0, LARGEST_COUNT)
    """Inner steps taken on those of them that are curves."""


@dataclass
class FewShotOptions:
    """All options of a few-shot run; its ``config.yaml`` holds them."""

    run: RunOptions = field(default_factory=RunOptions)
    task: TaskSource.Options = field(default_factory=Glyphs.Options)
    learner: Learner.Options = field(default_factory=Maml.Options)
    train: TrainOptions = field(default_factory=TrainOptions)
    evaluate: EvaluateOptions = field(default_factory=EvaluateOptions)

    def __post_init__(self) -> None:
        learner: type[Learner] = LEARNERS[self.learner.kind]
        learner.check_task(self.learner, self.task)
        if self.evaluate.steps is not None and not learner.takes_steps:
            what = f"evaluate.steps is set, but learner.kind {self.learner.kind!r} takes no steps"
            raise UserError(what, do="leave it out")

    def create_source(self) -> TaskSource:
        """Return the task source. Raises UserError where data cannot be read."""
        source: TaskSource = SOURCES[self.task.source](self.task)
        return source

    @property
    def evaluation_steps(self) -> int:
        """Inner steps in evaluation."""
        if self.evaluate.steps is None:
            steps = int(getattr(self.learner, "inner_steps", 0))
            return (self.task.default_steps or steps) if steps else 0
        return self.evaluate.steps

    def create(self) -> tuple[TaskSource, Learner]:
        """Return the task source and a learner for its tasks. Raises UserError where data cannot be read."""
        source = self.create_source()
        return source, LEARNERS[self.learner.kind](self.learner, source.problem)


class TaskOptions(FewShotOptions):
    """The same options for commands without a learner: it is not checked that the learner fits the tasks."""

    def __post_init__(self) -> None:
        pass
