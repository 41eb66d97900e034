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
from dynlm.fewshot.tasks.episodes import seeded
from dynlm.fewshot.tasks.source import TaskSource
from dynlm.models.lstm.model import Params
from dynlm.run.folder import log_line, save_config
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json
from dynlm.runtime.signals import StopRequest, stop_requests

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
        self.meta, self.options, tensors = meta, options, list(meta.values())
        self._torch: torch.optim.Optimizer
        if options.optimizer == "adam":
            self._torch = torch.optim.Adam(tensors, lr=options.rate, fused=True)
        else:
            self._torch = torch.optim.SGD(tensors, lr=options.rate)
        self.mean: Params = {name: t.detach().clone() for name, t in meta.items()} if options.average else {}
        self.steps = 0

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

    def state_dict(self) -> Params:
        """Return what a resumed training needs beside the meta-parameters and the number of steps."""
        tensors = {_MEAN + name: mean for name, mean in self.mean.items()}
        for name, tensor in self.meta.items():
            for key, value in self._torch.state.get(tensor, {}).items():
                tensors[f"{_STATE}{key}.{name}"] = value
        return tensors

    def load_state_dict(self, tensors: Params, steps: int) -> None:
        """Restore ``state_dict`` from among ``tensors``, after so many steps."""
        self.steps = steps
        for key, tensor in tensors.items():
            if key.startswith(_MEAN):
                self.mean[key.removeprefix(_MEAN)] = tensor
            elif key.startswith(_STATE):
                slot, _, name = key.removeprefix(_STATE).partition(".")
                self._torch.state[self.meta[name]][slot] = tensor


def train(options: FewShotOptions, quiet: bool = False) -> dict[str, Any]:
    """Meta-train into the run's folder, from its newest checkpoint if there is one; a trained run is left unchanged.

    Returns the card: steps, seconds of wall time and of processor time, and the mean score of the last training
    episodes. Raises UserError for tasks that cannot be sampled, a folder with other options or in use by another
    process, and a training that diverges; Stopped, with the checkpoint to resume from, on Ctrl-C and SIGTERM.
    """
    folder = options.run.path
    check_options(folder, options)
    if (folder / "learner.json").exists():
        return dict(read_json(folder / "learner.json"))
    source, learner = options.create()
    learned = learner.initial(seeded(options.run.seed, INITIAL))
    if options.train.start is not None:
        learned, _ = load_learned(Path(options.train.start), learner)
    card: dict[str, Any] = {
        "learner": options.learner.kind,
        "tasks": source.describe(),
        "images": source.image_format(),
    }
    card |= {"steps": 0, "seconds": 0.0, "cpu_seconds": 0.0}
    is_trained = options.learner.is_trained and options.train.steps
    if is_trained:  # Splits that are too small are refused before anything is written.
        for split, training in (("train", True), (options.evaluate.split, False)):
            source.sample(split, options.task.episode_shape(training), 1, seeded(0))
    with exclusive(folder, "this run"):
        check_options(folder, options)
        if (folder / "learner.json").exists():  # Another process finished it meanwhile.
            return dict(read_json(folder / "learner.json"))
        save_config(folder, options)
        if is_trained:
            with stop_requests() as request:
                learned, results = _train(options, source, learner, learned, request, quiet)
            card |= results
        card = save_learned(folder, learned, card)
        Checkpoints(folder / "checkpoints").drop()
        return card


def _train(
    options: FewShotOptions, source: TaskSource, learner: Learner, learned: Learned, request: StopRequest, quiet: bool
) -> tuple[Learned, dict[str, Any]]:
    folder, config, seed = options.run.path, options.train, options.run.seed
    shape = options.task.episode_shape(training=True)
    keep_freed_memory()
    began, began_cpu = time.monotonic(), time.process_time()
    first = 0
    state: Params = {}
    window: list[tuple[float, float]] = []
    loss = score = math.nan
    checkpoints = Checkpoints(folder / "checkpoints")
    if (checkpoint := checkpoints.newest()) is not None:
        with checkpoint.loading() as (state, about):
            first, began, began_cpu = about["step"], began - about["seconds"], began_cpu - about["cpu_seconds"]
            window, (loss, score) = [(one, other) for one, other in about["window"]], about["logged"]
            # Not in the file's order: the norm's rounding depends on the order of tensors.
            learned = from_tensors({name: state[name] for name in to_tensors(learned)})
    meta, buffers = {name: tensor.requires_grad_() for name, tensor in learned.meta.items()}, learned.buffers
    optimiser = MetaOptimiser(meta, config)
    optimiser.load_state_dict(state, first)
    bar = tqdm(total=config.steps, initial=first, desc=options.run.name, unit="step", disable=quiet)
    for step in range(first, config.steps):
        progress = step / config.steps
        episodes = source.sample("train", shape, config.tasks, seeded(seed, EPISODES, step))
        done = learner.meta_step(Learned(meta, buffers), episodes, progress, seeded(seed, INNER, step))
        buffers = done.buffers
        norm = optimiser.step(done.gradients, lr_at(progress, config))
        window.append((done.loss, done.score))
        bar.update()
        is_last = step + 1 == config.steps
        if (step + 1) % config.log_every == 0 or is_last:
            loss, score = (sum(values) / len(window) for values in zip(*window, strict=True))
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise UserError(
                    "training diverged: the loss is not finite",
                    f"step {step + 1}",
                    "lower train.rate or learner.inner_rate, or set train.clip",
                )
            seconds = round(time.monotonic() - began, 2)
            log_line(folder, step=step + 1, loss=loss, score=score, norm=norm, seconds=seconds)
            bar.set_postfix(loss=f"{loss:.3f}", score=f"{score:.3f}", refresh=False)
            window.clear()
        if request.requested or ((step + 1) % config.checkpoint_every == 0 and not is_last):
            about = {"step": step + 1, "window": window, "logged": (loss, score)}
            about |= {"seconds": time.monotonic() - began, "cpu_seconds": time.process_time() - began_cpu}
            path = checkpoints.save(step + 1, to_tensors(Learned(meta, buffers)) | optimiser.state_dict(), about)
            if request.requested:
                bar.close()
                request.stop(path)
    bar.close()
    results = {"steps": config.steps, "train_loss": loss, "train_score": score}
    results |= {"seconds": round(time.monotonic() - began, 1)}
    results |= {"cpu_seconds": round(time.process_time() - began_cpu, 1)}
    return Learned(optimiser.result(), buffers), results


def check_options(folder: Path, options: FewShotOptions) -> None:
    """Raise UserError where the folder holds a run with other options of its tasks, learner or training."""
    if not (folder / "config.yaml").exists():
        return
    found, given = (dataclasses.asdict(each) for each in (load_run_options(folder), options))
    for section in ("task", "learner", "train"):
        for name, value in given[section].items():
            if found[section].get(name) != value:
                raise UserError(
                    f"this run was made with {section}.{name} {found[section].get(name)!r}, not {value!r}",
                    folder,
                    "choose another --run.name, or remove the folder",
                )
