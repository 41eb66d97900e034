"""Commands of few-shot learning: ``dynlm fewshot COMMAND``. Only those that take options or compute import torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynlm.cli.command import Command, add_json, is_quiet, print_answer
from dynlm.errors import UserError
from dynlm.runtime.text import printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.fewshot.options import FewShotOptions
    from dynlm.report.fewshot_results import Table

_INVERTED = "values inverted: the images' background is bright, and ink has to be"


def _options() -> type:
    from dynlm.fewshot.options import parsed_options

    return parsed_options()


def _load_run(folder: Path) -> Any:
    from dynlm.fewshot.run_folder import load_run_options

    return load_run_options(folder)


def _tasks(arguments: Namespace, options: FewShotOptions) -> int:
    task, (source, _) = options.task, options.create()
    shape, splits, images = task.episode_shape(training=False), source.describe(), source.image_format()
    if task.is_regression:
        text = f"{task.source}: {shape.shots} support and {shape.queries} query points; every task is a new curve"
    else:
        rows = [f"{task.source}: {shape.ways}-way {shape.shots}-shot, {shape.queries} queries of each class"]
        for split, counts in splits.items():
            rows.append(f"{split:8}" + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
        text = "\n".join([*rows, *([_INVERTED] if images["turned_round"] else [])])
    content = {"source": task.source, "episode": shape._asdict(), "splits": splits, "images": images}
    print_answer(arguments, content, text)
    return 0


def _train(arguments: Namespace, options: FewShotOptions) -> int:
    from dynlm.fewshot.train import train

    card, folder = train(options, is_quiet(arguments)), str(options.run.path)
    text = f"{options.learner.kind}: nothing to train"
    if card["steps"]:
        metric = "mean squared error" if options.task.is_regression else "accuracy"
        text = f"{options.learner.kind}: {card['steps']:,} meta-steps in {card['seconds']:.0f} s, "
        text += f"{metric} of the last training episodes {card['train_score']:.4f}"
    print_answer(arguments, {"folder": folder, **card}, f"{text}\nwrote {printable(folder)}")
    return 0


def _evaluate(arguments: Namespace, options: FewShotOptions) -> int:
    from dynlm.fewshot.evaluate import evaluate

    path, scores = evaluate(Path(arguments.folder), options, is_quiet(arguments))
    by_step = {step: scores.at(step) for step in scores.steps}
    if scores.is_accuracy:
        mean, half = scores.at()
        text = f"accuracy {100 * mean:.2f} ± {100 * half:.2f} %"
    else:
        shown = [step for step in (0, 1, 5, 10) if step in by_step] or scores.steps
        parts = ["{:.4g} ± {:.2g} after {}".format(*by_step[step], step) for step in shown]
        text = f"mean squared error {', '.join(parts)}"
    if scores.protocol.get("turned_round"):
        text += f"; {_INVERTED}"
    content = {
        "file": str(path),
        "protocol": scores.protocol,
        "steps": [{"step": step, "mean": mean, "half_width_95": half} for step, (mean, half) in by_step.items()],
    }
    text = f"{scores.label}, {scores.protocol['episodes']:,} episodes: {text}\nwrote {printable(str(path))}"
    print_answer(arguments, content, text)
    return 0


def _add_show_options(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="evaluated few-shot runs")
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder to write to; unset: the first run's figures/"
    )
    parser.add_argument("--title", type=str | None, default=None, help="title of the results in a report")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    add_json(parser)


def _show(arguments: Namespace, options: FewShotOptions) -> int:
    from dynlm.fewshot.report.summary import as_markdown, summarise

    paths = [Path(run) for run in arguments.runs]
    if missing := [path for path in paths if not path.exists()]:
        raise UserError("no such run", missing[0], "name folders that `dynlm fewshot train` made")
    # `show runs/*` also names the folder of an earlier call's figures.
    runs = [path for path in paths if path.is_file() or (path / "config.yaml").exists() or (path / "scores").is_dir()]
    if not runs:
        raise UserError("no few-shot run", paths[0], "name folders that `dynlm fewshot train` made")
    for path in (path for path in paths if path not in runs):
        print(f"dynlm: skipped, no few-shot run: {printable(str(path))}", file=sys.stderr)
    tables, files = summarise(runs, Path(arguments.out or runs[0] / "figures"), arguments.title)
    if arguments.markdown:
        print_answer(arguments, _summary(tables, files), "\n\n".join(as_markdown(table) for table in tables))
    else:
        _print_summary(arguments, tables, files)
    return 0


def _add_demo_options(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=str, default="runs/fewshot-demo", help="folder of its runs and figures")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number")
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the meta-steps, for a quicker look")
    add_json(parser)


def _demo(arguments: Namespace, options: FewShotOptions) -> int:
    from dynlm.fewshot.demo import demo

    quiet, folder = arguments.json, Path(arguments.folder)
    progress = not quiet and sys.stderr.isatty()
    _print_summary(arguments, *demo(folder, arguments.seed, arguments.share, quiet, progress), before="\n")
    return 0


def _summary(tables: list[Table], files: list[Path]) -> dict[str, Any]:
    return {"tables": [vars(table) for table in tables], "files": [str(path) for path in files]}


def _print_summary(arguments: Namespace, tables: list[Table], files: list[Path], before: str = "") -> None:
    from dynlm.fewshot.report.summary import as_text

    text = "\n\n".join(as_text(table) for table in tables)
    written = (f"wrote {printable(str(path))}" for path in files)
    print_answer(arguments, _summary(tables, files), "\n".join([before + text, "", *written]))


COMMANDS: dict[str, Command] = {
    "fewshot demo": Command(
        "few-shot learning in two minutes: curves from three starts, characters from one example",
        ("dynlm fewshot demo", "dynlm fewshot demo --share 0.1 --folder quick"),
        _demo,
        _add_demo_options,
        takes_config=False,
        resumes=True,
    ),
    "fewshot tasks": Command(
        "show what a task source holds: alphabets, classes and images of each split",
        (
            "dynlm fewshot tasks",
            "dynlm fewshot tasks --task.source omniglot --task.path omniglot/ --json",
        ),
        _tasks,
        add_json,
        options=_options,
    ),
    "fewshot train": Command(
        "meta-train a learner: MAML and its variants, Reptile, prototypes, LSTMs",
        (
            "dynlm fewshot train --config fewshot/cubic-maml",
            "dynlm fewshot train --run.name mine --learner.kind reptile --task.source sinusoid",
        ),
        _train,
        add_json,
        options=_options,
        resumes=True,
    ),
    "fewshot evaluate": Command(
        "evaluate a trained learner on new tasks, by the published protocol",
        (
            "dynlm fewshot evaluate runs/fewshot/cubic-maml",
            "dynlm fewshot evaluate runs/fewshot/omniglot-maml-5-way --learner.statistics inductive",
        ),
        _evaluate,
        add_json,
        takes_run=True,
        options=_options,
        load_run=_load_run,
    ),
    "fewshot show": Command(
        "draw evaluated runs and tabulate them beside published figures",
        (
            "dynlm fewshot show runs/fewshot/cubic-*",
            "dynlm fewshot show runs/fewshot/omniglot-* --out omniglot --markdown",
        ),
        _show,
        _add_show_options,
        takes_config=False,
    ),
}
