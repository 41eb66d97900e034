"""Evaluation on many episodes of classes that were not trained on, each adapted to and scored independently.

All learners get the same test episodes for a seed. Scores are written to ``scores/``, a few tasks with all predictions
to ``examples/``. Legend: T tasks, Q query examples, O outputs, N points of a curve, H x W pixels, C channels.
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
from torch import Tensor
from tqdm import tqdm

from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.options import FewShotOptions
from dynlm.fewshot.results import EpisodeScores, write_scores
from dynlm.fewshot.run_folder import load_learned
from dynlm.fewshot.tasks.image_tasks import check_image_format
from dynlm.fewshot.tasks.regression import Curves
from dynlm.fewshot.tasks.source import Episodes, TaskSource, seeded
from dynlm.runtime.allocator import keep_freed_memory
from dynlm.runtime.parsing import write_json

# Purposes of generators: of tasks and of adapting to them, for the scores and for the examples.
EPISODES, ADAPTATION, EXAMPLES, EXAMPLE_ADAPTATION = 10, 11, 12, 13
_GRID_POINTS = 121
_QUERIES_SHOWN = 6


def evaluate(folder: Path, options: FewShotOptions, quiet: bool = False) -> tuple[Path, EpisodeScores]:
    """Evaluate a trained run; return the file that was written and its scores.

    Raises UserError where the run is not trained, and where the split is too small for such episodes.
    """
    keep_freed_memory()
    source, learner = options.create()
    learned, card = load_learned(folder, learner)
    if warning := check_image_format(card.get("images") or {}, source.image_format()):
        print(f"dynlm: warning: {warning}", file=sys.stderr)
    scores = score_episodes(learner, learned, source, options, quiet)
    data = source.data_card(options.evaluate.split)
    name = _file_name(scores.protocol, data)
    scores.protocol.update(data, learner_fingerprint=card["fingerprint"])
    scores.protocol["training"] = {name: card[name] for name in ("steps", "seconds", "cpu_seconds") if name in card}
    write_scores(folder / "scores" / name, scores)  # Before the examples, which may fail without losing it.
    if options.evaluate.shown_tasks:
        write_json(folder / "examples" / name, examples(learner, learned, source, options))
    return folder / "scores" / name, scores


def score_episodes(
    learner: Learner, learned: Learned, source: TaskSource, options: FewShotOptions, quiet: bool = True
) -> EpisodeScores:
    """Return the scores of ``evaluate.episodes`` episodes: of curves after each step, of images after the last."""
    config, rows, steps = options.evaluate, list[Tensor](), list[int]()
    for first in tqdm(range(0, config.episodes, config.at_once), desc="evaluate", disable=quiet):
        indices = range(first, min(first + config.at_once, config.episodes))
        episodes = _sample(source, options, EPISODES, indices)
        generators = [seeded(options.run.seed, ADAPTATION, index) for index in indices]
        states = learner.adapt(learned, episodes.support, options.evaluation_steps, generators)
        if not options.task.is_regression:
            *_, last = states
            states = iter([last])
        columns, steps = [], []
        with torch.no_grad():
            for adapted in states:
                outputs = learner.predict(learned, adapted, episodes.query.inputs)
                columns.append(source.problem.scores(outputs, episodes.query.targets))
                steps.append(adapted.step)
        rows.append(torch.stack(columns, 1))
    return EpisodeScores(protocol(learner, options), steps, torch.cat(rows).numpy())


def _sample(source: TaskSource, options: FewShotOptions, purpose: int, indices: Sequence[int]) -> Episodes:
    """Return episodes by index. Each has its own generator, so that it does not depend on the others."""
    shape, split = options.task.episode_shape(False), options.evaluate.split
    return Episodes.concatenate(
        [source.sample(split, shape, 1, seeded(options.run.seed, purpose, index)) for index in indices]
    )


def protocol(learner: Learner, options: FewShotOptions) -> dict[str, Any]:
    """Return what a score has to be reported with."""
    is_transductive = learner.problem.classifies and learner.query_statistics == "transductive"
    about: dict[str, Any] = {
        "label": f"{learner.label} + transduction" if is_transductive else learner.label,
        "run": options.run.name,
        "learner": options.learner.kind,
        "metric": learner.problem.metric,
        "task": options.task.source,
        "split": options.evaluate.split,
        "episodes": options.evaluate.episodes,
        "shots": options.task.shots,
        "queries": options.task.queries,
        "steps": options.evaluation_steps,
        "seed": options.run.seed,
    }
    if learner.problem.classifies:
        about["statistics"] = learner.query_statistics
    if learner.takes_steps:
        about["inner_rate"] = vars(options.learner).get("inner_rate")
    return about | options.task.protocol()


def _file_name(protocol: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """Return a name with the main parts of a protocol and a digest of all of it and of the data."""
    about = {**protocol, **data}
    shape = f"{about['ways']}-way-{about['shots']}-shot" if "ways" in about else f"{about['shots']}-points"
    digest = hashlib.sha256(repr(sorted(about.items(), key=lambda item: item[0])).encode()).hexdigest()[:6]
    return f"{about['task']}-{about['split']}-{shape}-{about.get('statistics', 'plain')}-{digest}.json"


def examples(learner: Learner, learned: Learned, source: TaskSource, options: FewShotOptions) -> dict[str, Any]:
    """Return ``evaluate.shown_tasks`` unseen tasks with all predictions, on curves after each step."""
    indices = range(options.evaluate.shown_tasks)
    episodes = _sample(source, options, EXAMPLES, indices)
    generators = [seeded(options.run.seed, EXAMPLE_ADAPTATION, index) for index in indices]
    is_curve = isinstance(source, Curves)
    steps = options.evaluate.shown_steps if is_curve else options.evaluation_steps
    states = learner.adapt(learned, episodes.support, steps, generators)
    about = {"kind": "curves" if is_curve else "images", "protocol": protocol(learner, options)}
    if not isinstance(source, Curves):
        *_, adapted = states
        with torch.no_grad():
            outputs_TQO = learner.predict(learned, adapted, episodes.query.inputs)
        shape = options.task.episode_shape(False)
        shown = range(min(_QUERIES_SHOWN, shape.queries))
        first = [way * shape.queries + index for way in range(shape.ways) for index in shown]  # Of each class.
        (images, labels), (queries, query_labels) = episodes
        shown_tasks = [
            {
                "support": _packed(images[task]),
                "support_classes": labels[task].tolist(),
                "query": _packed(queries[task][first]),
                "query_classes": query_labels[task][first].tolist(),
                "answers": outputs_TQO[task].argmax(-1)[first].tolist(),
            }
            for task in indices
        ]
        return about | {"tasks": shown_tasks}
    grid_TN1 = source.grid(_GRID_POINTS).expand(len(indices), -1, -1)
    fits, errors = [], []
    with torch.no_grad():
        for adapted in states:
            fits.append(learner.predict(learned, adapted, grid_TN1)[..., 0])
            outputs = learner.predict(learned, adapted, episodes.query.inputs)
            errors.append(source.problem.scores(outputs, episodes.query.targets))
    # A task's generator draws the curve first.
    curves = [source.draw(1, seeded(options.run.seed, EXAMPLES, index)) for index in indices]

    def rounded(tensor: Tensor) -> Any:
        return np.round(tensor.numpy().astype(float), 4).tolist()

    tasks = [
        {
            "true": rounded(curve(grid_TN1[:1])[0, :, 0]),
            "support": rounded(torch.cat([part[task] for part in episodes.support], 1)),
            "fits": rounded(torch.stack([fit[task] for fit in fits])),
            "errors": rounded(torch.stack([error[task] for error in errors])),
        }
        for task, curve in enumerate(curves)
    ]
    return about | {"grid": rounded(grid_TN1[0, :, 0]), "tasks": tasks}


def _packed(images_NHWC: Tensor) -> dict[str, Any]:
    values = (images_NHWC * 255).round().to(torch.uint8).numpy()
    return {"shape": list(values.shape), "bytes": base64.b64encode(values.tobytes()).decode("ascii")}
