"""A whole study: prepare every variant, read every way, and write the results. Interrupted, it resumes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles, source_name
from dynlm.errors import UserError
from dynlm.evaluation.protocol import ArticleOrder, text_fingerprint
from dynlm.evaluation.score import ScoreRequest, score
from dynlm.evaluation.score_file import FOLDER, Scores, load_if_whole, read_scores, scores_of_run
from dynlm.run.folder import run_path, save_config
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.study.options import StudyOptions
from dynlm.study.pages import write_pages
from dynlm.study.progress import Progress
from dynlm.study.results import Done, Results, results_of
from dynlm.study.steps import Prepared, check_slots, prepare, steps_of
from dynlm.study.variants import SHARED, Reading, readings_of, variants_of
from dynlm.train.config import Config
from dynlm.train.pretrain import pretrain


def study(options: StudyOptions, quiet: bool = False, progress: bool = False) -> tuple[Results, list[Path]]:
    """Run the study of ``options`` and write it into its folder in the run; return the figures and the files.

    What was trained, tuned, learned or read with the same options is not done again. Raises UserError for variants that
    cannot be, for articles that are missing or that rates are tuned on, and, with ``study.tune`` false, for whatever
    the run does not hold.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study runs in one process", do="start it without accelerate launch or torchrun")
    chosen, config, say = options.study, options.run_options(), Progress(quiet)
    variants = variants_of(options)
    _check_articles(options)
    path = run_path(config.run)
    if chosen.tune and not (path / "model.json").exists():
        say("training the tokenizer and the model (level 1)")
        pretrain(config, quiet=not progress)
    run = Run(path, {}).with_sections(*vars(config).values())
    text = run.split(chosen.split)
    articles = article_range(chosen.articles, text.articles, "study.articles")
    key, folder = text_fingerprint(text, articles), path / chosen.name
    _refuse_another_text(folder, key)

    readings = [reading for variant in variants for reading in readings_of(variant, chosen)]
    steps = {each.label: steps_of(run, config, each.variant, each.config.memory.reset) for each in readings}
    check_slots(steps)
    filled: dict[str, Prepared] = {}
    prepared = {label: prepare(run, needed, chosen.tune, filled, say, not progress) for label, needed in steps.items()}
    for each in filled.values():
        _refuse_tuned_on(each, options, articles)
    save_config(folder, options)
    done: list[Done] = []
    for reading in readings:
        scores = _read(run, options, reading, prepared[reading.label], (key, say, not progress))
        if done:  # one copy of the text's bytes
            scores = dataclasses.replace(scores, surface=done[0].scores.surface)
        done.append(Done(reading, scores, prepared[reading.label]))
    say("comparing and drawing")
    results = results_of(done, chosen)
    return results, write_pages(folder, results, options, run.trained.card)


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
        raise UserError(
            f"article {both[0] + 1} of {chosen.split} is in study.articles {chosen.articles!r} and, for tuning, in "
            f"tune.articles {tuned.articles!r}",
            do="report on other articles than rates are tuned on",
        )


def _refuse_tuned_on(prepared: Prepared, options: StudyOptions, articles: Sequence[int]) -> None:
    """Raise UserError where the run's own rates, perhaps tuned with other options, were tuned on the articles."""
    held, chosen = prepared.held, options.study
    if held.get("corpus") != source_name(options.corpus) or held.get("split") != chosen.split:
        return
    if both := sorted({index + 1 for index in articles} & set(held["articles"])):
        raise UserError(
            f"{prepared.slot} were tuned on article {both[0]} of {chosen.split}, which study.articles "
            f"{chosen.articles!r} names",
            do="report on other articles than rates are tuned on",
        )


def _refuse_another_text(folder: Path, text: str) -> None:
    for path in scores_of_run(folder):
        if (found := load_if_whole(path)) is not None and found.protocol["text"] != text:
            raise UserError("this folder holds a study of another text", folder, "choose another --study.name")


def _read(
    run: Run, options: StudyOptions, reading: Reading, prepared: Sequence[Prepared], how: tuple[str, Progress, bool]
) -> Scores:
    """Return the reading's scores: those that the same options gave before, else new ones."""
    (text, say, quiet), chosen, config = how, options.study, reading.config
    order = ArticleOrder(reading.order or "in order", chosen.seed)
    # What decides on the losses: model, text, order, what was found for the variant, and its own options.
    sections = [item.name for item in dataclasses.fields(Config) if item.name not in (*SHARED, "tune", "metatrain")]
    own = {name: dataclasses.asdict(getattr(config, name)) for name in sections}
    made_of = [[run.fingerprint, text, str(order)], own, [each.held for each in prepared]]
    key = fingerprint(json.dumps(made_of, sort_keys=True, default=list))
    path = run.path / chosen.name / FOLDER / f"{reading.stem}.parquet"
    if (found := load_if_whole(path)) is not None and found.protocol.get("made_by") == key:
        say(f"reused: the reading of {reading.label}")
        return found
    say(f"reading {chosen.split} {chosen.articles}: {reading.label}")
    overrides = {"variant": reading.variant.name, "made_by": key}
    request = ScoreRequest(chosen.split, chosen.articles, order, path=path, overrides=overrides, force=True)
    score(run.with_sections(config.memory), request, quiet)
    return read_scores(path)
