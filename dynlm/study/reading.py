"""Readings of a study: what each variant needs is found, then every variant is read. What is there is reused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dynlm.data.articles import source_name
from dynlm.errors import UserError
from dynlm.evaluation.protocol import ArticleOrder, text_fingerprint
from dynlm.evaluation.score import ScoreRequest, score
from dynlm.evaluation.score_file import FOLDER, load_if_whole, read_scores
from dynlm.run.run import Run
from dynlm.runtime.validation import earlier_options
from dynlm.study.cells import Cell
from dynlm.study.options import StudyOptions
from dynlm.study.prepare import Prepared, Step, check_slots, content_of, fingerprint_of, prepare
from dynlm.study.results import Done
from dynlm.study.steps import steps_of
from dynlm.study.variants import Reading, Variant, readings_of


class Planned(NamedTuple):
    """A reading, the run whose model reads, and what was prepared for it."""

    reading: Reading
    run: Run
    prepared: list[Prepared]


class StudyReader:
    """Prepares and reads variants of one text. ``others`` are the runs of variants that name one."""

    def __init__(
        self,
        options: StudyOptions,
        articles: Sequence[int],
        others: Mapping[str, Run],
        say: Callable[[str], None],
        quiet: bool,
    ):
        self._options, self._articles, self._others, self.say, self.quiet = options, articles, others, say, quiet
        self._folder = options.run.path / options.study.name
        self._filled = dict[Path, dict[str, Prepared]]()
        self._read_before = dict[Path, Done]()
        self._surface: Sequence[bytes] = ()

    def prepare(self, cell: Cell, variants: Sequence[Variant]) -> list[Planned]:
        """Find what the readings of ``variants`` need in a cell.

        Raises UserError where two variants need different things in one place, where something was tuned on the
        articles, and, with ``study.tune`` false, for whatever a run does not hold.
        """
        readings = [each for variant in variants for each in readings_of(cell.variant(variant), self._options.study)]
        runs = [self._others.get(each.variant.name, cell.run) for each in readings]
        steps = [steps_of(run, each.variant, each.memory.reset) for each, run in zip(readings, runs, strict=True)]
        planned = list(zip(readings, runs, steps, strict=True))
        check_slots({reading.label: needed for reading, run, needed in planned if run is cell.run})
        return [Planned(reading, run, self._prepare(cell, run, needed)) for reading, run, needed in planned]

    def read(self, cell: Cell, planned: Sequence[Planned]) -> list[Done]:
        """Return the readings with their scores; those that no seed of meta-training changes are read once."""
        if cell.is_first_meta:
            self._read_before.clear()
        return [self._done(cell, each) for each in planned]

    def _prepare(self, cell: Cell, run: Run, steps: Sequence[Step]) -> list[Prepared]:
        filled, tune = self._filled.setdefault(run.path, {}), self._options.study.tune and run is cell.run
        before = {*filled}
        for step in steps if run is not cell.run else ():
            if step.held() is None:
                what = f"it holds no {step.slot.removeprefix('the ')}"
                raise UserError(what, run.path, "have it found there, or leave the variant out")
        say = self.say if cell.is_first else lambda what: self.say(f"{cell.prefix}{what}")
        prepared = prepare(run, steps, tune, filled, say, self.quiet)
        for slot in filled.keys() - before:
            self._refuse_tuned_on(filled[slot])
        return prepared

    def _done(self, cell: Cell, planned: Planned) -> Done:
        (reading, run, prepared), study = planned, self._options.study
        path = cell.folder(self._folder, reading.variant) / FOLDER / f"{reading.stem}.parquet"
        if path in self._read_before:
            return self._read_before[path]
        order = ArticleOrder(reading.order or "in order", study.seed)
        made_by, scores = self._made_by(planned, str(order)), load_if_whole(path)
        if scores is not None and scores.protocol.get("made_by") == made_by:
            self.say(f"{cell.prefix}reused: the reading of {reading.label}")
        else:
            self.say(f"{cell.prefix}reading {study.split} {study.articles}: {reading.label}")
            overrides = {"variant": reading.variant.name, "made_by": made_by}
            request = ScoreRequest(study.split, study.articles, order, path=path, overrides=overrides, force=True)
            score(run.with_sections(reading.memory, reading.variant.model), request, self.quiet)
            scores = read_scores(path)
        self._surface = self._surface or scores.surface  # one copy of the text's bytes
        done = Done(reading, dataclasses.replace(scores, surface=self._surface), prepared)
        if not reading.variant.is_learned:
            self._read_before[path] = done
        return done

    def _made_by(self, planned: Planned, order: str) -> str:
        """Return the fingerprint of what decides on the losses.

        That is the model, the text, the order, the variant's own options, and what was found for it.
        """
        reading, run, prepared = planned
        key = text_fingerprint(run.split(self._options.study.split), self._articles)
        sections = (reading.memory, reading.variant.g)
        own: dict[str, Any] = {each.SECTION: earlier_options(type(each), dataclasses.asdict(each)) for each in sections}
        own |= {"model": model} if (model := reading.variant.model.reading()) else {}
        own |= {"seed": seed} if reading.memory.lora_rank and (seed := run.options.seed) else {}  # of the factors
        return fingerprint_of([[run.fingerprint, key, order], own, [content_of(each.held) for each in prepared]])

    def _refuse_tuned_on(self, prepared: Prepared) -> None:
        """Raise UserError where a run's own rates, perhaps tuned with other options, were tuned on the articles."""
        held, study = prepared.held, self._options.study
        if held.get("corpus") != source_name(self._options.corpus) or held.get("split") != study.split:
            return
        if both := sorted({index + 1 for index in self._articles} & set(held["articles"])):
            what = f"{prepared.slot} were tuned on article {both[0]} of {study.split}, which study.articles"
            do = "report on other articles than rates are tuned on"
            raise UserError(f"{what} {study.articles!r} names", do=do)
