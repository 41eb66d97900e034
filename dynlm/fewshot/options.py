"""Every option of a few-shot run, in documented dataclasses: read from YAML, from dotted options and from Python."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynlm.errors import UserError
from dynlm.runtime.validation import LARGEST_SEED, LARGEST_WIDTH, check_values, one_of, within

REGRESSION = ("cubic", "sinusoid")
IMAGES = ("glyphs", "omniglot", "imagefolder")
GRADIENT_LEARNERS = ("maml", "fomaml", "anil", "meta-sgd", "maml++", "reptile", "random")
LEARNERS = (*GRADIENT_LEARNERS, "prototypes", "lstm-reader", "lstm-optimiser", "pixels")
UNTRAINED = ("random", "pixels")
ACTIVATIONS = ("relu", "silu", "gelu", "tanh")
STATISTICS = ("transductive", "inductive", "running")
SPLITS = ("train", "valid", "test")
LARGEST_EPISODE = 100_000
"""Classes, examples, tasks side by side or inner steps: what is held for them is allocated at once."""


@dataclass
class TaskConfig:
    """What a task is, and how many examples its support and query sets have."""

    source: str = "glyphs"
    """cubic, sinusoid, glyphs (embedded), omniglot, or imagefolder (any folder of class folders)."""
    path: str | None = None
    """omniglot: folder with the two official zip files, or what is in them; imagefolder: the folder of images."""
    split: str = "background"
    """omniglot: background (its alphabets train, evaluation's test) or vinyals (Vinyals et al. 2016)."""
    held_out: int = 0
    """omniglot's background split: so many of its alphabets, evenly over their order, are split valid, to tune on."""
    rotations: bool = True
    """Whether a training character turned by 90, 180 or 270 degrees is a class of its own (omniglot, glyphs)."""
    mirrored: bool = False
    """Whether a training character in a mirror is a class of its own too, turned or not (omniglot, glyphs)."""
    test_rotations: bool = False
    """The same of test characters."""
    warp: float = 0.0
    """How far each training image is turned (at 1: 10 degrees), sheared, scaled and shifted, at random each time."""
    size: int = 28
    """Height and width that images are brought to."""
    colour: bool = False
    """imagefolder: keep three colours instead of one grey."""
    ways: int = 5
    """Classes of an episode."""
    shots: int | None = None
    """Support examples of each class, or points of a curve; unset: 1, cubic 40, sinusoid 10."""
    queries: int | None = None
    """Query examples of each class, or points of a curve; unset: 15, cubic 80, sinusoid 100."""
    train_ways: int | None = None
    """Classes of a training episode; unset: ways."""
    train_shots: int | None = None
    """Support examples of each class in training; unset: shots."""
    train_queries: int | None = None
    """Query examples of each class in training; unset: queries."""

    def __post_init__(self) -> None:
        check_values("task", self)
        one_of("task.source", self.source, (*REGRESSION, *IMAGES))
        one_of("task.split", self.split, ("background", "vinyals"))
        within("task.held_out", self.held_out, 0)
        if self.held_out and (self.source != "omniglot" or self.split != "background"):
            raise UserError(
                "task.held_out is set, but it is for the background split of omniglot alone", do="leave it at 0"
            )
        within("task.size", self.size, 8, 512)
        within("task.warp", self.warp, 0, 4)
        if self.is_regression and (self.warp or self.mirrored or self.train_ways is not None):
            raise UserError(
                f"task.warp, mirrored and train_ways are for images, and {self.source} has none", do="leave them out"
            )
        if self.mirrored and self.source == "imagefolder":
            raise UserError("task.mirrored is for omniglot and glyphs alone", do="leave it out")
        within("task.ways", self.ways, 2, LARGEST_EPISODE)
        for name in ("shots", "queries", "train_shots", "train_queries"):
            if (value := getattr(self, name)) is not None:
                within(f"task.{name}", value, 1, LARGEST_EPISODE)
        if self.train_ways is not None:
            within("task.train_ways", self.train_ways, 2, LARGEST_EPISODE)
        if self.source in ("omniglot", "imagefolder") and self.path is None:
            raise UserError(f"task.source is {self.source!r}, but task.path is not set", do="name the images' folder")
        if self.colour and self.source != "imagefolder":
            raise UserError(f"task.colour is set, but {self.source} has no colours", do="leave it out")

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers rather than classes."""
        return self.source in REGRESSION

    def episode(self, training: bool) -> EpisodeShape:
        """The number of classes and examples of an episode, with what is unset filled in."""
        shots, queries = {"cubic": (40, 80), "sinusoid": (10, 100)}.get(self.source, (1, 15))
        shots = self.shots or shots
        queries = self.queries or queries
        if not training:
            return EpisodeShape(self.ways, shots, queries)
        return EpisodeShape(self.train_ways or self.ways, self.train_shots or shots, self.train_queries or queries)


@dataclass(frozen=True)
class EpisodeShape:
    """How many classes an episode has, and how many support and query examples each of them (regression: one)."""

    ways: int
    shots: int
    queries: int


_ANNEALED_SHARE = 0.1
_OF_IMAGES = ("filters", "layers", "pooling", "readout")
_OF_CURVES = ("hidden", "activation", "gains")
"""Options of the networks for images, and of those for regression."""


@dataclass
class LearnerConfig:
    """Which learner, and how it adapts."""

    kind: str = "maml"
    """maml, fomaml, anil, meta-sgd, maml++, reptile, random, prototypes, lstm-reader, lstm-optimiser or pixels."""
    inner_rate: float = 0.01
    """Learning rate alpha of the inner steps; where rates are learned, their start."""
    inner_steps: int = 5
    """Inner steps in training."""
    inner_optimizer: str = "sgd"
    """sgd, or adam with beta1 = 0 (Nichol et al. 2018); adam only with reptile and random."""
    inner_batch: int = 0
    """reptile: support examples of an inner step in training, drawn anew for each; 0: all."""
    multi_step_loss: bool | None = None
    """The query loss after every inner step counts at first, at last only that after the last step; unset: maml++
    only."""
    per_step_rates: bool | None = None
    """Learn a rate for each tensor and inner step; unset: maml++ only."""
    per_step_norm: bool | None = None
    """Batch-norm scales, shifts and running statistics for each inner step, meta-learned and not adapted; unset: maml++
    only."""
    first_order_share: float | None = None
    """Share of the training that treats inner gradients as constants, before second order begins; unset: maml++ 0.3,
    else 0."""
    annealed_share: float = _ANNEALED_SHARE
    """Share of the training over which the multi-step loss becomes the last step's; 0: never."""
    statistics: str = "transductive"
    """Query's batch statistics: transductive (its own), inductive (the support set's) or running (from training)."""
    filters: int = 64
    """Filters of each convolution."""
    layers: int = 4
    """Convolutions of 3x3, each followed by batch norm and ReLU."""
    pooling: bool = False
    """Halve by max pooling after each convolution (prototypical networks) instead of by its stride (MAML)."""
    readout: str = "mean"
    """How the last map becomes features: mean over places, or flatten."""
    hidden: list[int] = field(default_factory=lambda: [40, 40])
    """Widths of the hidden layers of a regression network."""
    activation: str = "relu"
    """Between the layers of a regression network: relu, silu, gelu or tanh."""
    gains: list[float] | None = None
    """Factor of the fresh weights and biases of each layer of a regression network: how far a step of a given rate
    moves its outputs grows with them; unset: 1."""
    reader_hidden: int = 128
    """lstm-reader and lstm-optimiser: width of the LSTM's state (lstm-optimiser: 20 in the paper)."""

    def __post_init__(self) -> None:
        check_values("learner", self)
        one_of("learner.kind", self.kind, LEARNERS)
        one_of("learner.statistics", self.statistics, STATISTICS)
        one_of("learner.readout", self.readout, ("mean", "flatten"))
        one_of("learner.activation", self.activation, ACTIVATIONS)
        if self.gains is not None and len(self.gains) != len(self.hidden) + 1:
            raise UserError(
                f"learner.gains has {len(self.gains)} factors, for {len(self.hidden) + 1} layers",
                do="give one for each hidden layer and one for the last",
            )
        one_of("learner.inner_optimizer", self.inner_optimizer, ("sgd", "adam"))
        within("learner.inner_rate", self.inner_rate, 0)
        within("learner.inner_steps", self.inner_steps, 1, LARGEST_EPISODE)
        within("learner.layers", self.layers, 1, 100)
        for name in ("filters", "reader_hidden"):
            within(f"learner.{name}", getattr(self, name), 1, LARGEST_WIDTH)
        for width in self.hidden:
            within("learner.hidden", width, 1, LARGEST_WIDTH)
        within("learner.inner_batch", self.inner_batch, 0, LARGEST_EPISODE)
        within("learner.annealed_share", self.annealed_share, 0, 1)
        if self.first_order_share is not None:
            within("learner.first_order_share", self.first_order_share, 0, 1)
        if self.inner_optimizer == "adam" and self.kind not in ("reptile", "random"):
            raise UserError(
                f"learner.inner_optimizer is 'adam', but learner.kind {self.kind!r} takes plain steps",
                do="choose --learner.inner_optimizer sgd, or --learner.kind reptile",
            )
        if self.inner_batch and self.kind != "reptile":
            raise UserError("learner.inner_batch is for reptile alone", do="leave it at 0")
        for name in ("multi_step_loss", "per_step_rates", "per_step_norm", "first_order_share"):
            if getattr(self, name) and self.kind not in ("maml", "fomaml", "maml++"):
                raise UserError(f"learner.{name} is set, but learner.kind is {self.kind!r}", do="choose maml++")
        if self.kind == "fomaml" and self.first_order_share:
            raise UserError("learner.first_order_share is set, but fomaml is first-order throughout", do="choose maml")
        multi_step = self.kind == "maml++" if self.multi_step_loss is None else self.multi_step_loss
        if self.annealed_share != _ANNEALED_SHARE and not multi_step:
            raise UserError(
                "learner.annealed_share is set, but there is no multi-step loss to anneal", do="leave it out"
            )
        if self.kind == "prototypes" and self.statistics == "inductive":
            raise UserError(
                "learner.statistics is 'inductive', but prototypes are not adapted by batches",
                do="choose running (each example for itself) or transductive",
            )
        if self.statistics == "running" and self.kind in ("random", "reptile"):
            raise UserError(f"learner.kind {self.kind!r} gathers no running statistics", do="choose inductive")
        self._fill_in()

    def _fill_in(self) -> None:
        """``maml++`` has all of its fixes where options do not say otherwise, other learners what they say."""
        fixed = self.kind == "maml++"
        for name in ("multi_step_loss", "per_step_rates", "per_step_norm"):
            if getattr(self, name) is None:
                setattr(self, name, fixed)
        if self.first_order_share is None:
            self.first_order_share = 0.3 if fixed else 0.0


@dataclass
class TrainConfig:
    """Meta-training."""

    steps: int = 1000
    """Meta-steps."""
    tasks: int = 16
    """Tasks of a meta-step, learned side by side."""
    optimizer: str = "adam"
    """Of the meta-parameters: adam or sgd (reptile's outer step)."""
    rate: float = 1e-3
    """Its learning rate."""
    final_rate: float = 1.0
    """The rate's end as a share of its start, approached linearly for sgd and along half a cosine for adam."""
    clip: float = 0.0
    """Largest norm of the meta-gradient; 0 does not clip."""
    start: str | None = None
    """Folder of a trained few-shot run whose learner is where training begins; unset: fresh parameters."""
    average: float = 0.0
    """Decay of a Polyak average of the meta-parameters, which is then what is kept; 0 keeps the last."""
    log_every: int = 50
    """Meta-steps between lines of the log."""
    checkpoint_every: int = 500
    """Meta-steps between checkpoints."""

    def __post_init__(self) -> None:
        check_values("train", self)
        one_of("train.optimizer", self.optimizer, ("adam", "sgd"))
        within("train.steps", self.steps, 0)
        within("train.tasks", self.tasks, 1, LARGEST_EPISODE)
        for name in ("log_every", "checkpoint_every"):
            within(f"train.{name}", getattr(self, name), 1)
        for name in ("rate", "clip"):
            within(f"train.{name}", getattr(self, name), 0)
        within("train.final_rate", self.final_rate, 0, 1)
        within("train.average", self.average, 0, 0.99999)


@dataclass
class EvaluateConfig:
    """Evaluation on tasks that were not trained on."""

    episodes: int = 1000
    """Episodes."""
    split: str = "test"
    """Split whose classes they are drawn from."""
    steps: int | None = None
    """Inner steps taken; unset: 10 for regression, else the steps of training."""
    at_once: int = 50
    """Episodes side by side; they are the same ones whatever it is, so that results change by rounding only."""
    shown_tasks: int = 3
    """Tasks kept with all that was predicted, to be drawn."""
    shown_steps: int = 30
    """Inner steps taken on those of them that are curves."""

    def __post_init__(self) -> None:
        check_values("evaluate", self)
        one_of("evaluate.split", self.split, SPLITS)
        within("evaluate.episodes", self.episodes, 2)
        within("evaluate.at_once", self.at_once, 1, LARGEST_EPISODE)
        within("evaluate.shown_tasks", self.shown_tasks, 0, LARGEST_EPISODE)
        within("evaluate.shown_steps", self.shown_steps, 0, LARGEST_EPISODE)
        if self.steps is not None:
            within("evaluate.steps", self.steps, 0, LARGEST_EPISODE)


@dataclass
class FewShotRunConfig:
    """The run's folder and its randomness."""

    name: str = "glyphs-maml"
    """The run's name: its folder is runs/fewshot/NAME."""
    folder: str = "runs/fewshot"
    """Folder of all few-shot runs."""
    seed: int = 0
    """Seed of every random number."""

    def __post_init__(self) -> None:
        check_values("run", self)
        within("run.seed", self.seed, 0, LARGEST_SEED)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise UserError(f"run.name is {self.name!r}", do="choose a plain folder name")


@dataclass
class FewShotConfig:
    """All of a few-shot run's options; its ``config.yaml`` keeps them."""

    run: FewShotRunConfig = field(default_factory=FewShotRunConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)

    def __post_init__(self) -> None:
        shape, training = self.task.episode(False), self.task.episode(True)
        if (
            self.learner.kind not in ("prototypes", "pixels")
            and not self.task.is_regression
            and training.ways != shape.ways
        ):
            raise UserError(
                f"task.train_ways is {training.ways} and task.ways {shape.ways}, but {self.learner.kind} has one "
                "output for each class",
                do="leave task.train_ways out, or choose --learner.kind prototypes",
            )
        if self.task.is_regression and self.learner.kind in ("prototypes", "pixels"):
            raise UserError(
                f"learner.kind {self.learner.kind!r} needs classes, and task.source {self.task.source!r} has none",
                do="choose another of the two",
            )
        if self.task.is_regression and self.learner.statistics == "running":
            raise UserError("learner.statistics is 'running', but a regression network has no batch norm")
        wrong = _OF_IMAGES if self.task.is_regression else _OF_CURVES
        fresh = LearnerConfig()
        if given := [name for name in wrong if getattr(self.learner, name) != getattr(fresh, name)]:
            fits = "images" if self.task.is_regression else "cubic and sinusoid"
            raise UserError(
                f"learner.{given[0]} is for {fits} alone, and task.source is {self.task.source!r}", do="leave it out"
            )
        if self.evaluate.steps is not None and self.learner.kind in ("prototypes", "lstm-reader", "pixels"):
            raise UserError(
                f"evaluate.steps is set, but learner.kind {self.learner.kind!r} takes no steps", do="leave it out"
            )

    @property
    def evaluation_steps(self) -> int:
        """Inner steps taken in evaluation."""
        if self.evaluate.steps is not None:
            return self.evaluate.steps
        return 10 if self.task.is_regression else self.learner.inner_steps
