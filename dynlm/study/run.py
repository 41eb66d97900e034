"""A whole study: prepare every variant, read every way, and write the results. Interrupted, it resumes."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles
from dynlm.errors import UserError
from dynlm.evaluation.protocol import text_fingerprint
from dynlm.evaluation.score_file import load_if_whole, scores_of_run
from dynlm.models.options import ModelOptions
from dynlm.run.folder import save_config
from dynlm.run.run import Run
from dynlm.runtime.text import printable
from dynlm.study.bases import Base, bases_of, other_runs
from dynlm.study.cells import Cell
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.pages import write_pages, write_seeds
from dynlm.study.reading import StudyReader
from dynlm.study.results import Results, results_of
from dynlm.study.seeds import CellFigures, Key, cell_figures, over_seeds
from dynlm.study.variants import Variant, meta_seeds_of, seeded_variants, variants_of


class Progress:
    """Prints what is being done, with the seconds since this object was made; nothing when ``quiet``."""

    def __init__(self, quiet: bool):
        self._quiet, self._begin = quiet, time.monotonic()

    def __call__(self, what: str) -> None:
        if not self._quiet:
            print(f"[{time.monotonic() - self._begin:5.0f} s] {printable(what)}", flush=True)


def study(options: StudyOptions, quiet: bool = False, progress: bool = False) -> tuple[Results, list[Path]]:
    """Run the study of ``options`` and write it into its folder in the run; return the figures and the files.

    What was trained, tuned, learned or read with the same options is not done again. The tables of the first seeds are
    written before other seeds are begun. Raises UserError for variants that cannot be, for articles that are missing or
    that rates are tuned on, for runs that do not fit the study's, and, with ``study.tune`` false, for whatever the runs
    do not hold.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a study runs in one process", do="start it without accelerate launch or torchrun")
    chosen, config, say = options.study, options.run_options(), Progress(quiet)
    variants, path = variants_of(options), config.run.path
    if not (path / "model.json").exists() and config.model.MAKER != "dynlm pretrain":
        what = f"no model of kind {config.model.kind} in this run folder"
        raise UserError(what, path, f"make it with `{config.model.MAKER} SOURCE --run.name {config.run.name}` first")
    bases = bases_of(options)
    _check_articles(options)
    if chosen.tune and not bases[0].is_trained:
        say("training the tokenizer and the model (level 1)")
        bases[0].train(not progress)
    run, folder = bases[0].open(), path / chosen.name
    _check_kind(run, config.model)
    others, text = other_runs(run, variants), run.split(chosen.split)
    articles = article_range(chosen.articles, text.articles, "study.articles")
    key = text_fingerprint(text, articles)
    for scored in scores_of_run(folder):
        if (found := load_if_whole(scored)) is not None and found.protocol["text"] != key:
            raise UserError("this folder holds a study of another text", folder, "choose another --study.name")

    reader = StudyReader(options, articles, others, say, not progress)
    cell = Cell(run, bases[0].seed, meta_seeds_of(chosen)[0])
    planned = reader.prepare(cell, variants)
    save_config(folder, options)
    results = results_of(reader.read(cell, planned), chosen)
    say("comparing and drawing")
    written = write_pages(folder, results, options, run.trained.card)
    if len(bases) > 1 or len(meta_seeds_of(chosen)) > 1:
        figures = [cell_figures(results, cell), *_other_cells(cell, bases, variants, reader, chosen)]
        results = dataclasses.replace(results, over_seeds=over_seeds(results, figures))
        written += write_seeds(folder, results, options, run.trained.card, written)
    return results, written


def _other_cells(
    first: Cell, bases: Sequence[Base], variants: Sequence[Variant], reader: StudyReader, chosen: StudyConfig
) -> Iterator[dict[Key, CellFigures]]:
    """Yield the figures in each cell but the ``first``; base models that are not trained yet are trained."""
    seeded, tokenizer = seeded_variants(variants, chosen), first.run.trained.tokenizer.fingerprint
    metas = meta_seeds_of(chosen)
    for base in bases:
        if not base.is_trained:
            reader.say(f"training the base model of seed {base.seed}")
            base.train(reader.quiet)
        run = first.run if base is bases[0] else base.open()
        if run.trained.tokenizer.fingerprint != tokenizer:
            raise UserError("this base model has another tokenizer than the study's", run.path, "remove the folder")
        for meta_seed in metas:
            cell = Cell(run, base.seed, meta_seed, base is bases[0], meta_seed == metas[0])
            if not cell.is_first:
                done = reader.read(cell, reader.prepare(cell, seeded))
                yield cell_figures(results_of(done, chosen.replace(resamples=0)), cell)


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
