"""Few-shot learning from nothing to figures in one call: `dynlm fewshot demo`, two minutes on two cores."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from dynlm.fewshot.evaluate import evaluate
from dynlm.fewshot.learners.learner import Learner
from dynlm.fewshot.learners.maml import Maml
from dynlm.fewshot.learners.prototypes import NearestNeighbour, Prototypes
from dynlm.fewshot.learners.reptile import RandomStart, Reptile
from dynlm.fewshot.options import EvaluateOptions, FewShotOptions, RunOptions, TrainOptions
from dynlm.fewshot.report.summary import summarise
from dynlm.fewshot.tasks.glyphs import Glyphs
from dynlm.fewshot.tasks.regression import Cubic
from dynlm.fewshot.tasks.source import TaskSource
from dynlm.fewshot.train import train
from dynlm.report.fewshot_results import Table


def demo_options(folder: Path, seed: int = 0, share: float = 1.0) -> list[FewShotOptions]:
    """Return the demo's runs: three learners on cubics, and three on 5-way 1-shot glyphs."""

    def run(
        name: str, task: TaskSource.Options, learner: Learner.Options, steps: int = 0, **training: Any
    ) -> FewShotOptions:
        options = TrainOptions(steps=max(1, round(share * steps)) if steps else 0, **training)
        evaluation = EvaluateOptions(episodes=1000 if share >= 1 else 50)
        return FewShotOptions(RunOptions(name, str(folder), seed), task, learner, options, evaluation)

    cubic, glyphs = Cubic.Options(), Glyphs.Options(queries=5)
    few, many = replace(glyphs, train_queries=3), replace(glyphs, train_ways=20)
    maml = Maml.Options(multi_step_loss=True, annealed_share=0.0)
    one_step = Maml.Options(inner_rate=0.4, inner_steps=1, filters=32)
    prototypes = Prototypes.Options(statistics="running", pooling=True, readout="flatten", filters=32)
    sgd: dict[str, Any] = {"optimizer": "sgd", "rate": 1.0, "final_rate": 0.0}
    return [
        run("cubic-random", cubic, RandomStart.Options()),
        run("cubic-maml", cubic, maml, 1500, tasks=25, rate=4e-3, final_rate=0.02),
        run("cubic-reptile", cubic, Reptile.Options(inner_steps=10), 1000, tasks=25, **sgd),
        run("glyphs-nearest-neighbour", glyphs, NearestNeighbour.Options()),
        run("glyphs-maml", few, one_step, 250, tasks=16, rate=3e-3, final_rate=0.05),
        run("glyphs-prototypes", many, prototypes, 200, tasks=1, rate=3e-3, final_rate=0.05),
    ]


def demo(
    folder: Path, seed: int = 0, share: float = 1.0, quiet: bool = False, progress: bool = False
) -> tuple[list[Table], list[Path]]:
    """Train, evaluate and draw all runs, without those that are trained already; return (tables, files)."""
    began, runs = time.monotonic(), demo_options(folder, seed, share)
    for options in runs:
        if not quiet:
            print(f"[{time.monotonic() - began:4.0f} s] {options.run.name}", flush=True)
        train(options, quiet=not progress)
        evaluate(options.run.path, options, quiet=not progress)
    if not quiet:
        print(f"[{time.monotonic() - began:4.0f} s] drawing", flush=True)
    return summarise([options.run.path for options in runs], folder / "figures", "Few-shot learning: cubics and glyphs")
