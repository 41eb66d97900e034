"""The verbs of few-shot learning: ``dynlm fewshot VERB``. torch is imported only by verbs that compute."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynlm.cli.command import Command, add_json, is_quiet, print_answer
from dynlm.errors import UserError
from dynlm.runtime.text import printable

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.fewshot.options import FewShotConfig


_TURNED_ROUND = "values turned round: the images' ground is bright, and ink has to be"


def _options() -> type:
    from dynlm.fewshot.options import FewShotConfig

    return FewShotConfig


def _load_run(folder: Path) -> Any:
    from dynlm.fewshot.run_folder import load_run_config

    return load_run_config(folder)


def _tasks(options: Namespace, config: FewShotConfig) -> int:
    from dynlm.fewshot.open import open_tasks

    task = config.task
    shape, tasks = task.episode(False), open_tasks(task)
    counts, images = tasks.describe(), tasks.images()
    about = {"source": task.source, "episode": dataclasses.asdict(shape), "splits": counts, "images": images}
    if task.is_regression:
        text = f"{task.source}: {shape.shots} support and {shape.queries} query points; every task is a new curve"
    else:
        rows = [f"{task.source}: {shape.ways}-way {shape.shots}-shot, {shape.queries} queries of each class"]
        for split, count in counts.items():
            rows.append(f"{split:8}" + ", ".join(f"{value:,} {name}" for name, value in count.items()))
        if images["turned_round"]:
            rows.append(_TURNED_ROUND)
        text = "\n".join(rows)
    print_answer(options, about, text)
    return 0


def _train(options: Namespace, config: FewShotConfig) -> int:
    from dynlm.fewshot.run_folder import run_path
    from dynlm.fewshot.train import train

    card = train(config, is_quiet(options))
    text = f"{config.learner.kind}: nothing to train"
    if card["steps"]:
        measure = "mean squared error" if config.task.is_regression else "accuracy"
        text = f"{config.learner.kind}: {card['steps']:,} meta-steps in {card['seconds']:.0f} s, "
        text += f"{measure} of the last training episodes {card['train_score']:.4f}"
    folder = run_path(config)
    print_answer(options, {"folder": str(folder), **card}, f"{text}\nwrote {printable(str(folder))}")
    return 0


def _evaluate(options: Namespace, config: FewShotConfig) -> int:
    from dynlm.fewshot.evaluate import evaluate

    path, scores = evaluate(Path(options.folder), config, is_quiet(options))
    figures = {step: scores.at(step) for step in scores.steps}
    if scores.is_accuracy:
        mean, half = scores.at()
        told = f"accuracy {100 * mean:.2f} ± {100 * half:.2f} %"
    else:
        shown = [step for step in (0, 1, 5, 10) if step in figures] or scores.steps
        told = "mean squared error " + ", ".join(
            f"{figures[step][0]:.4g} ± {figures[step][1]:.2g} after {step}" for step in shown
        )
    about = {
        "file": str(path),
        "protocol": scores.protocol,
        "steps": [{"step": step, "mean": mean, "half_width_95": half} for step, (mean, half) in figures.items()],
    }
    episodes = f"{scores.label}, {scores.protocol['episodes']:,} episodes"
    if scores.protocol.get("turned_round"):
        told += f"; {_TURNED_ROUND}"
    print_answer(options, about, f"{episodes}: {told}\nwrote {printable(str(path))}")
    return 0


def _add_show_options(parser: ArgumentParser) -> None:
    parser.add_argument("runs", type=str, nargs="+", metavar="RUN", help="evaluated few-shot runs")
    parser.add_argument(
        "--out", type=str | None, default=None, help="folder to write to; unset: the first run's figures/"
    )
    parser.add_argument("--title", type=str | None, default=None, help="title of the results in a report")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    add_json(parser)


def _show(options: Namespace, config: FewShotConfig) -> int:
    from dynlm.fewshot.report.summary import as_markdown, as_text, summarise

    runs = [Path(run) for run in options.runs]
    if missing := [run for run in runs if not run.exists()]:
        raise UserError("no such run", missing[0], "name folders that `dynlm fewshot train` made")
    # `show runs/*` names what lies beside runs too: pictures of an earlier one.
    is_run = [run.is_file() or (run / "config.yaml").exists() or (run / "scores").is_dir() for run in runs]
    if not any(is_run):
        raise UserError("no few-shot run", runs[0], "name folders that `dynlm fewshot train` made")
    for run in (run for run, known in zip(runs, is_run, strict=True) if not known):
        print(f"dynlm: passed over, no few-shot run: {printable(str(run))}", file=sys.stderr)
    runs = [run for run, known in zip(runs, is_run, strict=True) if known]
    out = Path(options.out) if options.out else runs[0] / "figures"
    tables, written = summarise(runs, out, options.title)
    text = "\n\n".join((as_markdown if options.markdown else as_text)(table) for table in tables)
    if not options.markdown:
        text = "\n".join([text, "", *(f"wrote {printable(str(path))}" for path in written)])
    print_answer(options, {"tables": [vars(table) for table in tables], "files": [str(path) for path in written]}, text)
    return 0


def _add_demo_options(parser: ArgumentParser) -> None:
    parser.add_argument("--folder", type=str, default="runs/fewshot-demo", help="folder of its runs and pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random number")
    parser.add_argument("--share", type=float, default=1.0, help="share of the meta-steps to take, for a quicker look")
    add_json(parser)


def _demo(options: Namespace, config: FewShotConfig) -> int:
    from dynlm.fewshot.demo import demo
    from dynlm.fewshot.report.summary import as_text

    quiet = options.json
    tables, written = demo(Path(options.folder), options.seed, options.share, quiet, not quiet and sys.stderr.isatty())
    text = "\n\n".join(as_text(table) for table in tables)
    files = [str(path) for path in written]
    about = {"tables": [vars(table) for table in tables], "files": files}
    print_answer(options, about, "\n".join(["", text, "", *(f"wrote {printable(file)}" for file in files)]))
    return 0


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
        "tell what a task distribution holds: alphabets, classes and images of each split",
        (
            "dynlm fewshot tasks",
            "dynlm fewshot tasks --task.source omniglot --task.path omniglot/ --json",
        ),
        _tasks,
        add_json,
        options=_options,
    ),
    "fewshot train": Command(
        "meta-train a learner: MAML and its kin, Reptile, prototypes, LSTMs",
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
        "judge a trained learner on new tasks, as published",
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
        "draw evaluated runs and put them into one table beside published figures",
        (
            "dynlm fewshot show runs/fewshot/cubic-*",
            "dynlm fewshot show runs/fewshot/omniglot-* --out omniglot --markdown",
        ),
        _show,
        _add_show_options,
        takes_config=False,
    ),
}
