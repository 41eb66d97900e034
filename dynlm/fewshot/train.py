"""Meta-training: episodes, meta-gradients, a step; to be gone on with from the newest checkpoint."""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynlm.errors import UserError
from dynlm.fewshot import run_folder
from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.malloc import keep_freed_memory
from dynlm.fewshot.open import open_learner, open_tasks
from dynlm.fewshot.options import UNTRAINED, FewShotConfig, TrainConfig
from dynlm.fewshot.run_folder import as_tensors, from_tensors, run_path, save_learned
from dynlm.fewshot.tasks.episodes import Tasks, seeded
from dynlm.models.lstm.model import Params
from dynlm.run.folder import log_line, save_config
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.files import exclusive
from dynlm.runtime.parsing import read_json
from dynlm.runtime.signals import StopRequest, stop_requests

# What a generator is for: each meta-step has its own two, so that a resumed run sees what it would have seen.
FRESH, EPISODES, INNER = range(3)
_STATE = "optimiser."
_MEAN = "mean."
_CHECKPOINTS = "checkpoints"


def rate_at(progress: float, config: TrainConfig) -> float:
    """The outer learning rate ``progress`` (0 to 1) through the training: linear for sgd, half a cosine for adam."""
    left = 1 - progress if config.optimizer == "sgd" else 0.5 * (1 + math.cos(math.pi * progress))
    return config.rate * (config.final_rate + (1 - config.final_rate) * left)


class MetaOptimiser:
    """Steps the meta-parameters in place, and keeps their Polyak average where one is asked for."""

    def __init__(self, meta: Params, config: TrainConfig):
        self.meta, self.config = meta, config
        tensors = list(meta.values())
        self._torch: torch.optim.Optimizer
        if config.optimizer == "adam":
            self._torch = torch.optim.Adam(tensors, lr=config.rate, fused=True)
        else:
            self._torch = torch.optim.SGD(tensors, lr=config.rate)
        self.mean: Params = {name: t.detach().clone() for name, t in meta.items()} if config.average else {}
        self.steps = 0

    def step(self, gradients: Params, rate: float) -> float:
        """One step at ``rate``; returns the gradients' norm before clipping. A tensor without a gradient stays."""
        for name, tensor in self.meta.items():
            gradient = gradients.get(name)
            # torch's fused optimisers take a transposed gradient in the order of its memory (seen with torch 2.x).
            tensor.grad = None if gradient is None else gradient.contiguous()
        norm = torch.nn.utils.clip_grad_norm_(list(self.meta.values()), self.config.clip or math.inf)
        for group in self._torch.param_groups:
            group["lr"] = rate
        self._torch.step()
        self.steps += 1
        # Early on the mean is over what there is, not weighed down by the start.
        share = max(1 - self.config.average, 1 / self.steps)
        with torch.no_grad():
            for name, mean in self.mean.items():
                mean.lerp_(self.meta[name], share)
        return float(norm)

    def result(self) -> Params:
        """The meta-parameters to keep: their average where there is one."""
        return self.mean or {name: tensor.detach() for name, tensor in self.meta.items()}

    def state(self) -> Params:
        """All that a resumed training needs besides the meta-parameters."""
        tensors = {_MEAN + name: mean for name, mean in self.mean.items()}
        for name, tensor in self.meta.items():
            for key, value in self._torch.state.get(tensor, {}).items():
                tensors[f"{_STATE}{key}.{name}"] = value
        return tensors

    def load_state(self, tensors: Params, steps: int) -> None:
        """Take up what ``state`` gave."""
        self.steps = steps
        for key, tensor in tensors.items():
            if key.startswith(_MEAN):
                self.mean[key.removeprefix(_MEAN)] = tensor
            elif key.startswith(_STATE):
                slot, _, name = key.removeprefix(_STATE).partition(".")
                self._torch.state[self.meta[name]][slot] = tensor


def train(config: FewShotConfig, quiet: bool = False) -> dict[str, Any]:
    """Meta-train into the run's folder, going on from its newest checkpoint; a trained run is left as it is.

    Returns the card: steps, seconds of wall time and of all threads, and the mean score of the last training episodes.
    Raises UserError for tasks that cannot be made, a folder that was made with other options or that another process
    trains, or a training that diverges; Stopped, with the checkpoint that the same call goes on from, where Ctrl-C or
    SIGTERM asked for it.
    """
    folder = run_path(config)
    refuse_another_run(folder, config)
    if (folder / "learner.json").exists():
        return dict(read_json(folder / "learner.json"))
    tasks, learner = open_tasks(config.task), open_learner(config)
    learned = learner.initial(seeded(config.run.seed, FRESH))
    if config.train.start is not None:
        learned, _ = run_folder.load_learned(Path(config.train.start), learner)
    about: dict[str, Any] = {
        "learner": config.learner.kind,
        "tasks": tasks.describe(),
        "images": tasks.images(),
        "steps": 0,
        "seconds": 0.0,
        "cpu_seconds": 0.0,
    }
    if config.learner.kind not in UNTRAINED and config.train.steps:
        for split, training in (("train", True), (config.evaluate.split, False)):
            tasks.sample(split, config.task.episode(training), 1, seeded(0))  # what does not fit is said before writing
    with exclusive(folder, "this run"):
        refuse_another_run(folder, config)
        if (folder / "learner.json").exists():  # another process ended it meanwhile
            return dict(read_json(folder / "learner.json"))
        save_config(folder, config)
        if config.learner.kind not in UNTRAINED and config.train.steps:
            with stop_requests() as request:
                learned, done = _train(config, folder, tasks, learner, learned, request, quiet)
            about |= done
        card = save_learned(folder, learned, about)
        Checkpoints(folder / _CHECKPOINTS).drop()
        return card


def _train(
    config: FewShotConfig,
    folder: Path,
    tasks: Tasks,
    learner: Learner,
    learned: Learned,
    request: StopRequest,
    quiet: bool,
) -> tuple[Learned, dict[str, Any]]:
    options, shape, seed = config.train, config.task.episode(True), config.run.seed
    keep_freed_memory()
    begun, begun_cpu = time.monotonic(), time.process_time()
    first = 0
    checkpoints = Checkpoints(folder / _CHECKPOINTS)
    checkpoint = checkpoints.newest()
    state: Params = {}
    window: list[tuple[float, float]] = []
    loss = score = math.nan
    if checkpoint is not None:
        with checkpoint.loading() as (tensors, about):
            first, begun, begun_cpu = about["step"], begun - about["seconds"], begun_cpu - about["cpu_seconds"]
            window, (loss, score) = [(one, other) for one, other in about["window"]], about["logged"]
            state = {name: tensor for name, tensor in tensors.items() if name.startswith((_STATE, _MEAN))}
            # In the order they were made in, not the file's: clipping adds up norms in that order.
            learned = from_tensors({name: tensors[name] for name in as_tensors(learned)})
    meta, buffers = {name: tensor.requires_grad_() for name, tensor in learned.meta.items()}, learned.buffers
    optimiser = MetaOptimiser(meta, options)
    optimiser.load_state(state, first)
    bar = tqdm(total=options.steps, initial=first, desc=config.run.name, unit="step", disable=quiet)
    for step in range(first, options.steps):
        progress = step / options.steps
        episodes = tasks.sample("train", shape, options.tasks, seeded(seed, EPISODES, step))
        done = learner.meta_step(Learned(meta, buffers), episodes, progress, seeded(seed, INNER, step))
        buffers = done.buffers
        norm = optimiser.step(done.gradients, rate_at(progress, options))
        window.append((done.loss, done.score))
        bar.update()
        last = step + 1 == options.steps
        if (step + 1) % options.log_every == 0 or last:
            loss, score = (sum(values) / len(window) for values in zip(*window, strict=True))
            if not math.isfinite(loss) or not math.isfinite(norm):
                raise UserError(
                    "training diverged: the loss is not finite",
                    f"step {step + 1}",
                    "lower train.rate or learner.inner_rate, or set train.clip",
                )
            seconds = round(time.monotonic() - begun, 2)
            log_line(folder, step=step + 1, loss=loss, score=score, norm=norm, seconds=seconds)
            bar.set_postfix(loss=f"{loss:.3f}", score=f"{score:.3f}", refresh=False)
            window.clear()
        stopping = request.requested
        if stopping or ((step + 1) % options.checkpoint_every == 0 and not last):
            about = {
                "step": step + 1,
                "seconds": time.monotonic() - begun,
                "cpu_seconds": time.process_time() - begun_cpu,
                "window": window,
                "logged": (loss, score),
            }
            path = checkpoints.save(step + 1, as_tensors(Learned(meta, buffers)) | optimiser.state(), about)
            if stopping:
                bar.close()
                request.stop(path)
    bar.close()
    about = {
        "steps": options.steps,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(time.process_time() - begun_cpu, 1),
        "train_loss": loss,
        "train_score": score,
    }
    return Learned(optimiser.result(), buffers), about


def refuse_another_run(folder: Path, config: FewShotConfig) -> None:
    """Raise UserError where the folder holds a run of other options; how it is evaluated is none of them."""
    if not (folder / "config.yaml").exists():
        return
    found = dataclasses.asdict(run_folder.load_run_config(folder))
    wanted = dataclasses.asdict(config)
    for section in ("task", "learner", "train"):
        for name, value in wanted[section].items():
            if found[section][name] != value:
                raise UserError(
                    f"this run was made with {section}.{name} {found[section][name]!r}, not {value!r}",
                    folder,
                    "choose another --run.name, or remove the folder",
                )
