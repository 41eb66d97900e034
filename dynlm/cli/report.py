"""The verbs that look at score files: tables, pictures, pages. They never import torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.cli.command import Command, add_files, add_json, print_answer
from dynlm.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from dynlm.train.config import Config


def _add_compare_options(parser: ArgumentParser) -> None:
    add_files(parser)
    _add_text(parser)
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples of the articles")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap")
    add_json(parser)


def _compare(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.compare import compare
    from dynlm.evaluation.score_file import read_scores
    from dynlm.evaluation.score_selection import texts_named
    from dynlm.evaluation.tables import markdown_table, text_table

    compared = [
        compare([read_scores(path) for path in paths], resamples=options.resamples, seed=options.seed)
        for paths in texts_named(options.files, options.text)
    ]
    tables = [(markdown_table if options.markdown else text_table)(each) for each in compared]
    # One text, as there mostly is, is not wrapped.
    content = compared[0].to_dict() if len(compared) == 1 else {"texts": [each.to_dict() for each in compared]}
    print_answer(options, content, "\n".join(tables))
    return 0


def _add_text(parser: ArgumentParser) -> None:
    about = "of scores of several texts, those of the text whose fingerprint begins so"
    parser.add_argument("--text", type=str | None, default=None, metavar="KEY", help=about)


def _add_picture_options(parser: ArgumentParser) -> None:
    add_files(parser)
    _add_text(parser)
    parser.add_argument("--out", type=str | None, default=None, help="folder to write to; unset: the run's figures/")
    add_json(parser)


def _add_plot_options(parser: ArgumentParser) -> None:
    _add_picture_options(parser)
    parser.add_argument("--window", type=int | None, default=None, help="tokens that the curve is smoothed over")
    parser.add_argument("--pairs", type=str | None, default=None, help="pairs of variants: 'level 1:rms,rms:meta'")


def _figures(options: Namespace, paths: list[Path]) -> Path:
    return Path(options.out) if options.out else paths[0].parent.parent / "figures"


def _print_written(options: Namespace, written: list[Path], shown: list[Path]) -> None:
    """The files, and whether the scores that they show are of articles that their rates and the like were tuned on."""
    from dynlm.evaluation.overlap import overlap_notes, overlaps
    from dynlm.evaluation.score_file import read_protocol

    protocols = [read_protocol(path) for path in shown]
    notes = [f"{protocol['variant']}: {note}" for protocol in protocols for note in overlap_notes(overlaps(protocol))]
    text = "\n".join([*notes, *(f"wrote {path}" for path in written)])
    print_answer(options, {"files": [str(path) for path in written], "notes": notes}, text)


def _plot(options: Namespace, config: Config) -> int:
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


def _add_heatmap_options(parser: ArgumentParser) -> None:
    _add_picture_options(parser)
    parser.add_argument(
        "--article",
        type=int | None,
        default=None,
        help="article of the split, from 1; unset: the one with the largest gain",
    )
    parser.add_argument("--start", type=int | None, default=None, help="the first token shown, from 0")
    parser.add_argument("--length", type=int | None, default=None, help="tokens shown; unset: 180")
    parser.add_argument("--terminal", action="store_true", help="print it in colours instead of writing files")


def _heatmap(options: Namespace, config: Config) -> int:
    from dynlm.evaluation.score_selection import one_text_named
    from dynlm.report.heatmap import heatmap_run

    paths = one_text_named(options.files, options.text)
    if len(paths) < 2:
        raise UserError("a heat map needs two score files", do="name the lower and the higher level's")
    asked = (options.article, options.start, options.length)
    if options.terminal:
        if options.json or options.out:
            raise UserError("--terminal writes no files", do="leave out --json and --out")
        from dynlm.report.terminal import print_heatmap

        print_heatmap([paths[0], paths[-1]], asked)
        return 0
    pair = [paths[0], paths[-1]]
    _print_written(options, heatmap_run(pair, _figures(options, paths), asked), pair)
    return 0


def _add_report_options(parser: ArgumentParser) -> None:
    parser.add_argument(
        "runs", type=str, nargs="+", metavar="RUN", help="runs or score files of one text, and few-shot results"
    )
    _add_text(parser)
    parser.add_argument("--out", type=str | None, default=None, help="file; unset: report.html in the run's figures/")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument(
        "--window", type=int | None, default=None, help="tokens that the curve is smoothed over at first"
    )
    parser.add_argument("--resamples", type=int, default=2000, help="bootstrap resamples of the articles")
    add_json(parser)


def _report(options: Namespace, config: Config) -> int:
    import webbrowser

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
    if options.open and not webbrowser.open(written.resolve().as_uri()):
        raise UserError("no browser was found to show it in", written, "open it yourself")
    return 0


COMMANDS: dict[str, Command] = {
    "compare": Command(
        "one table of several score files of the same text",
        ("dynlm compare runs/demo", "dynlm compare a.parquet b.parquet --markdown"),
        _compare,
        _add_compare_options,
        takes_config=False,
    ),
    "plot": Command(
        "draw the perplexity difference over articles, and loss against position",
        ("dynlm plot runs/demo", "dynlm plot runs/demo --pairs 'level 1:meta' --window 2000"),
        _plot,
        _add_plot_options,
        takes_config=False,
    ),
    "heatmap": Command(
        "show token by token where the memory helped and where it hurt",
        ("dynlm heatmap runs/demo", "dynlm heatmap a.parquet b.parquet --article 7 --start 0 --length 300"),
        _heatmap,
        _add_heatmap_options,
        takes_config=False,
    ),
    "report": Command(
        "write one page where the curve leads to the words: self-contained HTML",
        ("dynlm report runs/demo --open", "dynlm report runs/one runs/other --out report.html"),
        _report,
        _add_report_options,
        takes_config=False,
    ),
}
