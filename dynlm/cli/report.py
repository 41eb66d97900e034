"""Commands that show score files: tables, figures, pages. They never import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import FORMAT, Argument, Option, command, open_in_browser, print_answer, print_tables
from dynlm.errors import UserError
from dynlm.runtime.validation import LARGEST_SEED

if TYPE_CHECKING:
    from jsonargparse import Namespace


_FILES = Argument("FILE", "score files, or a run whose files to take", many=True, runs="runs")
_TEXT = Option("--text", "of scores of several texts, those of the text whose fingerprint begins so", str)
_OUT = Option("--out", "folder to write to; unset: the run's figures/", str)
_RESAMPLES = Option("--resamples", "bootstrap resamples of the articles", int, 2000, high=1_000_000)


@command(
    "compare",
    _FILES,
    _TEXT,
    FORMAT,
    _RESAMPLES,
    Option("--seed", "seed of the bootstrap", int, 0, high=LARGEST_SEED),
    takes_config=False,
)
def _compare(options: Namespace, config: None) -> int:
    """Print one table of several score files of the same text.

    dynlm compare runs/demo
    dynlm compare a.parquet b.parquet --format latex
    """
    from dynlm.evaluation.compare import compare
    from dynlm.evaluation.score_file import read_scores
    from dynlm.evaluation.score_selection import texts_named
    from dynlm.evaluation.tables import comparison_table, text_table

    compared = [
        compare([read_scores(path) for path in paths], resamples=options.resamples, seed=options.seed)
        for paths in texts_named(options.files, options.text)
    ]
    # One text, the common case, is not wrapped.
    content = compared[0].to_dict() if len(compared) == 1 else {"texts": [each.to_dict() for each in compared]}
    print_tables(options, [*map(comparison_table, compared)], content, "\n".join(map(text_table, compared)))
    return 0


def _figures(options: Namespace, paths: list[Path]) -> Path:
    return Path(options.out) if options.out else paths[0].parent.parent / "figures"


def _print_written(options: Namespace, written: list[Path], shown: list[Path]) -> None:
    """Print the files, with a note for each scoring whose articles its rule or cache was tuned on."""
    from dynlm.evaluation.overlap import overlap_notes, overlaps
    from dynlm.evaluation.score_file import read_protocol

    protocols = [read_protocol(path) for path in shown]
    notes = [f"{protocol['variant']}: {note}" for protocol in protocols for note in overlap_notes(overlaps(protocol))]
    text = "\n".join([*notes, *(f"wrote {path}" for path in written)])
    print_answer(options, {"files": [str(path) for path in written], "notes": notes}, text)


@command(
    "plot",
    _FILES,
    _TEXT,
    _OUT,
    Option("--window", "tokens that the curve is smoothed over", int, low=1),
    Option("--pairs", "pairs of variants, such as 'level 1:rms,rms:meta'", str),
    takes_config=False,
)
def _plot(options: Namespace, config: None) -> int:
    """Draw the perplexity difference over articles, and loss against position.

    dynlm plot runs/demo
    dynlm plot runs/demo --pairs 'level 1:meta' --window 2000
    """
    from dynlm.evaluation.score_selection import one_text_named
    from dynlm.report.curves import plot_run

    paths = one_text_named(options.files, options.text)
    pairs = None
    if options.pairs:
        pairs = []
        for pair in options.pairs.split(","):
            lower, separator, higher = pair.partition(":")
            if not separator:
                raise UserError(f"--pairs has {pair!r}", do="write LOWER:HIGHER, with commas between pairs")
            pairs.append((lower.strip(), higher.strip()))
    _print_written(options, plot_run(paths, _figures(options, paths), options.window, pairs), paths)
    return 0


@command(
    "heatmap",
    _FILES,
    _TEXT,
    _OUT,
    Option("--article", "article of the split, from 1; unset: the one with the largest gain", int, low=1),
    Option("--start", "the first token shown, from 0", int),
    Option("--length", "tokens shown; unset: 180", int, low=1, high=1_000_000),
    Option("--terminal", "print it in colours instead of writing files"),
    takes_config=False,
)
def _heatmap(options: Namespace, config: None) -> int:
    """Show token by token where the memory helped and where it hurt.

    dynlm heatmap runs/demo
    dynlm heatmap a.parquet b.parquet --article 7 --start 0 --length 300
    """
    from rich.console import Console

    from dynlm.evaluation.score_selection import one_text_named
    from dynlm.report.heatmap import HeatMap, heatmap_run

    paths = one_text_named(options.files, options.text)
    if len(paths) < 2:
        raise UserError("a heat map needs two score files", do="name the lower and the higher level's")
    lower, higher, requested = paths[0], paths[-1], (options.article, options.start, options.length)
    if options.terminal:
        if options.json or options.out:
            raise UserError("--terminal writes no files", do="leave out --json and --out")
        Console(highlight=False).print(HeatMap.load(lower, higher, requested), soft_wrap=True)
    else:
        written = heatmap_run(lower, higher, _figures(options, paths), requested)
        _print_written(options, written, [lower, higher])
    return 0


@command(
    "report",
    Argument("RUN", "runs or score files of one text, and few-shot results", many=True, runs="runs"),
    _TEXT,
    Option("--out", "file; unset: report.html in the run's figures/", str),
    Option("--open", "show it in the browser"),
    Option("--window", "tokens that the curve is smoothed over at first", int, low=1),
    _RESAMPLES,
    takes_config=False,
)
def _report(options: Namespace, config: None) -> int:
    """Write one page where the curve leads to the words: self-contained HTML.

    dynlm report runs/demo --open
    dynlm report runs/one runs/other --out report.html
    """
    from dynlm.evaluation.score_selection import one_text_named
    from dynlm.report.fewshot_results import FILE
    from dynlm.report.page import report_run

    fewshot = [Path(word) for word in options.runs if (Path(word) / FILE).is_file()]
    read = [word for word in options.runs if Path(word) not in fewshot]
    if not read:
        raise UserError("a report needs score files beside few-shot results", do="name a run")
    paths = one_text_named(read, options.text)
    out = Path(options.out) if options.out else _figures(options, paths) / "report.html"
    if out.is_dir():
        raise UserError("a folder", out, "name the file to write")
    written = report_run(paths, out, fewshot, options.window, options.resamples)
    _print_written(options, [written], paths)
    if options.open:
        open_in_browser(written)
    return 0
