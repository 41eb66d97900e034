"""Evaluation as published: many episodes of classes that were not trained on, each learned and judged for itself.

The test episodes of a seed are the same for every learner. What they scored goes to ``scores/``; a few tasks with all
that was predicted go to ``examples/``. Legend: T tasks side by side, J numbers of steps.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.malloc import keep_freed_memory
from dynlm.fewshot.open import open_learner, open_tasks
from dynlm.fewshot.options import FewShotConfig
from dynlm.fewshot.results import EpisodeScores, write_scores
from dynlm.fewshot.run_folder import load_learned
from dynlm.fewshot.tasks.classification import check_images
from dynlm.fewshot.tasks.episodes import Episodes, Tasks, seeded, side_by_side
from dynlm.fewshot.tasks.regression import Curves
from dynlm.runtime.parsing import write_json

EPISODES, ADAPTING, SHOWN, ADAPTING_SHOWN = 10, 11, 12, 13
_GRID = 121
_SHOWN_IMAGES = 6


def evaluate(folder: Path, config: FewShotConfig, quiet: bool = False) -> tuple[Path, EpisodeScores]:
    """Judge a trained run; returns the file that was written and its scores.

    Raises UserError where the run is not trained, or where the split cannot give such episodes.
    """
    keep_freed_memory()
    tasks, learner = open_tasks(config.task), open_learner(config)
    learned, card = load_learned(folder, learner)
    if said := check_images(card.get("images") or {}, tasks.images()):
        print(f"dynlm: {said}", file=sys.stderr)
    scores = judge(learner, learned, tasks, config, quiet)
    data = tasks.data(config.evaluate.split)
    scores.protocol.update(data, learner_fingerprint=card["fingerprint"])
    scores.protocol["training"] = {name: card[name] for name in ("steps", "seconds", "cpu_seconds") if name in card}
    name = _file_name(config, data)
    # First what took long: nothing that is only shown can lose it.
    write_scores(folder / "scores" / name, scores)
    shown = examples(learner, learned, tasks, config)
    if shown is not None:
        write_json(folder / "examples" / name, shown)
    return folder / "scores" / name, scores


def judge(learner: Learner, learned: Learned, tasks: Tasks, config: FewShotConfig, quiet: bool = True) -> EpisodeScores:
    """Scores of ``evaluate.episodes`` episodes: on curves after 0, 1, ... steps, on images after the last alone."""
    options, rows = config.evaluate, []
    judged: list[int] = []
    for first in tqdm(range(0, options.episodes, options.at_once), desc="evaluate", disable=quiet):
        numbers = range(first, min(first + options.at_once, options.episodes))
        episodes = _drawn(tasks, config, EPISODES, numbers)
        adapting = [seeded(config.run.seed, ADAPTING, number) for number in numbers]
        every = learner.adapt(learned, episodes.support, config.evaluation_steps, adapting)
        columns, judged = [], []
        with torch.no_grad():
            if not config.task.is_regression:
                *_, last = every
                every = iter([last])
            for adapted in every:
                outputs = learner.predict(learned, adapted, episodes.query.inputs)
                columns.append(learner.scores(outputs, episodes.query.targets))
                judged.append(adapted.step)
        rows.append(torch.stack(columns, 1))
    return EpisodeScores(protocol(config), judged, torch.cat(rows).numpy())


def _drawn(tasks: Tasks, config: FewShotConfig, purpose: int, numbers: Sequence[int]) -> Episodes:
    """The episodes of these numbers. Each has a generator of its own: it is the same whichever are drawn with it."""
    shape, seed = config.task.episode(False), config.run.seed
    split = config.evaluate.split
    return side_by_side([tasks.sample(split, shape, 1, seeded(seed, purpose, number)) for number in numbers])


def protocol(config: FewShotConfig) -> dict[str, Any]:
    """What a figure has to be read with."""
    task, shape, training = config.task, config.task.episode(False), config.task.episode(True)
    about: dict[str, Any] = {
        "label": label(config),
        "run": config.run.name,
        "learner": config.learner.kind,
        "metric": "mean squared error" if task.is_regression else "accuracy",
        "task": task.source,
        "split": config.evaluate.split,
        "episodes": config.evaluate.episodes,
        "shots": shape.shots,
        "queries": shape.queries,
        "steps": config.evaluation_steps,
        "seed": config.run.seed,
        "inner_rate": config.learner.inner_rate,
    }
    if not task.is_regression:
        about |= {
            "ways": shape.ways,
            "statistics": statistics_in_words(config),
            "classes": task.split if task.source == "omniglot" else "",
            "trained_on": {"ways": training.ways, "shots": training.shots, "queries": training.queries},
        }
    return about


_LABELS = {
    "maml": "MAML",
    "fomaml": "FOMAML",
    "anil": "ANIL",
    "meta-sgd": "Meta-SGD",
    "maml++": "MAML++",
    "reptile": "Reptile",
    "random": "random initialisation",
    "prototypes": "prototypical network",
    "lstm-reader": "LSTM that reads",
    "lstm-optimiser": "LSTM optimiser",
    "pixels": "nearest pixels",
}


def label(config: FewShotConfig) -> str:
    """A learner's name in tables; what it is told of the query set is part of it."""
    name = _LABELS[config.learner.kind]
    with_batches = config.learner.kind not in ("pixels", "lstm-reader") and not config.task.is_regression
    return f"{name} + transduction" if with_batches and config.learner.statistics == "transductive" else name


def statistics_in_words(config: FewShotConfig) -> str:
    """Where the statistics come from that a query example is normalised by."""
    if config.learner.kind == "pixels":
        return "none"
    if config.learner.kind == "lstm-reader":
        return "running"
    return config.learner.statistics


def _file_name(config: FewShotConfig, data: Mapping[str, Any]) -> str:
    """A file for each protocol and data of a run: the readable part, and a few digits that tell the rest apart."""
    told = {**protocol(config), **data}
    shape = f"{told['ways']}-way-{told['shots']}-shot" if "ways" in told else f"{told['shots']}-points"
    mark = hashlib.sha256(repr(sorted(told.items(), key=lambda item: item[0])).encode()).hexdigest()[:6]
    return f"{config.task.source}-{config.evaluate.split}-{shape}-{told.get('statistics', 'plain')}-{mark}.json"


def examples(learner: Learner, learned: Learned, tasks: Tasks, config: FewShotConfig) -> dict[str, Any] | None:
    """A few unseen tasks with all that was predicted: of curves step by step, of images at the end."""
    count, seed = config.evaluate.shown_tasks, config.run.seed
    if not count:
        return None
    episodes = _drawn(tasks, config, SHOWN, range(count))
    if isinstance(tasks, Curves):
        return _curves(learner, learned, tasks, episodes, config)
    adapting = [seeded(seed, ADAPTING_SHOWN, number) for number in range(count)]
    with torch.no_grad():
        every = learner.adapt(learned, episodes.support, config.evaluation_steps, adapting)
        *_, adapted = every
        outputs_TQK = learner.predict(learned, adapted, episodes.query.inputs)
    shape = config.task.episode(False)
    kept = min(_SHOWN_IMAGES, shape.queries)
    # Of each class the first query examples.
    places = [way * shape.queries + index for way in range(shape.ways) for index in range(kept)]
    return {
        "kind": "images",
        "protocol": protocol(config),
        "tasks": [
            {
                "support": _images(episodes.support.inputs[task]),
                "support_classes": episodes.support.targets[task].tolist(),
                "query": _images(episodes.query.inputs[task][places]),
                "query_classes": episodes.query.targets[task][places].tolist(),
                "answers": outputs_TQK[task].argmax(-1)[places].tolist(),
            }
            for task in range(count)
        ],
    }


def _images(images_NHWC: torch.Tensor) -> dict[str, Any]:
    values = (images_NHWC * 255).round().to(torch.uint8).numpy()
    return {"shape": list(values.shape), "bytes": base64.b64encode(values.tobytes()).decode("ascii")}


def _curves(
    learner: Learner, learned: Learned, tasks: Curves, episodes: Episodes, config: FewShotConfig
) -> dict[str, Any]:
    count, seed = episodes.tasks, config.run.seed
    adapting = [seeded(seed, ADAPTING_SHOWN, number) for number in range(count)]
    grid_TN1 = tasks.grid(_GRID).expand(count, -1, -1)
    fits, errors = [], []
    with torch.no_grad():
        every = learner.adapt(learned, episodes.support, config.evaluate.shown_steps, adapting)
        for adapted in every:
            fits.append(learner.predict(learned, adapted, grid_TN1)[..., 0])
            outputs = learner.predict(learned, adapted, episodes.query.inputs)
            errors.append(learner.scores(outputs, episodes.query.targets))
    # The curve is the first thing that a task's generator is asked for.
    curves = [tasks.draw(1, seeded(seed, SHOWN, number)) for number in range(count)]
    true_TN = torch.cat([curve(grid_TN1[:1]) for curve in curves])[..., 0]

    def rounded(tensor: torch.Tensor) -> Any:
        return np.round(tensor.numpy().astype(float), 4).tolist()

    return {
        "kind": "curves",
        "protocol": protocol(config),
        "grid": rounded(grid_TN1[0, :, 0]),
        "tasks": [
            {
                "true": rounded(true_TN[task]),
                "support": rounded(torch.cat([part[task] for part in episodes.support], 1)),
                "fits": rounded(torch.stack([fit[task] for fit in fits])),
                "errors": rounded(torch.stack([error[task] for error in errors])),
            }
            for task in range(count)
        ],
    }
