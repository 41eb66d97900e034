"""Meta-training, which resumes from the newest checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.malloc import keep_freed_memory
from dynlm.fewshot.options import FewShotOptions, TrainOptions
from dynlm.fewshot.run_folder import from_tensors, load_learned, load_run_options, save_learned, to_tensors
from dynlm.fewshot.tasks.source import TaskSource, seeded
from dynlm.models.lstm.model import Params
from dynlm.run.folder import log_line, save_config
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json

# Purposes of generators. Each meta-step has two of its own, so that a resumed run draws the same numbers.
INITIAL, EPISODES, INNER = range(3)
_STATE, _MEAN = "optimiser.", "mean."


def lr_at(progress: float, options: TrainOptions) -> float:
    """Return the outer learning rate at ``progress`` (0 to 1): linear decay for sgd, half a cosine for adam."""
    left = 1 - progress if options.optimizer == "sgd" else 0.5 * (1 + math.cos(math.pi * progress))
    return options.rate * (options.final_rate + (1 - options.final_rate) * left)


class MetaOptimiser:
    """An optimiser of the meta-parameters, which are updated in place, and their Polyak average (``train.average``)."""

    def __init__(self, meta: Params, options: TrainOptions):
        self.meta, self.options, self.steps = meta, options, 0
        adam = options.optimizer == "adam"
        self._torch = (
            torch.optim.Adam(meta.values(), lr=options.rate, fused=True)
            if adam
            else torch.optim.SGD(meta.values(), lr=options.rate)
        )
        self.mean: Params = {name: t.detach().clone() for name, t in meta.items()} if options.average else {}

    def step(self, gradients: Params, lr: float) -> float:
        """Take one step and return the gradients' norm before clipping. Tensors without a gradient stay as they are."""
        for name, tensor in self.meta.items():
            gradient = gradients.get(name)
            # torch's fused optimisers read a transposed gradient in the order of its memory (seen with torch 2.x).
            tensor.grad = None if gradient is None else gradient.contiguous()
        norm = torch.nn.utils.clip_grad_norm_(list(self.meta.values()), self.options.clip or math.inf)
        for group in self._torch.param_groups:
            group["lr"] = lr
        self._torch.step()
        self.steps += 1
        # The average of all steps so far at first, so that the initial values do not stay in it.
        share = max(1 - self.options.average, 1 / self.steps)
        with torch.no_grad():
            for name, mean in self.mean.items():
                mean.lerp_(self.meta[name], share)
        return float(norm)

    def result(self) -> Params:
        """Return the meta-parameters to save: their average if there is one."""
        return self.mean or {name: tensor.detach() for name, tensor in self.meta.items()}

    def tensors(self) -> Params:
        """Return what a resumed training needs beside the meta-parameters and the number of steps."""
        states = {(key, name): value for name, t in self.meta.items() for key, value in self._torch.state[t].items()}
        means = {_MEAN + name: mean for name, mean in self.mean.items()}
        return means | {f"{_STATE}{key}.{name}": value for (key, name), value in states.items()}

    def load(self, tensors: Params, steps: int) -> None:
        """Restore what ``tensors`` returned after so many steps; other tensors are ignored."""
        self.steps = steps
        for key, tensor in tensors.items():
            if key.startswith(_MEAN):
                self.mean[key.removeprefix(_MEAN)] = tensor
            elif key.startswith(_STATE):
                slot, _, name = key.removeprefix(_STATE).partition(".")
                self._torch.state[self.meta[name]][slot] = tensor


class MetaTraining:
    """A training that can be interrupted between two meta-steps."""

    def __init__(self, options: FewShotOptions, source: TaskSource, learner: Learner, learned: Learned):
        self.options, self.source, self.learner = options, source, learner
        self.window: list[tuple[float, float]] = []
        self.logged = math.nan, math.nan
        self._began = time.monotonic(), time.process_time()
        self._set(learned)

    def _set(self, learned: Learned) -> None:
        self.meta = {name: tensor.requires_grad_() for name, tensor in learned.meta.items()}
        self.buffers = learned.buffers
        self.optimiser = MetaOptimiser(self.meta, self.options.train)

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds of wall time and of processor time, those before a resume included."""
        return time.monotonic() - self._began[0], time.process_time() - self._began[1]

    def step(self, bar: tqdm) -> None:
        """Take one meta-step, and log the mean of the last ones where that is due. Raises UserError on divergence."""
        config, seed, step = self.options.train, self.options.run.seed, self.optimiser.steps
        progress, shape = step / config.steps, self.options.task.episode_shape(training=True)
        episodes = self.source.sample("train", shape, config.tasks, seeded(seed, EPISODES, step))
        learned = Learned(self.meta, self.buffers)
        done = self.learner.meta_step(learned, episodes, progress, seeded(seed, INNER, step))
        self.buffers = done.buffers
        norm = self.optimiser.step(done.gradients, lr_at(progress, config))
        self.window.append((done.loss, done.score))
        bar.update()
        if (step + 1) % config.log_every and step + 1 < config.steps:
            return
        loss, score = self.logged = tuple(sum(values) / len(self.window) for values in zip(*self.window, strict=True))
        if not math.isfinite(loss) or not math.isfinite(norm):
            do = "lower train.rate or learner.inner_rate, or set train.clip"
            raise UserError("training diverged: the loss is not finite", f"step {step + 1}", do)
        seconds = round(self.seconds[0], 2)
        log_line(self.options.run.path, step=step + 1, loss=loss, score=score, norm=norm, seconds=seconds)
        bar.set_postfix(loss=f"{loss:.3f}", score=f"{score:.3f}", refresh=False)
        self.window.clear()

    def state_dict(self) -> State:
        seconds, cpu_seconds = self.seconds
        values = {"step": self.optimiser.steps, "seconds": seconds, "cpu_seconds": cpu_seconds}
        tensors = to_tensors(Learned(self.meta, self.buffers)) | self.optimiser.tensors()
        return State(tensors, values | {"window": self.window, "logged": self.logged})

    def load_state_dict(self, state: State) -> None:
        tensors, values = state
        # Not in the file's order: the norm's rounding depends on the order of tensors.
        names = to_tensors(Learned(self.meta, self.buffers))
        self._set(from_tensors({name: tensors[name] for name in names}))
        self.optimiser.load(tensors, values["step"])
        self.window, self.logged = [(loss, score) for loss, score in values["window"]], tuple(values["logged"])
        self._began = self._began[0] - values["seconds"], self._began[1] - values["cpu_seconds"]


def train(options: FewShotOptions, quiet: bool = False) -> dict[str, Any]:
    """Meta-train into the run's folder, from its newest checkpoint if there is one; a trained run is left unchanged.

    Returns the card: steps, seconds of wall time and of processor time, and the mean score of the last training
    episodes. Raises UserError for tasks that cannot be sampled, a folder with other options or in use by another
    process, and a training that diverges; Stopped, with the checkpoint to resume from, on Ctrl-C and SIGTERM.
    """
    folder, config = options.run.path, options.train
    check_options(folder, options)
    if (folder / "learner.json").exists():
        return dict(read_json(folder / "learner.json"))
    source, learner = options.create()
    learned = learner.initial(seeded(options.run.seed, INITIAL))
    if config.start is not None:
        learned, _ = load_learned(Path(config.start), learner)
    card: dict[str, Any] = {"learner": options.learner.kind, "steps": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    card |= {"tasks": source.describe(), "images": source.image_format()}
    is_trained = learner.is_trained and config.steps
    if is_trained:  # Splits that are too small are refused before anything is written.
        for split, training in (("train", True), (options.evaluate.split, False)):
            source.sample(split, options.task.episode_shape(training), 1, seeded(0))
    with exclusive(folder, "this run"):
        check_options(folder, options)
        if (folder / "learner.json").exists():  # Another process finished it meanwhile.
            return dict(read_json(folder / "learner.json"))
        save_config(folder, options)
        checkpoints = Checkpoints(folder / "checkpoints")
        if is_trained:
            keep_freed_memory()
            work = MetaTraining(options, source, learner, learned)
            with Checkpointer(checkpoints, work, every=config.checkpoint_every) as checkpointer:
                checkpointer.resume()
                first = work.optimiser.steps
                with tqdm(total=config.steps, initial=first, desc=options.run.name, unit="step", disable=quiet) as bar:
                    for step in range(first, config.steps):
                        work.step(bar)
                        checkpointer.after_step(step + 1)
            learned = Learned(work.optimiser.result(), work.buffers)
            loss, score = work.logged
            seconds, cpu_seconds = (round(value, 1) for value in work.seconds)
            card |= {"steps": config.steps, "seconds": seconds, "cpu_seconds": cpu_seconds}
            card |= {"train_loss": loss, "train_score": score}
        card = save_learned(folder, learned, card)
        checkpoints.drop()
        return card


def check_options(folder: Path, options: FewShotOptions) -> None:
    """Raise UserError where the folder holds a run with other options of its tasks, learner or training."""
    if not (folder / "config.yaml").exists():
        return
    found, given = (dataclasses.asdict(each) for each in (load_run_options(folder), options))
    for section in ("task", "learner", "train"):
        for name, value in given[section].items():
            if (before := found[section].get(name)) != value:
                what = f"this run was made with {section}.{name} {before!r}, not {value!r}"
                raise UserError(what, folder, "choose another --run.name, or remove the folder")
