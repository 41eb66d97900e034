"""Commands of few-shot learning: ``dynlm fewshot COMMAND``. Only those that take options or compute import torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynlm.cli.command import FORMAT, Argument, Option, command, is_quiet, print_answer, print_tables
from dynlm.errors import UserError
from dynlm.run.locate import writable_copy
from dynlm.runtime.text import printable
from dynlm.runtime.validation import LARGEST_SEED

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.fewshot.options import FewShotOptions, TaskOptions
    from dynlm.fewshot.results import EpisodeScores
    from dynlm.report.fewshot_results import Table

_OPTIONS = "dynlm.fewshot.options:FewShotOptions"
_LOAD = "dynlm.fewshot.run_folder:load_run_options"
_RUNS = "runs/fewshot"
_INVERTED = "values inverted: the images' background is bright, and ink has to be"


@command("fewshot tasks", options="dynlm.fewshot.options:TaskOptions", sections="task")
def _tasks(arguments: Namespace, options: TaskOptions) -> int:
    """Show what a task source holds: alphabets, classes and images of each split, or the size of an environment.

    dynlm fewshot tasks
    dynlm fewshot tasks --task.source omniglot --task.path omniglot/ --json
    """
    from dynlm.fewshot.tasks.source import LabelledSource

    task, source = options.task, options.create_source()
    splits, images, rows = source.describe(), source.image_format(), [task.summary()]
    for split, counts in splits.items():
        rows.append(f"{split:8}" + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    if images.get("turned_round"):
        rows.append(_INVERTED)
    episode = task.protocol()
    if isinstance(task, LabelledSource.Options):
        episode = task.episode_shape(training=False)._asdict()
    content = {"source": task.source, "episode": episode, "splits": splits, "images": images}
    print_answer(arguments, content, "\n".join(rows))
    return 0


@command("fewshot train", options=_OPTIONS, resumes=True)
def _train(arguments: Namespace, options: FewShotOptions) -> int:
    """Meta-train a learner: MAML and its variants, Reptile, prototypes, LSTMs.

    dynlm fewshot train --config fewshot/cubic-maml
    dynlm fewshot train --run.name mine --learner.kind reptile --task.source sinusoid
    """
    from dynlm.fewshot.train import train

    card, folder = train(options, is_quiet(arguments)), str(options.run.path)
    text = f"{options.learner.kind}: nothing to train"
    if card["steps"]:
        metric = options.create()[0].problem.metric
        text = f"{options.learner.kind}: {card['steps']:,} meta-steps in {card['seconds']:.0f} s, "
        text += f"{metric} of the last training episodes {card['train_score']:.4f}"
    print_answer(arguments, {"folder": folder, **card}, f"{text}\nwrote {printable(folder)}")
    return 0


@command(
    "fewshot evaluate",
    takes_run=True,
    runs=_RUNS,
    options=_OPTIONS,
    load_run=_LOAD,
    sections="run task learner evaluate",
)
def _evaluate(arguments: Namespace, options: FewShotOptions) -> int:
    """Evaluate a trained learner on new tasks, by the published protocol.

    dynlm fewshot evaluate runs/fewshot/cubic-maml
    dynlm fewshot evaluate runs/fewshot/omniglot-maml-5-way --learner.statistics inductive
    """
    from dynlm.fewshot.evaluate import evaluate

    path, scores = evaluate(Path(arguments.folder), options, is_quiet(arguments))
    by_step = {step: scores.at(step) for step in scores.steps}
    if scores.is_return:
        text = _return_text(scores)
    elif scores.is_accuracy:
        mean, half = scores.at()
        text = f"accuracy {100 * mean:.2f} ± {100 * half:.2f} %"
    else:
        text = f"mean squared error {_after_steps(by_step, (0, 1, 5, 10))}"
    if scores.protocol.get("turned_round"):
        text += f"; {_INVERTED}"
    content: dict[str, Any] = {
        "file": str(path),
        "protocol": scores.protocol,
        "steps": [{"step": step, "mean": mean, "half_width_95": half} for step, (mean, half) in by_step.items()],
    }
    if scores.is_return:
        mean, half = scores.total()
        content["return"] = {"mean": mean, "half_width_95": half, "optimal": scores.optimal_total()}
        if (regret := scores.regret()) is not None:
            content["regret"] = [{"mean": mean, "half_width_95": half} for mean, half in regret.T]
    scored = "tasks" if scores.is_return else "episodes"
    text = f"{scores.label}, {scores.protocol['episodes']:,} {scored}: {text}\nwrote {printable(str(path))}"
    print_answer(arguments, content, text)
    return 0


@command(
    "fewshot show",
    Argument("RUN", "evaluated few-shot runs: their folders, or names", many=True, runs=_RUNS),
    Option("--out", "folder to write to; unset: the first run's figures/", str),
    Option("--title", "title of the results in a report", str),
    FORMAT,
    takes_config=False,
)
def _show(arguments: Namespace, options: None) -> int:
    """Draw evaluated runs and tabulate them beside published figures.

    dynlm fewshot show runs/fewshot/cubic-*
    dynlm fewshot show runs/fewshot/omniglot-* --out omniglot --format csv
    """
    from dynlm.fewshot.report.summary import as_export, summarise

    paths = [Path(run) for run in arguments.runs]
    if missing := [path for path in paths if not path.exists()]:
        raise UserError("no such run", missing[0], "name folders that `dynlm fewshot train` made")
    # `show runs/*` also names the folder of an earlier call's figures.
    runs = [path for path in paths if path.is_file() or (path / "config.yaml").exists() or (path / "scores").is_dir()]
    if not runs:
        raise UserError("no few-shot run", paths[0], "name folders that `dynlm fewshot train` made")
    for path in (path for path in paths if path not in runs):
        print(f"dynlm: skipped, no few-shot run: {printable(str(path))}", file=sys.stderr)
    home = writable_copy(runs[0], Path(_RUNS) / runs[0].name) if arguments.out is None else runs[0]
    tables, files = summarise(runs, Path(arguments.out or home / "figures"), arguments.title)
    print_tables(arguments, [*map(as_export, tables)], _summary(tables, files), _text(tables, files))
    return 0


@command(
    "fewshot pack",
    Argument("RUN", "a trained few-shot run: its folder, or its name", runs=_RUNS),
    Argument("TARGET", "the learner's folder to write, such as data/models/fewshot-NAME"),
    Option("--replace", "replace a packed learner that is there"),
    takes_config=False,
)
def _pack(arguments: Namespace, options: None) -> int:
    """Pack a trained learner as a small read-only folder: tensors, options, scores, checksums.

    dynlm fewshot pack runs/fewshot/cubic-maml data/models/fewshot-cubic-maml
    dynlm fewshot pack runs/fewshot/cubic-maml maml --replace
    """
    from dynlm.fewshot.packing import pack_learner

    done = pack_learner(Path(arguments.run), Path(arguments.target), arguments.replace)
    text = f"wrote {arguments.target}: {done['files']} files, {done['bytes'] / 1e6:.2f} MB"
    print_answer(arguments, done, text)
    return 0


@command(
    "fewshot demo",
    Option("--folder", "folder of its runs and figures", str, "runs/fewshot-demo"),
    Option("--seed", "seed of every random number", int, 0, high=LARGEST_SEED),
    Option("--share", "fraction of the meta-steps, for a quicker look", float, 1.0, high=1000),
    takes_config=False,
    resumes=True,
)
def _demo(arguments: Namespace, options: None) -> int:
    """Few-shot learning in two minutes: curves from three starts, characters from one example.

    dynlm fewshot demo
    dynlm fewshot demo --share 0.1 --folder quick
    """
    from dynlm.fewshot.demo import demo

    quiet, folder = arguments.json, Path(arguments.folder)
    progress = not quiet and sys.stderr.isatty()
    tables, files = demo(folder, arguments.seed, arguments.share, quiet, progress)
    print_answer(arguments, _summary(tables, files), "\n" + _text(tables, files))
    return 0


def _after_steps(by_step: dict[int, tuple[float, float]], wanted: tuple[int, ...]) -> str:
    shown = [step for step in wanted if step in by_step] or by_step
    return ", ".join("{:.4g} ± {:.2g} after {}".format(*by_step[step], step) for step in shown)


def _return_text(scores: EpisodeScores) -> str:
    """Return the sum over a task's episodes, or the mean return of an episode after each inner step."""
    if not scores.adapts_while_acting:
        return f"return {_after_steps({step: scores.at(step) for step in scores.steps}, (0, 1, 2, 3))}"
    text = "return {:.4g} ± {:.2g}".format(*scores.total())
    text += f" in {len(scores.steps):,} {scores.protocol['unit']}s"
    if (regret := scores.regret()) is not None:
        text += ", regret {:.4g} ± {:.2g}".format(*regret[:, -1])
    return text


def _summary(tables: list[Table], files: list[Path]) -> dict[str, Any]:
    return {"tables": [vars(table) for table in tables], "files": [str(path) for path in files]}


def _text(tables: list[Table], files: list[Path]) -> str:
    from dynlm.fewshot.report.summary import as_text

    written = [f"wrote {printable(str(path))}" for path in files]
    return "\n".join(["\n\n".join(as_text(table) for table in tables), "", *written])
