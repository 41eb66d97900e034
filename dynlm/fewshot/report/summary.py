"""Summaries of few-shot runs: tables beside published figures, plots, and ``fewshot.json`` for the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynlm.evaluation import export
from dynlm.evaluation.tables import text_rows
from dynlm.fewshot.report.curves import animate_fits, plot_errors, plot_strip
from dynlm.fewshot.report.episode import plot_episode
from dynlm.fewshot.report.pulls import plot_pulls, pulls_of
from dynlm.fewshot.report.returns import plot_regret, return_table, title_of
from dynlm.fewshot.report.trajectories import animate_trajectories, plot_trajectories, trajectories_of
from dynlm.fewshot.results import EpisodeScores, examples_of_runs, scores_of_runs
from dynlm.report.fewshot_results import FILE, Table, load_fewshot
from dynlm.runtime.parsing import write_json
from dynlm.runtime.text import printable

_STEPS = (1, 5, 10)
# Published figures. Finn et al. 2017 and Nichol et al. 2018 draw test characters at random; statistics of the former
# are transductive.
_SHAPES = ((5, 1), (5, 5), (20, 1), (20, 5))
# (learner, query statistics, source) and the accuracies in % of each (ways, shots) of _SHAPES.
_OMNIGLOT = {
    ("maml", "transductive", "Finn et al. 2017"): ("98.7 ± 0.4", "99.9 ± 0.1", "95.8 ± 0.3", "98.9 ± 0.2"),
    ("fomaml", "transductive", "Nichol et al. 2018"): ("98.3 ± 0.5", "99.2 ± 0.2", "89.4 ± 0.5", "97.9 ± 0.1"),
    ("reptile", "inductive", "Nichol et al. 2018"): ("95.39 ± 0.09", "98.90 ± 0.10", "88.14 ± 0.15", "96.65 ± 0.33"),
    ("reptile", "transductive", "Nichol et al. 2018"): ("97.68 ± 0.04", "99.48 ± 0.06", "89.43 ± 0.14", "97.12 ± 0.32"),
    ("maml++", "transductive", "Antoniou et al. 2019"): ("99.47", "99.93", "-", "-"),
    ("anil", "transductive", "Raghu et al. 2020"): ("-", "-", "96.2 ± 0.5", "98.0 ± 0.3"),
}
# Mean squared error of MAML after 1, 5 and 10 steps on 10 points.
_SINUSOID = {1: "0.67", 5: "0.38", 10: "0.35"}


def tables_of(scores: Sequence[EpisodeScores]) -> list[Table]:
    """Return a table of errors for each regression task, one of accuracies for each source of images, and one of
    returns for each kind of environments."""
    return [
        (return_table if of_task[0].is_return else _accuracies if of_task[0].is_accuracy else _errors)(of_task)
        for of_task in _by_task(scores)
    ]


def _by_task(scores: Sequence[EpisodeScores]) -> list[list[EpisodeScores]]:
    """Return the scores of each task source; of each size too where tasks are environments."""
    by_task: dict[tuple[Any, ...], list[EpisodeScores]] = {}
    for one in scores:
        by_task.setdefault((one.protocol["task"], one.protocol.get("size")), []).append(one)
    return list(by_task.values())


def _accuracies(scores: Sequence[EpisodeScores]) -> Table:
    columns = ["learner", "episodes", "queries a class", "query statistics", "accuracy, %"]
    kinds = Counter(_kind(one.protocol) for one in scores)
    rows = []
    for one in sorted(scores, key=lambda one: (one.protocol["ways"], one.protocol["shots"], one.at()[0])):
        protocol, (mean, half) = one.protocol, one.at()
        # Runs of the same kind of learner are distinguished by their names.
        name = one.label if kinds[_kind(protocol)] == 1 else f"{one.label} ({protocol['run']})"
        shape, queries = f"{protocol['ways']}-way {protocol['shots']}-shot", str(protocol.get("queries", "-"))
        accuracy = f"{100 * mean:.2f} ± {100 * half:.2f}"
        rows.append([name, shape, queries, protocol["statistics"], accuracy, *published_accuracy(protocol)])
    protocol = scores[0].protocol
    counts = " or ".join(f"{count:,}" for count in sorted({one.protocol["episodes"] for one in scores}))
    classes = f" ({protocol['classes']})" if protocol.get("classes") else ""
    note = (
        f"{counts} episodes of the {protocol['split']} split{classes}, 95 % normal intervals over episodes. Query "
        "statistics: transductive normalises the query set as a batch (more informative with one query of each class "
        "than with 15), inductive and running normalise each query example independently. Published figures are of "
        "other splits and trainings."
    )
    return Table(f"Accuracy on {protocol['task']}", [*columns, "published, %", "published by"], rows, note)


def _kind(protocol: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(protocol.get(name) for name in ("label", "ways", "shots", "queries", "statistics"))


def _errors(scores: Sequence[EpisodeScores]) -> Table:
    columns = ["learner", "support points", *(f"after {step} step{'s' * (step > 1)}" for step in _STEPS)]
    rows = []
    for one in scores:
        # A learner without steps has one error, which is that after any number.
        steps = [step if len(one.steps) > 1 else one.steps[0] for step in _STEPS]
        errors = ["{:.4g} ± {:.2g}".format(*one.at(step)) if step in one.steps else "-" for step in steps]
        figures, sources = zip(*(published_error(one.protocol, step) for step in _STEPS), strict=True)
        published = "-" if figures[0] == "-" else " / ".join(figures)
        rows.append([one.label, str(one.protocol["shots"]), *errors, published, sources[0]])
    protocol = scores[0].protocol
    note = f"Mean squared error of the query set, {protocol['episodes']:,} new tasks, 95 % normal intervals over tasks."
    columns += ["published after 1 / 5 / 10", "published by"]
    return Table(f"Error on {protocol['task']}", columns, rows, note)


def published_accuracy(protocol: dict[str, Any]) -> tuple[str, str]:
    """Return (accuracy in %, source) of the same learner on the same kind of episode; dashes where there is none."""
    shape = (protocol.get("ways"), protocol.get("shots"))
    for (learner, statistics, source), figures in _OMNIGLOT.items() if protocol.get("task") == "omniglot" else ():
        if (learner, statistics) == (protocol["learner"], protocol.get("statistics")) and shape in _SHAPES:
            figure = figures[_SHAPES.index(shape)]
            return figure, source if figure != "-" else "-"
    return "-", "-"


def published_error(protocol: dict[str, Any], step: int) -> tuple[str, str]:
    """Return (mean squared error, source) of the same learner after 1, 5 or 10 steps; dashes where there is none."""
    same = protocol["learner"] == "maml" and protocol.get("task") == "sinusoid" and protocol.get("shots") == 10
    return (_SINUSOID[step], "Finn et al. 2017") if same and step in _SINUSOID else ("-", "-")


def as_text(table: Table) -> str:
    """Return a table for a terminal."""
    cells = [[printable(cell) for cell in row] for row in (table.columns, *table.rows)]
    return "\n".join([printable(table.title), *text_rows(cells, len(table.columns)), printable(table.note)])


def as_export(table: Table) -> export.Table:
    """Return a table for ``export``; all of its cells are text."""
    return export.Table(table.columns, table.rows, table.title, [table.note] if table.note else [], len(table.columns))


def summarise(runs: Sequence[Path], out: Path, title: str | None = None) -> tuple[list[Table], list[Path]]:
    """Write all figures of some evaluated runs and ``fewshot.json`` into ``out``; return (tables, files).

    Raises UserError where a run was not evaluated, or where curves to be compared differ.
    """
    scores = scores_of_runs(runs)
    tables = tables_of(scores)
    files: list[Path] = []
    pictures: list[dict[str, str]] = []

    def add(new: list[Path], heading: str, alt: str) -> None:
        files.extend(new)
        pictures.append({"file": new[0].name, "title": heading, "alt": alt})

    curves = examples_of_runs(runs, "curves")
    for task in dict.fromkeys(one.protocol["task"] for one in scores if one.protocol["metric"] == "mean squared error"):
        of_task = [one for one in scores if one.protocol["task"] == task]
        alt = f"Mean squared error against inner steps, of {', '.join(one.label for one in of_task)}."
        add(plot_errors(of_task, out / f"{task}-error"), f"Error against steps, {task}", alt)
        shown = [one for one in curves if one["protocol"]["task"] == task and one["tasks"]]
        if shown:
            alt = f"Fits of {', '.join(one['protocol']['label'] for one in shown)}"
            gif = animate_fits(shown, out / f"{task}-fits.gif")
            add([gif], f"The fit on a new {task}, step by step", f"{alt}.")
            add(plot_strip(shown, out / f"{task}-strip"), f"The same as stills, {task}", f"{alt} after some steps.")
        for one in shown if len(shown) > 1 else []:
            run = one["protocol"]["run"].removeprefix(f"{task}-")
            files.append(animate_fits([one], out / f"{task}-{run}.gif"))
    for of_task in _by_task([one for one in scores if one.adapts_while_acting and one.optimal_E is not None]):
        protocol = of_task[0].protocol
        alt = f"Regret against {protocol['unit']}s, of {', '.join(one.label for one in of_task)}."
        stem = out / f"{protocol['task']}-{protocol['size']}-regret"
        add(plot_regret(of_task, stem), f"Regret, {title_of(protocol)}", alt)
    for same in pulls_of(examples_of_runs(runs, "trajectories")):
        protocol = same[0]["protocol"]
        alt = f"How often each arm is pulled over time, by {', '.join(one['protocol']['label'] for one in same)}."
        stem = out / f"{protocol['task']}-{protocol['size']}-pulls"
        add(plot_pulls(same, stem), f"Pulls over time, {title_of(protocol)}", alt)
    for same in trajectories_of(examples_of_runs(runs, "trajectories")):
        title, labels = title_of(same[0]["protocol"]), ", ".join(one["protocol"]["label"] for one in same)
        name = f"{same[0]['protocol']['task']}-{same[0]['protocol']['size']}"
        gif = animate_trajectories(same, out / f"{name}-trajectories.gif")
        add([gif], f"Before and after one inner step, {title}", f"Trajectories of {labels}.")
        strip = plot_trajectories(same, out / f"{name}-strip")
        add(strip, f"The same as stills, step by step, {title}", f"Trajectories of {labels} after some steps.")
    for one in examples_of_runs(runs, "images"):
        if one["tasks"]:
            protocol = one["protocol"]
            shape = f"{protocol['ways']}-way-{protocol['shots']}-shot-{protocol['queries']}-queries"
            stem = out / f"{protocol['run']}-{shape}-{protocol['statistics']}"
            heading = f"An episode: {protocol['label']}, {protocol['ways']}-way {protocol['shots']}-shot"
            alt = "Support and query images of each class, wrong answers marked."
            add(plot_episode(one, stem), heading, alt)
    content: dict[str, Any] = {
        "title": title or "Few-shot learning: " + ", ".join(dict.fromkeys(str(one.protocol["task"]) for one in scores)),
        "text": "Learners that adapt to a task from a few examples or episodes, scored on tasks not trained on.",
        "tables": [vars(table) for table in tables],
        "pictures": pictures,
    }
    write_json(out / FILE, content)
    load_fewshot(out)  # Checks what the report will check.
    return tables, [*files, out / FILE]
