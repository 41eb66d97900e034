"""The main job from nothing to pictures in one call: what ``dynlm demo`` runs."""

from __future__ import annotations

from pathlib import Path

from dynlm.evaluation.compare import Comparison, compare
from dynlm.evaluation.score import ScoreRequest, score
from dynlm.report.curves import plot_run
from dynlm.report.heatmap import heatmap_run
from dynlm.report.page import report_run
from dynlm.run.run import Run
from dynlm.runtime.perplexity import format_perplexity
from dynlm.study.run import Progress
from dynlm.train.config import Config
from dynlm.train.metatrain import metatrain
from dynlm.train.pretrain import pretrain
from dynlm.train.tune import tune

RULES = ("none", "rms", "meta")
SPLIT = "test"


def demo(config: Config, quiet: bool = False, progress: bool = False) -> tuple[Comparison, list[Path]]:
    """Train level 1, tune rms, learn meta, read the test articles with each, compare and draw.

    What is trained, tuned or learned already is not done again. Returns the comparison and the files written.
    """
    folder, say = config.run.path, Progress(quiet)
    if not (folder / "model.json").exists():
        say("training the tokenizer and the model (level 1)")
        done = pretrain(config, quiet=not progress)
        say(f"level 1 on valid: perplexity {format_perplexity(done['valid_perplexity_per_word'], 0)} per word")
    run = Run.open(folder, *vars(config).values())
    if not (folder / "memory" / "tuned.json").exists():
        say("tuning dynamic evaluation (rms) on valid articles")
        tune(run.with_sections(config.memory.replace(rule="rms")), quiet=not progress)
    if not (folder / "memory" / f"meta-{config.memory.reset}.json").exists():
        say("meta-training the memory on training articles kept aside")
        metatrain(run, quiet=not progress)
    paths, scores = [], []
    for rule in RULES:
        say(f"reading the {SPLIT} articles: {'level 1' if rule == 'none' else rule}")
        by_rule = run.with_sections(config.memory.replace(rule=rule))
        path, read = score(by_rule, ScoreRequest(SPLIT), quiet=not progress)
        paths.append(path)
        scores.append(read)
    say("drawing")
    written = plot_run(paths, folder / "figures")
    written += heatmap_run(paths[0], paths[-1], folder / "figures")
    written.append(report_run(paths, folder / "figures" / "report.html"))
    return compare(scores), written
