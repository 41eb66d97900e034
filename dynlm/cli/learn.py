"""The command that learns from a user's own texts, from a folder to a report. torch is imported only when it trains."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Any

from dynlm.cli.command import COMMANDS, Argument, Option, command, open_in_browser, print_answer, skipped_lines
from dynlm.errors import UserError
from dynlm.run.locate import find_run, packed_models
from dynlm.runtime.launcher import is_main_process
from dynlm.runtime.perplexity import format_perplexity
from dynlm.runtime.text import counted, printable

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from dynlm.evaluation.compare import Comparison
    from dynlm.study.learn import Survey
    from dynlm.study.learn_options import LearnOptions
    from dynlm.train.config import Config


@command(
    "learn",
    Argument("TEXTS", "a folder of texts in any of the formats of data/README.md, or one file"),
    Option("--open", "show the report in the browser"),
    options="dynlm.study.learn_options:LearnOptions",
    resumes=True,
)
def _learn(options: Namespace, config: LearnOptions) -> int:
    """Train, tune, meta-train, score and report on texts of your own; too few texts are read by a model at hand.

    dynlm learn notes/ --run.name notes --open
    dynlm learn book.txt --run.name book --learn.budget 0.2
    """
    from dynlm.data.articles import describe, open_source
    from dynlm.evaluation.tables import text_table
    from dynlm.study.learn import begin, corpus_of, survey
    from dynlm.study.main_job import PAGE, main_job

    found = survey(corpus_of(config, options.texts))
    if found.size.words < config.learn.fewest_words:
        return _read_instead(options, config, found)
    chosen = begin(config, found)
    splits = describe(open_source(chosen.corpus))
    _say(options, _survey_line(found), *skipped_lines(found.skipped), _split_line(splits, chosen))
    comparison, written = main_job(chosen, quiet=options.json, progress=sys.stderr.isatty() and not options.json)
    page = chosen.run.path / PAGE
    text = ["", text_table(comparison), "", _verdict(comparison), f"report: {page}"]
    text.append(f"next: dynlm read {chosen.run.path} FILE --show")
    answer = {
        "texts": {**vars(found), "size": found.size._asdict()},
        "splits": splits,
        **comparison.to_dict(),
        "files": [str(file) for file in written],
    }
    print_answer(options, answer, "\n".join(text))
    if options.open:
        open_in_browser(page)
    return 0


def _say(options: Namespace, *lines: str) -> None:
    """Print lines before the work is done; nothing with ``--json``."""
    if is_main_process() and not options.json:
        print(printable("\n".join(lines), lines=True), flush=True)


def _survey_line(found: Survey) -> str:
    """Return what was read."""
    files = ", ".join(f"{count:,} {suffix}" for suffix, count in found.files.items())
    return f"read {found.path}: {counted(found.texts, 'text')} of {found.size.words:,} words in {files}"


def _split_line(splits: dict[str, Any], config: Config) -> str:
    parts = [f"{count['articles']:,} for {name}" for name, count in splits.items()]
    return (
        f"articles: {', '.join(parts)}; texts over {config.corpus.cut_words:,} words were cut at headings or paragraphs"
    )


def _verdict(comparison: Comparison) -> str:
    """Return the static model's perplexity on the test articles, and the best memory's."""
    static = comparison.variants[comparison.baseline]
    best = min((each for each in comparison.variants if each is not static), key=lambda each: each.nats)
    before, after = (format_perplexity(each.perplexity_per_word, 0) for each in (static, best))
    if best.nats < static.nats:
        return f"Memory ({best.label}) cut the perplexity per word of the test articles from {before} to {after}."
    return f"No memory helped on the test articles: perplexity per word {before} without, {after} with {best.label}."


def _read_instead(options: Namespace, config: LearnOptions, found: Survey) -> int:
    """Read the texts with a model at hand, as ``dynlm read`` does. Raises UserError where there is none."""
    from dynlm.cli.parser import parse

    name, fewest = config.learn.model, config.learn.fewest_words
    what = f"{found.size.words:,} words are too few to train on, which takes {fewest:,} (--learn.fewest_words)"
    model = find_run(name, config.run.folder, missing_ok=True)
    if not (model / "config.yaml").exists():
        known = ", ".join(packed_models()) or "none is here"
        do = f"give more text, or name a trained run or packed model ({known})"
        raise UserError(f"{what}, and there is no model {name!r} (--learn.model) to read them with", found.path, do)
    words = [str(model), options.texts, "--run.cpu", str(config.run.cpu).lower()]
    fields = vars(config.corpus)
    words += [word for name, field in fields.items() for word in (f"--corpus.{name}", field)]
    words.append("--json" if options.json else "--show")
    _say(options, _survey_line(found), f"{what}: {name} reads them instead", f"dynlm read {shlex.join(words)}")
    read = COMMANDS["read"]
    return read.run(*parse("read", read, words))
