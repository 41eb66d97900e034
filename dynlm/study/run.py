"""A whole study: prepare every variant, read every way, and write the results. Interrupted, it resumes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles, source_name
from dynlm.errors import UserError
from dynlm.evaluation.protocol import ArticleOrder, text_fingerprint
from dynlm.evaluation.score import ScoreRequest, score
from dynlm.evaluation.score_file import FOLDER, load_if_whole, read_scores, scores_of_run
from dynlm.models.options import ModelOptions
from dynlm.run.folder import save_config
from dynlm.run.run import Run
from dynlm.runtime.text import printable
from dynlm.study.options import StudyOptions
from dynlm.study.pages import write_pages
from dynlm.study.results import Done, Results, results_of
from dynlm.study.steps import Prepared, check_slots, fingerprint_of, prepare, steps_of
from dynlm.study.variants import readings_of, variants_of
from dynlm.train.pretrain import pretrain


class Progress:
    """Prints what is being done, with the seconds since this object was made; nothing when ``quiet``."""

    def __init__(self, quiet: bool):
        self._quiet, self._begin = quiet, time.monotonic()

    def __call__(self, what: str) -> None:
        if not self._quiet:
            print(f"[{time.monotonic() - self._begin:5.0f} s] {printable(what)}", flush=True)


def study(options: StudyOptions, quiet: bool = False, progress: bool = False) -> tuple[Results, list[Path]]:
    """Run the study of ``options`` and write it into its folder in the run; return the figures and the files.

    What was trained, tuned, learned or read with the same options is not done again. Raises UserError for variants that
    cannot be, for articles that are missing or that rates are tuned on, and, with ``study.tune`` false, for whatever
    the run does not hold.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study runs in one process", do="start it without accelerate launch or torchrun")
    chosen, config, say = options.study, options.run_options(), Progress(quiet)
    variants, path = variants_of(options), config.run.path
    if not (path / "model.json").exists() and config.model.MAKER != "dynlm pretrain":
        what = f"no model of kind {config.model.kind} in this run folder"
        raise UserError(what, path, f"make it with `{config.model.MAKER} SOURCE --run.name {config.run.name}` first")
    _check_articles(options)
    if chosen.tune and not (path / "model.json").exists():
        say("training the tokenizer and the model (level 1)")
        pretrain(config, quiet=not progress)
    run = Run(path, {}).with_sections(*vars(config).values())
    _check_kind(run, config.model)
    text = run.split(chosen.split)
    articles = article_range(chosen.articles, text.articles, "study.articles")
    key, folder = text_fingerprint(text, articles), path / chosen.name
    for scored in scores_of_run(folder):
        if (found := load_if_whole(scored)) is not None and found.protocol["text"] != key:
            raise UserError("this folder holds a study of another text", folder, "choose another --study.name")

    readings = [reading for variant in variants for reading in readings_of(variant, chosen)]
    steps = {each.label: steps_of(run, each.variant, each.memory.reset) for each in readings}
    check_slots(steps)
    filled: dict[str, Prepared] = {}
    prepared = {label: prepare(run, needed, chosen.tune, filled, say, not progress) for label, needed in steps.items()}
    for each in filled.values():
        _refuse_tuned_on(each, options, articles)
    save_config(folder, options)
    done: list[Done] = []
    for reading in readings:
        order = ArticleOrder(reading.order or "in order", chosen.seed)
        # What decides on the losses: model, text, order, the variant's own options, and what was found for it.
        own: dict[str, Any] = {"memory": dataclasses.asdict(reading.memory), "g": dataclasses.asdict(reading.variant.g)}
        own |= {"model": model} if (model := reading.variant.model.reading()) else {}
        own |= {"seed": seed} if reading.memory.lora_rank and (seed := run.options.seed) else {}  # of the factors
        made_of = [[run.fingerprint, key, str(order)], own, [each.held for each in prepared[reading.label]]]
        made_by = fingerprint_of(made_of)
        scored = folder / FOLDER / f"{reading.stem}.parquet"
        scores = load_if_whole(scored)
        if scores is not None and scores.protocol.get("made_by") == made_by:
            say(f"reused: the reading of {reading.label}")
        else:
            say(f"reading {chosen.split} {chosen.articles}: {reading.label}")
            overrides = {"variant": reading.variant.name, "made_by": made_by}
            request = ScoreRequest(chosen.split, chosen.articles, order, path=scored, overrides=overrides, force=True)
            score(run.with_sections(reading.memory, reading.variant.model), request, not progress)
            scores = read_scores(scored)
        if done:  # one copy of the text's bytes
            scores = dataclasses.replace(scores, surface=done[0].scores.surface)
        done.append(Done(reading, scores, prepared[reading.label]))
    say("comparing and drawing")
    results = results_of(done, chosen)
    return results, write_pages(folder, results, options, run.trained.card)


def _check_kind(run: Run, model: ModelOptions) -> None:
    """Raise UserError where the options are those of another kind of model than the run's."""
    kind = run.trained.model.options.kind
    if model.kind != kind:
        what = f"the run's model is of kind {kind}, and the options are those of {model.kind}"
        raise UserError(what, run.path, f"name the run, whose options they then are: `dynlm study {run.path}`")


def _check_articles(options: StudyOptions) -> None:
    """Raise UserError, before anything takes long, where articles are missing or would be tuned on."""
    chosen, tuned = options.study, options.tune
    splits = {chosen.split, *([tuned.split] if chosen.tune else [])}
    count = {split: sum(1 for _ in iter_articles(options.corpus, split)) for split in splits}
    reported = article_range(chosen.articles, count[chosen.split], "study.articles")
    if not chosen.tune:
        return
    searched = article_range(tuned.articles, count[tuned.split], "tune.articles")
    if chosen.split == tuned.split and (both := sorted(set(reported) & set(searched))):
        what = f"article {both[0] + 1} of {chosen.split} is in study.articles {chosen.articles!r} and, for tuning, in"
        do = "report on other articles than rates are tuned on"
        raise UserError(f"{what} tune.articles {tuned.articles!r}", do=do)


def _refuse_tuned_on(prepared: Prepared, options: StudyOptions, articles: Sequence[int]) -> None:
    """Raise UserError where the run's own rates, perhaps tuned with other options, were tuned on the articles."""
    held, chosen = prepared.held, options.study
    if held.get("corpus") != source_name(options.corpus) or held.get("split") != chosen.split:
        return
    if both := sorted({index + 1 for index in articles} & set(held["articles"])):
        what = f"{prepared.slot} were tuned on article {both[0]} of {chosen.split}, which study.articles"
        do = "report on other articles than rates are tuned on"
        raise UserError(f"{what} {chosen.articles!r} names", do=do)
