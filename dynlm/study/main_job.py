"""The main job from nothing to pictures in one call: what ``dynlm demo`` and ``dynlm learn`` run."""

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
PAGE = Path("figures") / "report.html"
"""The report's place in the run's folder."""


def main_job(config: Config, quiet: bool = False, progress: bool = False) -> tuple[Comparison, list[Path]]:
    """Train level 1, tune rms, learn meta, read the test articles with each, compare and draw.

    What is trained, tuned, learned, scored or drawn already is not done again, and what was interrupted goes on.
    Returns the comparison and the files drawn.
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
    return compare(scores), _drawn(paths, folder / PAGE) or _draw(paths, folder / PAGE, say)


def _drawn(scores: list[Path], page: Path) -> list[Path]:
    """Return the pictures that were drawn since the last of ``scores`` was written; the page is the last one drawn."""
    if not page.exists() or page.stat().st_mtime_ns < max(path.stat().st_mtime_ns for path in scores):
        return []
    return sorted(path for path in page.parent.iterdir() if path.is_file())


def _draw(scores: list[Path], page: Path, say: Progress) -> list[Path]:
    say("drawing")
    page.unlink(missing_ok=True)
    written = plot_run(scores, page.parent)
    written += heatmap_run(scores[0], scores[-1], page.parent)
    return [*written, report_run(scores, page)]
