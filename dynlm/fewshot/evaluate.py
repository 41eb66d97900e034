"""Evaluation on many new tasks, each adapted to and scored independently.

All learners get the same test tasks for a seed. Scores are written to ``scores/``, a few tasks with all that the
learner did to ``examples/``. Legend: E tasks (episodes of labelled examples, or environments).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.fewshot.control.environments import Environments
from dynlm.fewshot.examples import examples
from dynlm.fewshot.learners.learner import Learned, Learner
from dynlm.fewshot.options import FewShotOptions
from dynlm.fewshot.protocol import protocol
from dynlm.fewshot.results import EpisodeScores, write_scores
from dynlm.fewshot.run_folder import load_learned
from dynlm.fewshot.tasks.image_tasks import check_image_format
from dynlm.fewshot.tasks.source import TaskSource, seeded, task_sampler
from dynlm.run.locate import writable_copy
from dynlm.runtime.allocator import keep_freed_memory
from dynlm.runtime.parsing import write_json

ADAPTATION = 11
"""Purpose of the generators of adapting to tasks, for the scores."""


def evaluate(folder: Path, options: FewShotOptions, quiet: bool = False) -> tuple[Path, EpisodeScores]:
    """Evaluate a trained run; return the file that was written and its scores.

    Scores with a packed learner, which is read-only, go to its copy in the folder of runs.

    Raises UserError where the run is not trained, and where the split is too small for such episodes.
    """
    keep_freed_memory()
    source, learner = options.create()
    learned, card = load_learned(folder, learner)
    folder = writable_copy(folder, options.run.path)
    if warning := check_image_format(card.get("images") or {}, source.image_format()):
        print(f"dynlm: warning: {warning}", file=sys.stderr)
    scores = score_episodes(learner, learned, source, options, quiet)
    data = source.data_card(options.evaluate.split) | ({"tuned": card["tuned"]} if "tuned" in card else {})
    name = _file_name(scores.protocol, data, options.task.size_label())
    scores.protocol.update(data, learner_fingerprint=card["fingerprint"])
    trained = ("steps", "environment_steps", "seconds", "cpu_seconds")
    scores.protocol["training"] = {name: card[name] for name in trained if name in card}
    write_scores(folder / "scores" / name, scores)  # Before the examples, which may fail without losing it.
    if options.evaluate.shown_tasks:
        write_json(folder / "examples" / name, examples(learner, learned, source, options))
    return folder / "scores" / name, scores


def score_episodes(
    learner: Learner, learned: Learned, source: TaskSource, options: FewShotOptions, quiet: bool = True
) -> EpisodeScores:
    """Return the scores of ``evaluate.episodes`` tasks: see ``scores`` of the learner."""
    config, rows, steps, optimal = options.evaluate, list[Tensor](), list[int](), list[Tensor]()
    sample = task_sampler(source, options.run.seed, config.split)
    for first in tqdm(range(0, config.episodes, config.at_once), desc="evaluate", disable=quiet):
        indices = range(first, min(first + config.at_once, config.episodes))
        tasks = sample(indices)
        generators = [seeded(options.run.seed, ADAPTATION, index) for index in indices]
        steps, values_TJ = learner.scores(learned, tasks, options.evaluation_steps, generators)
        rows.append(values_TJ)
        if isinstance(tasks, Environments) and (best_T := tasks.optimal_returns()) is not None:
            optimal.append(best_T)
    optimal_E = torch.cat(optimal).numpy() if optimal else None
    return EpisodeScores(protocol(learner, options), steps, torch.cat(rows).numpy(), optimal_E)


def _file_name(protocol: Mapping[str, Any], data: Mapping[str, Any], size: str) -> str:
    """Return a name with the main parts of a protocol and a digest of all of it and of the data."""
    about = {**protocol, **data}
    digest = hashlib.sha256(repr(sorted(about.items(), key=lambda item: item[0])).encode()).hexdigest()[:6]
    return f"{about['task']}-{about['split']}-{size}-{about.get('statistics', 'plain')}-{digest}.json"
