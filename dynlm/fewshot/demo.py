"""Few-shot learning from nothing to pictures, as one call: what `make fewshot-demo` runs, two minutes on two cores."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from dynlm.fewshot.evaluate import evaluate
from dynlm.fewshot.options import (
    EvaluateConfig,
    FewShotConfig,
    FewShotRunConfig,
    LearnerConfig,
    TaskConfig,
    TrainConfig,
)
from dynlm.fewshot.report.summary import summarise
from dynlm.fewshot.run_folder import run_path
from dynlm.fewshot.train import train
from dynlm.report.fewshot_results import Table

_CUBIC = TaskConfig(source="cubic")
_GLYPHS = TaskConfig(source="glyphs", queries=5)


def demo_configs(folder: Path, seed: int = 0, share: float = 1.0) -> list[FewShotConfig]:
    """Cubics from three starts, and 5-way 1-shot on glyphs by gradients, by prototypes and by pixels."""

    def run(name: str, task: TaskConfig, learner: LearnerConfig, steps: int, **training: object) -> FewShotConfig:
        options = TrainConfig(steps=max(1, round(share * steps)) if steps else 0, **training)  # type: ignore[arg-type]
        about = FewShotRunConfig(name, str(folder), seed)
        return FewShotConfig(about, task, learner, options, EvaluateConfig(episodes=1000 if share >= 1 else 50))

    maml = LearnerConfig("maml", multi_step_loss=True, annealed_share=0.0)
    reptile = LearnerConfig("reptile", inner_steps=10)
    prototypes = LearnerConfig("prototypes", statistics="running", pooling=True, readout="flatten", filters=32)
    strided = LearnerConfig("maml", inner_rate=0.4, inner_steps=1, filters=32)
    few, many = replace(_GLYPHS, train_queries=3), replace(_GLYPHS, train_ways=20)
    return [
        run("cubic-random", _CUBIC, LearnerConfig("random"), 0),
        run("cubic-maml", _CUBIC, maml, 1500, tasks=25, rate=4e-3, final_rate=0.02),
        run("cubic-reptile", _CUBIC, reptile, 1000, tasks=25, optimizer="sgd", rate=1.0, final_rate=0.0),
        run("glyphs-pixels", _GLYPHS, LearnerConfig("pixels"), 0),
        run("glyphs-maml", few, strided, 250, tasks=16, rate=3e-3, final_rate=0.05),
        run("glyphs-prototypes", many, prototypes, 200, tasks=1, rate=3e-3, final_rate=0.05),
    ]


def demo(
    folder: Path, seed: int = 0, share: float = 1.0, quiet: bool = False, progress: bool = False
) -> tuple[list[Table], list[Path]]:
    """Train, judge and draw all of it; what is trained already is not trained again. Returns (tables, files)."""
    begun, runs = time.monotonic(), []
    for config in demo_configs(folder, seed, share):
        if not quiet:
            print(f"[{time.monotonic() - begun:4.0f} s] {config.run.name}", flush=True)
        train(config, quiet=not progress)
        evaluate(run_path(config), config, quiet=not progress)
        runs.append(run_path(config))
    if not quiet:
        print(f"[{time.monotonic() - begun:4.0f} s] drawing", flush=True)
    return summarise(runs, folder / "figures", "Few-shot learning: cubics and glyphs")
