"""The main job from nothing to pictures, as one call: what `make demo` runs."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

from dynlm.evaluation.compare import Comparison, compare
from dynlm.evaluation.score import ScoreRequest, score
from dynlm.report.curves import plot_run
from dynlm.report.heatmap import heatmap_run
from dynlm.report.page import report_run
from dynlm.run.folder import run_path
from dynlm.runtime.perplexity import format_perplexity
from dynlm.train.config import Config
from dynlm.train.metatrain import metatrain
from dynlm.train.pretrain import pretrain
from dynlm.train.tune import tune

VARIANTS = ("none", "rms", "meta")
REPORTED_ON = "test"


def demo(config: Config, quiet: bool = False, progress: bool = False) -> tuple[Comparison, list[Path]]:
    """Train level 1, tune rms, learn meta, read the test articles by each, compare and draw.

    A run that is trained already is not trained again. Returns the comparison and the files written.
    """
    folder = run_path(config.run)
    begun = time.monotonic()

    def say(what: str) -> None:
        if not quiet:
            print(f"[{time.monotonic() - begun:4.0f} s] {what}", flush=True)

    if not (folder / "model.json").exists():
        say("training the tokenizer and the LSTM (level 1)")
        done = pretrain(config, quiet=not progress)
        say(f"level 1 on valid: perplexity {format_perplexity(done['valid_perplexity_per_word'], 0)} per word")
    rms = dataclasses.replace(config, memory=dataclasses.replace(config.memory, rule="rms"))
    if not (folder / "memory" / "tuned.json").exists():
        say("tuning dynamic evaluation (rms) on valid articles")
        tune(folder, rms, quiet=not progress)
    if not (folder / "memory" / f"meta-{config.memory.reset}.json").exists():
        say("meta-training the memory on training articles kept aside")
        metatrain(folder, config, quiet=not progress)
    paths, scores = [], []
    for rule in VARIANTS:
        say(f"reading the {REPORTED_ON} articles: {'level 1' if rule == 'none' else rule}")
        variant = dataclasses.replace(config, memory=dataclasses.replace(config.memory, rule=rule))
        path, read = score(folder, variant, ScoreRequest(REPORTED_ON), quiet=not progress)
        paths.append(path)
        scores.append(read)
    say("drawing")
    written = plot_run(paths, folder / "figures", None, None)
    written += heatmap_run([paths[0], paths[-1]], folder / "figures")
    written.append(report_run(paths, folder / "figures" / "report.html"))
    return compare(scores), written
