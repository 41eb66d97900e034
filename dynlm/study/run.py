"""A whole study: prepare every variant, read every way, and write what came of it. Stopped, it goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.evaluation.protocol import ArticleOrder, text_fingerprint
from dynlm.evaluation.score import ScoreRequest, score
from dynlm.evaluation.score_file import FOLDER, Scores, read_scores, scores_of_run
from dynlm.evaluation.score_path import Output, load_if_whole
from dynlm.run.folder import load_model, run_path, save_config
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.text import printable
from dynlm.study.options import StudyOptions
from dynlm.study.pages import write_pages
from dynlm.study.results import Done, Results, results_of
from dynlm.study.steps import Prepared, check_slots, prepare, steps_of
from dynlm.study.variants import SHARED, Reading, pairs_of, readings_of, variants_of
from dynlm.train.config import Config
from dynlm.train.pretrain import pretrain


def study(options: StudyOptions, quiet: bool = False, progress: bool = False) -> tuple[Results, list[Path]]:
    """Do what ``options`` ask for and write it into ``runs/NAME/study``; returns the figures and the files.

    Training, tuning, learning and reading that was done with the same options is not done again. Raises UserError for
    variants that cannot be, articles that are not there or that rates are tuned on, and, with ``study.tune`` false, for
    whatever the run does not hold.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study runs in one process", do="start it without accelerate launch or torchrun")
    asked, config = options.study, options.run_options()
    variants = variants_of(options)
    pairs_of(asked)
    _check_articles(options)
    folder, say = run_path(config.run), _teller(quiet)
    if asked.tune and not (folder / "model.json").exists():
        say("training the tokenizer and the LSTM (level 1)")
        pretrain(config, quiet=not progress)
    trained = load_model(folder)
    text = tokenise(iter_articles(config.corpus, asked.split), trained.tokenizer, config.corpus.num_proc)
    mark = text_fingerprint(text, article_range(asked.articles, text.articles, "study.articles"))
    place = folder / asked.name
    _refuse_another_text(place, mark)

    readings = [reading for variant in variants for reading in readings_of(variant, asked)]
    steps = {each.label: steps_of(folder, config, each.variant, each.config.memory.reset, trained) for each in readings}
    check_slots(steps)
    filled: dict[str, Prepared] = {}
    prepared = {
        label: prepare(folder, needed, trained, asked.tune, say, not progress, filled)
        for label, needed in steps.items()
    }
    for each in filled.values():
        _refuse_reading_what_was_tuned_on(each, options, text.articles)
    save_config(place, options)
    done: list[Done] = []
    for reading in readings:
        scores = _read(folder, options, reading, prepared[reading.label], trained.fingerprint, mark, say, not progress)
        if done:
            # One copy of the text's bytes, not one a reading.
            scores = dataclasses.replace(scores, surface=done[0].scores.surface)
        done.append(Done(reading, scores, prepared[reading.label]))
    say("comparing and drawing")
    results = results_of(done, options.study)
    return results, write_pages(place, results, options, trained.card)


def _check_articles(options: StudyOptions) -> None:
    """Before anything takes long: are the articles there, and are none of them tuned on?"""
    asked, tuned = options.study, options.tune
    count = {split: _count(options, split) for split in {asked.split, *([tuned.split] if asked.tune else [])}}
    reported = article_range(asked.articles, count[asked.split], "study.articles")
    if not asked.tune:
        return
    searched = article_range(tuned.articles, count[tuned.split], "tune.articles")
    if asked.split == tuned.split and (both := sorted(set(reported) & set(searched))):
        raise UserError(
            f"article {both[0] + 1} of {asked.split} is in study.articles {asked.articles!r} and, for tuning, in "
            f"tune.articles {tuned.articles!r}",
            do="report on other articles than rates are tuned on",
        )


def _refuse_reading_what_was_tuned_on(prepared: Prepared, options: StudyOptions, articles: int) -> None:
    """The same of what the run holds, which may have been tuned with other options."""
    held, asked = prepared.held, options.study
    if held.get("corpus") != source_name(options.corpus) or held.get("split") != asked.split:
        return
    reported = article_range(asked.articles, articles, "study.articles")
    if both := sorted({index + 1 for index in reported} & set(held["articles"])):
        raise UserError(
            f"{prepared.slot} were tuned on article {both[0]} of {asked.split}, which study.articles "
            f"{asked.articles!r} names",
            do="report on other articles than rates are tuned on",
        )


def _count(options: Config, split: str) -> int:
    return sum(1 for _ in iter_articles(options.corpus, split))


def _refuse_another_text(place: Path, text: str) -> None:
    for path in scores_of_run(place):
        if (found := load_if_whole(path)) is not None and found.protocol["text"] != text:
            raise UserError("this folder holds a study of another text", place, "choose another --study.name")


def _read(
    folder: Path,
    options: StudyOptions,
    reading: Reading,
    prepared: Sequence[Prepared],
    model: str,
    text: str,
    say: Callable[[str], None],
    quiet: bool,
) -> Scores:
    """The reading's scores: those that are there, where they were made by the same options, else made now."""
    asked, config = options.study, reading.config
    order: Any = reading.order or "in order"
    # What decides the losses: the model, the text, what was found for the variant, and how it reads.
    sections = [item.name for item in dataclasses.fields(Config) if item.name not in (*SHARED, "tune", "metatrain")]
    key = fingerprint(
        json.dumps(
            [
                [model, text, order, asked.seed if order == "shuffled" else None],
                {name: dataclasses.asdict(getattr(config, name)) for name in sections},
                [each.held for each in prepared],
            ],
            sort_keys=True,
            default=list,
        )
    )
    path = folder / asked.name / FOLDER / f"{reading.stem}.parquet"
    if (found := load_if_whole(path)) is not None and found.protocol.get("made_by") == key:
        say(f"reused: the reading of {reading.label}")
        return found
    say(f"reading {asked.split} {asked.articles}: {reading.label}")
    output = Output(path, overrides={"variant": reading.variant.name, "made_by": key}, force=True)
    request = ScoreRequest(asked.split, asked.articles, ArticleOrder(order, asked.seed), output=output)
    score(folder, config, request, quiet)
    return read_scores(path)


def _teller(quiet: bool) -> Callable[[str], None]:
    """Prints what is done, with the seconds since it was made."""
    begun = time.monotonic()

    def say(what: str) -> None:
        if not quiet:
            print(f"[{time.monotonic() - begun:5.0f} s] {printable(what)}", flush=True)

    return say
