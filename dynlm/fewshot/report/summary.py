"""All of some few-shot runs at once: tables beside published figures, pictures, and the report's ``fewshot.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynlm.fewshot.report.curves import animate_fits, plot_errors, plot_strip
from dynlm.fewshot.report.episode import plot_episode
from dynlm.fewshot.report.published import published_accuracy, published_error
from dynlm.fewshot.results import EpisodeScores, examples_of_runs, scores_of_runs
from dynlm.report.fewshot_results import FILE, Table, read_fewshot
from dynlm.runtime.parsing import write_json
from dynlm.runtime.text import markdown, printable

_STEPS = (1, 5, 10)


def tables_of(scores: Sequence[EpisodeScores]) -> list[Table]:
    """One table of errors for each regression task, one of accuracies for each data set."""
    tables = []
    tasks = dict.fromkeys((one.protocol["task"], one.is_accuracy) for one in scores)
    for task, is_accuracy in tasks:
        of_task = [one for one in scores if one.protocol["task"] == task]
        tables.append(_accuracies(of_task) if is_accuracy else _errors(of_task))
    return tables


def _accuracies(scores: Sequence[EpisodeScores]) -> Table:
    columns = [
        "learner",
        "episodes",
        "queries a class",
        "query statistics",
        "accuracy, %",
        "published, %",
        "published by",
    ]
    rows = []
    kinds = Counter(_kind(one.protocol) for one in scores)
    for one in sorted(scores, key=lambda one: (one.protocol["ways"], one.protocol["shots"], one.at()[0])):
        told = one.protocol
        mean, half = one.at()
        figure, source = published_accuracy(told)
        shape = f"{told['ways']}-way {told['shots']}-shot"
        queries = str(told.get("queries", "-"))
        # Two runs of one kind of learner are told apart by their names.
        name = one.label if kinds[_kind(told)] == 1 else f"{one.label} ({told['run']})"
        rows.append([name, shape, queries, told["statistics"], f"{100 * mean:.2f} ± {100 * half:.2f}", figure, source])
    told = scores[0].protocol
    counts = sorted({one.protocol["episodes"] for one in scores})
    note = (
        f"{' or '.join(f'{count:,}' for count in counts)} episodes of the {told['split']} split"
        f"{' (' + told['classes'] + ')' if told.get('classes') else ''}, 95 % normal intervals over episodes. "
        "Query statistics: "
        "transductive sees the query set as a batch (one query of each class tells more by it than 15 do), inductive "
        "and running see each query example alone. "
        "Published figures are of other splits and trainings."
    )
    return Table(f"Accuracy on {told['task']}", columns, rows, note)


def _kind(told: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(told.get(name) for name in ("label", "ways", "shots", "queries", "statistics"))


def _errors(scores: Sequence[EpisodeScores]) -> Table:
    told = scores[0].protocol
    columns = ["learner", "support points"]
    for step in _STEPS:
        columns += [f"after {step} step{'s' * (step > 1)}"]
    columns += ["published after 1 / 5 / 10", "published by"]
    rows = []
    for one in scores:
        row = [one.label, str(one.protocol["shots"])]
        for step in _STEPS:
            if step not in one.steps:
                # A learner that takes no steps has one figure, the same throughout.
                row.append("{:.4g} ± {:.2g}".format(*one.at()) if len(one.steps) == 1 else "-")
                continue
            row.append("{:.4g} ± {:.2g}".format(*one.at(step)))
        figures = [published_error(one.protocol, step) for step in _STEPS]
        row += ["-" if figures[0][0] == "-" else " / ".join(figure for figure, _ in figures), figures[0][1]]
        rows.append(row)
    note = f"Mean squared error of the query set, {told['episodes']:,} new tasks, 95 % normal intervals over tasks."
    return Table(f"Error on {told['task']}", columns, rows, note)


def as_text(table: Table) -> str:
    """A table for a terminal."""
    cells = [[printable(cell) for cell in row] for row in (table.columns, *table.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(table.columns))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    return "\n".join([printable(table.title), *lines, printable(table.note)])


def as_markdown(table: Table) -> str:
    """A table for a page."""
    first, *rest = ([markdown(cell) for cell in row] for row in (table.columns, *table.rows))
    rows = [first, ["---"] * len(first), *rest]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def summarise(runs: Sequence[Path], out: Path, title: str | None = None) -> tuple[list[Table], list[Path]]:
    """Write all pictures of some evaluated runs and ``fewshot.json`` into ``out``; returns (tables, files).

    Raises UserError where a run was not evaluated, or where curves to be shown side by side differ.
    """
    scores = scores_of_runs(runs)
    tables = tables_of(scores)
    written: list[Path] = []
    pictures: list[dict[str, str]] = []

    def add(files: Path | list[Path], heading: str, alt: str) -> None:
        files = [files] if isinstance(files, Path) else files
        written.extend(files)
        pictures.append({"file": files[0].name, "title": heading, "alt": alt})

    for task in dict.fromkeys(one.protocol["task"] for one in scores if not one.is_accuracy):
        of_task = [one for one in scores if one.protocol["task"] == task]
        alt = f"Mean squared error against inner steps, of {', '.join(one.label for one in of_task)}."
        add(plot_errors(of_task, out / f"{task}-error"), f"Error against steps, {task}", alt)
        curves = [one for one in examples_of_runs(runs, "curves") if one["protocol"]["task"] == task and one["tasks"]]
        if curves:
            names = ", ".join(one["protocol"]["label"] for one in curves)
            add(
                animate_fits(curves, out / f"{task}-fits.gif"),
                f"The fit on a new {task}, step by step",
                f"Fits of {names}.",
            )
            add(
                plot_strip(curves, out / f"{task}-strip"),
                f"The same as stills, {task}",
                f"Fits of {names} after some steps.",
            )
        for one in curves if len(curves) > 1 else []:
            run = one["protocol"]["run"]
            name = run if run.startswith(f"{task}-") else f"{task}-{run}"
            written.append(animate_fits([one], out / f"{name}.gif"))
    for one in examples_of_runs(runs, "images"):
        if one["tasks"]:
            told = one["protocol"]
            shape = f"{told['ways']}-way-{told['shots']}-shot-{told['queries']}-queries"
            name = f"{told['run']}-{shape}-{told['statistics']}"
            heading = f"An episode: {told['label']}, {told['ways']}-way {told['shots']}-shot"
            add(plot_episode(one, out / name), heading, "Support and query images of each class, wrong answers marked.")
    content: dict[str, Any] = {
        "title": title or "Few-shot learning: " + ", ".join(dict.fromkeys(str(one.protocol["task"]) for one in scores)),
        "text": "Learners that adapt to a task from a few labelled examples, judged on tasks that were not trained on.",
        "tables": [vars(table) for table in tables],
        "pictures": pictures,
    }
    write_json(out / FILE, content)
    read_fewshot(out)  # what the report would refuse is refused here
    return tables, [*written, out / FILE]
