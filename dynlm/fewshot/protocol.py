"""What a score has to be reported with."""

from __future__ import annotations

from typing import Any

from dynlm.fewshot.learners.learner import Learner
from dynlm.fewshot.options import FewShotOptions


def protocol(learner: Learner, options: FewShotOptions) -> dict[str, Any]:
    """Return the learner, the tasks and the numbers that the scores of an evaluation depend on."""
    about: dict[str, Any] = {
        "label": learner.label,
        "run": options.run.name,
        "learner": options.learner.kind,
        "metric": learner.problem.metric,
        "task": options.task.source,
        "split": options.evaluate.split,
        "episodes": options.evaluate.episodes,
        "steps": options.evaluation_steps,
        "seed": options.run.seed,
    }
    about |= learner.protocol() | options.task.protocol()
    if about.get("statistics") == "transductive":
        about["label"] += " + transduction"
    return about
