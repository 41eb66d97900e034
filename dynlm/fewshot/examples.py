"""A few tasks with all that a learner does on them, for figures.

They are written to ``examples/``. Legend: T tasks, Q query examples, O outputs, N points of a curve, H x W pixels, C
channels.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.control.environments import Environments
from dynlm.fewshot.control.randomness import Randomness
from dynlm.fewshot.control.rollout import Trajectories, rollout
from dynlm.fewshot.learners.learner import Generators, Learned, Learner, SupervisedLearner
from dynlm.fewshot.learners.policy import PolicyLearner
from dynlm.fewshot.options import FewShotOptions
from dynlm.fewshot.protocol import protocol
from dynlm.fewshot.tasks.bandit import BanditEnvironments
from dynlm.fewshot.tasks.regression import Curves
from dynlm.fewshot.tasks.source import Episodes, TaskSource, seeded, task_generator, task_sampler

# Purposes of generators: of tasks, and of adapting to them.
EXAMPLES, EXAMPLE_ADAPTATION = 12, 13
_GRID_POINTS = 121
_QUERIES_SHOWN = 6
_COPIES = 200
"""Copies of a bandit in which it is counted how often each arm is pulled."""


def examples(learner: Learner, learned: Learned, source: TaskSource, options: FewShotOptions) -> dict[str, Any]:
    """Return ``evaluate.shown_tasks`` unseen tasks: curves with the fit after each step, images with the answers, or
    environments with what the policy did."""
    indices = range(options.evaluate.shown_tasks)
    tasks = task_sampler(source, options.run.seed, options.evaluate.split, EXAMPLES)(indices)
    generators = [seeded(options.run.seed, EXAMPLE_ADAPTATION, index) for index in indices]
    if isinstance(learner, PolicyLearner):
        shown = _acted(learner, learned, tasks, options, generators)
    elif isinstance(source, Curves) and isinstance(learner, SupervisedLearner):
        shown = _curves(learner, learned, source, tasks, options, generators)
    else:
        assert isinstance(learner, SupervisedLearner)
        shown = _images(learner, learned, tasks, options, generators)
    return {"protocol": protocol(learner, options), **shown}


def _curves(
    learner: SupervisedLearner,
    learned: Learned,
    source: Curves,
    episodes: Episodes,
    options: FewShotOptions,
    generators: Generators,
) -> dict[str, Any]:
    grid_TN1 = source.grid(_GRID_POINTS).expand(episodes.tasks, -1, -1)
    fits, errors = [], []
    with torch.no_grad():
        for adapted in learner.adapt(learned, episodes.support, options.evaluate.shown_steps, generators):
            fits.append(learner.predict(learned, adapted, grid_TN1)[..., 0])
            outputs = learner.predict(learned, adapted, episodes.query.inputs)
            errors.append(source.problem.scores(outputs, episodes.query.targets))
    seed, split = options.run.seed, options.evaluate.split
    # A task's generator draws the curve first.
    curves = [source.draw(1, task_generator(seed, split, EXAMPLES, index)) for index in range(episodes.tasks)]
    tasks = [
        {
            "true": _rounded(curve(grid_TN1[:1])[0, :, 0]),
            "support": _rounded(torch.cat([part[task] for part in episodes.support], 1)),
            "fits": _rounded(torch.stack([fit[task] for fit in fits])),
            "errors": _rounded(torch.stack([error[task] for error in errors])),
        }
        for task, curve in enumerate(curves)
    ]
    return {"kind": "curves", "grid": _rounded(grid_TN1[0, :, 0]), "tasks": tasks}


def _images(
    learner: SupervisedLearner, learned: Learned, episodes: Episodes, options: FewShotOptions, generators: Generators
) -> dict[str, Any]:
    *_, adapted = learner.adapt(learned, episodes.support, options.evaluation_steps, generators)
    with torch.no_grad():
        outputs_TQO = learner.predict(learned, adapted, episodes.query.inputs)
    (images, labels), (queries, query_labels) = episodes
    ways = learner.problem.num_outputs
    each = query_labels.shape[1] // ways
    first = [way * each + index for way in range(ways) for index in range(min(_QUERIES_SHOWN, each))]  # Of each class.
    tasks = [
        {
            "support": _packed(images[task]),
            "support_classes": labels[task].tolist(),
            "query": _packed(queries[task][first]),
            "query_classes": query_labels[task][first].tolist(),
            "answers": outputs_TQO[task].argmax(-1)[first].tolist(),
        }
        for task in range(episodes.tasks)
    ]
    return {"kind": "images", "tasks": tasks}


def _acted(
    learner: PolicyLearner, learned: Learned, tasks: Environments, options: FewShotOptions, generators: Generators
) -> dict[str, Any]:
    """Return the trajectories of single copies: all episodes of a task, or one after each inner step."""
    randomness = Randomness(generators, tasks.tasks)
    shown: list[tuple[int, Trajectories]] = []
    for adapted in learner.adapt(learned, tasks, options.evaluation_steps, generators):
        if learner.takes_steps:
            acted = rollout(tasks, learner.policy(learned, adapted), randomness)
        else:
            acted = learner.lifetime(learned, adapted, randomness)
        shown.append((adapted.step, acted.trajectories))
    about: list[dict[str, Any]] = [
        {
            "parameters": {name: _rounded(tensor[task]) for name, tensor in tasks.parameters.items()},
            "acted": [
                {
                    "step": step,
                    "observations": _rounded(acted.observations_NTED[:, task, 0]),
                    "actions": _rounded(acted.actions_NTE[:, task, 0]),
                    "rewards": _rounded(acted.rewards_NTE[:, task, 0]),
                    "valid": acted.valid_NTE[:, task, 0].tolist(),
                }
                for step, acted in shown
            ],
        }
        for task in range(tasks.tasks)
    ]
    if not learner.takes_steps and isinstance(tasks, BanditEnvironments):
        (adapted,) = learner.adapt(learned, tasks, 0, generators)
        actions_NTE = learner.lifetime(learned, adapted, randomness, _COPIES).trajectories.actions_NTE
        shares_NTA = F.one_hot(actions_NTE, learner.problem.num_actions).double().mean(2)
        for task, one in enumerate(about):  # How many of the copies pull each arm (N, A).
            one |= {"copies": _COPIES, "shares": _rounded(shares_NTA[:, task])}
    return {"kind": "trajectories", "horizon": learner.problem.horizon, "tasks": about}


def _rounded(tensor: Tensor) -> Any:
    return np.round(tensor.numpy().astype(float), 4).tolist()


def _packed(images_NHWC: Tensor) -> dict[str, Any]:
    values = (images_NHWC * 255).round().to(torch.uint8).numpy()
    return {"shape": list(values.shape), "bytes": base64.b64encode(values.tobytes()).decode("ascii")}
