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
from dynlm.fewshot.learners.learner import Learned, Learner, add_prefix, strip_prefix
from dynlm.fewshot.options import FewShotOptions, TrainOptions
from dynlm.fewshot.run_folder import from_tensors, load_learned, load_run_options, save_learned, to_tensors
from dynlm.fewshot.tasks.source import TaskSource, seeded, task_sampler
from dynlm.run.folder import log_line, save_config
from dynlm.run.locate import find_run
from dynlm.run.options import ELSEWHERE
from dynlm.runtime.allocator import keep_freed_memory
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json
from dynlm.types import Params

# Purposes of generators. Each meta-step has two of its own, so that a resumed run draws the same numbers.
INITIAL, EPISODES, INNER = range(3)
_STATE, _MEAN = "optimiser.", "mean."


def lr_at(progress: float, options: TrainOptions) -> float:
    """Return the outer learning rate at ``progress`` (0 to 1): linear decay for sgd, half a cosine for adam."""
    left = 1 - progress if options.optimizer == "sgd" else 0.5 * (1 + math.cos(math.pi * progress))
    return options.rate * (options.final_rate + (1 - options.final_rate) * left)


class MetaTraining:
    """A training that can be interrupted between two meta-steps: meta-parameters, buffers, optimiser and average."""

    def __init__(self, options: FewShotOptions, source: TaskSource, learner: Learner, learned: Learned):
        self.options, self.source, self.learner = options, source, learner
        self.environment_steps = self.updates = 0
        self.steps, self.window, self.logged = 0, list[tuple[float, float]](), (math.nan, math.nan)
        self._began = time.monotonic(), time.process_time()
        self._start(learned)

    def _start(self, learned: Learned) -> None:
        config = self.options.train
        self.meta = {name: tensor.requires_grad_() for name, tensor in learned.meta.items()}
        self.buffers, tensors = learned.buffers, list(self.meta.values())
        self.average = {name: tensor.detach().clone() for name, tensor in self.meta.items()} if config.average else {}
        self._optimizer: torch.optim.Optimizer = torch.optim.SGD(tensors, lr=config.rate)
        if config.optimizer == "adam":
            self._optimizer = torch.optim.Adam(tensors, lr=config.rate, fused=True)

    @property
    def seconds(self) -> tuple[float, float]:
        """Seconds of wall time and of processor time, those before a resume included."""
        return time.monotonic() - self._began[0], time.process_time() - self._began[1]

    def result(self) -> Learned:
        """Return what to save: the average of the meta-parameters if there is one (``train.average``)."""
        return Learned(self.average or {name: t.detach() for name, t in self.meta.items()}, self.buffers)

    def step(self, bar: tqdm) -> None:
        """Take one meta-step, all steps of the optimiser on one batch of tasks, and log where that is due.

        Raises UserError on divergence.
        """
        config, seed = self.options.train, self.options.run.seed
        progress, generator = self.steps / config.steps, seeded(seed, EPISODES, self.steps)
        tasks = self.source.batch("train", True, config.tasks, generator)
        learned = Learned(self.meta, self.buffers)
        results, norm = list[tuple[float, float]](), math.nan
        for done in self.learner.meta_steps(learned, tasks, progress, seeded(seed, INNER, self.steps)):
            self.buffers = done.buffers
            self.environment_steps += done.environment_steps
            norm = self.update(done.gradients, lr_at(progress, config))
            results.append((done.loss, done.score))
        self.steps += 1
        self.window.append(_mean(results))
        bar.update()
        if self.steps % config.log_every and self.steps < config.steps:
            return
        loss, score = _mean(self.window)
        if not math.isfinite(loss) or not math.isfinite(norm):
            do = "lower train.rate or learner.inner_rate, or set train.clip"
            raise UserError("training diverged: the loss is not finite", f"step {self.steps}", do)
        seconds = round(self.seconds[0], 2)
        more = {"environment_steps": self.environment_steps} if self.environment_steps else {}
        log_line(self.options.run.path, step=self.steps, loss=loss, score=score, norm=norm, seconds=seconds, **more)
        bar.set_postfix(loss=f"{loss:.3f}", score=f"{score:.3f}", refresh=False)
        self.window, self.logged = [], (loss, score)

    def update(self, gradients: Params, lr: float) -> float:
        """Take a step of the optimiser and return the gradients' norm before clipping. Others stay as they are."""
        config = self.options.train
        for name, tensor in self.meta.items():
            gradient = gradients.get(name)
            # torch's fused optimisers read a transposed gradient in the order of its memory (seen with torch 2.x).
            tensor.grad = None if gradient is None else gradient.contiguous()
        norm = torch.nn.utils.clip_grad_norm_(list(self.meta.values()), config.clip or math.inf)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self.updates += 1
        # The average of all steps so far at first, so that the initial values do not stay in it.
        share = max(1 - config.average, 1 / self.updates)
        with torch.no_grad():
            for name, mean in self.average.items():
                mean.lerp_(self.meta[name], share)
        return float(norm)

    def state_dict(self) -> State:
        """Return all that a resumed training needs."""
        tensors = to_tensors(Learned(self.meta, self.buffers))
        tensors |= add_prefix(_MEAN, self.average)
        for name, tensor in self.meta.items():
            state = self._optimizer.state.get(tensor, {})
            tensors |= {f"{_STATE}{key}.{name}": value for key, value in state.items()}
        values: dict[str, Any] = dict(zip(("seconds", "cpu_seconds"), self.seconds, strict=True))
        values |= {"window": self.window, "logged": self.logged, "environment_steps": self.environment_steps}
        values["updates"] = self.updates
        return State(tensors, {"step": self.steps, **values})

    def load_state_dict(self, state: State) -> None:
        """Restore a ``state_dict``."""
        tensors, values = state
        # Not in the file's order: the norm's rounding depends on the order of tensors.
        names = to_tensors(Learned(self.meta, self.buffers))
        self._start(from_tensors({name: tensors[name] for name in names}))
        self.average |= strip_prefix(_MEAN, tensors)
        for key, tensor in tensors.items():
            if key.startswith(_STATE):
                slot, _, name = key.removeprefix(_STATE).partition(".")
                self._optimizer.state[self.meta[name]][slot] = tensor
        loss, score = values["logged"]
        self.steps, self.logged, self.window = values["step"], (loss, score), [(a, b) for a, b in values["window"]]
        self.environment_steps = values.get("environment_steps", 0)
        self.updates = values.get("updates", self.steps)
        self._began = self._began[0] - values["seconds"], self._began[1] - values["cpu_seconds"]


def _mean(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the means of the first and of the second numbers."""
    loss, score = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return loss, score


def train(options: FewShotOptions, quiet: bool = False) -> dict[str, Any]:
    """Meta-train into the run's folder, from its newest checkpoint if there is one; a trained run is left unchanged.

    Returns the card: steps, seconds of wall time and of processor time, and the mean score of the last training
    episodes. Raises UserError for tasks that cannot be sampled, a folder with other options or in use by another
    process, and a training that diverges; Stopped, with the checkpoint to resume from, on Ctrl-C and SIGTERM.
    """
    folder, config = options.run.path, options.train
    if (done := find_card(folder, options)) is not None:
        return done
    source, learner = options.create()
    learned = learner.initial(seeded(options.run.seed, INITIAL))
    if config.start is not None:
        learned, _ = load_learned(find_run(config.start, "runs/fewshot"), learner)
    card: dict[str, Any] = {"learner": options.learner.kind, "steps": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    card |= {"tasks": source.describe(), "images": source.image_format()}
    is_trained = learner.is_trained and config.steps
    if is_trained:  # Splits that are too small are refused before anything is written.
        for split, training in (("train", True), (options.evaluate.split, False)):
            source.batch(split, training, 1, seeded(0))
    with exclusive(folder, "this run"):
        if (done := find_card(folder, options)) is not None:  # Another process finished it meanwhile.
            return done
        save_config(folder, options)
        checkpoints = Checkpoints(folder / "checkpoints")
        if is_trained:
            keep_freed_memory()
            work = MetaTraining(options, source, learner, learned)
            with Checkpointer(checkpoints, work, every=config.checkpoint_every) as checkpointer:
                checkpointer.resume()
                first = work.steps
                with tqdm(total=config.steps, initial=first, desc=options.run.name, unit="step", disable=quiet) as bar:
                    for step in range(first, config.steps):
                        work.step(bar)
                        checkpointer.after_step(step + 1)
            learned, (loss, score) = work.result(), work.logged
            seconds, cpu_seconds = (round(value, 1) for value in work.seconds)
            card |= {"steps": config.steps, "seconds": seconds, "cpu_seconds": cpu_seconds}
            card |= {"train_loss": loss, "train_score": score}
            if work.environment_steps:
                card["environment_steps"] = work.environment_steps
        elif not learner.is_trained:
            learned, tuned = learner.tune(learned, task_sampler(source, options.run.seed, "valid"))
            card |= {"tuned": tuned} if tuned else {}
        card = save_learned(folder, learned, card)
        checkpoints.drop()
        return card


def find_card(folder: Path, options: FewShotOptions) -> dict[str, Any] | None:
    """Return the card of a trained run, None before its end.

    Raises UserError where the folder holds a run with other options of its tasks, learner or training.
    """
    if (folder / "config.yaml").exists():
        found, given = (dataclasses.asdict(each) for each in (load_run_options(folder), options))
        for section in ("task", "learner", "train"):
            for name, value in given[section].items():
                if (before := found[section].get(name)) != value:
                    what = f"this run was made with {section}.{name} {before!r}, not {value!r}"
                    raise UserError(what, folder, ELSEWHERE)
    return dict(read_json(folder / "learner.json")) if (folder / "learner.json").exists() else None
