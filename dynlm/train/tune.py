"""The constants of hand-made rules, tuned by reading articles that no figure is reported on.

A coordinate search over factors: each of a rule's options is moved up or down by its factor for as long as the nats per
token of the articles fall. Every hand-made rule and fixed cache is tuned by this search on the same tokens; the rule g
and gates are learned (``metatrain``, ``gate``).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tqdm import tqdm

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import RULES, SEGMENTS, Search, StatisticsKind, tuned_rules
from dynlm.adapt.statistics import batch_statistics, gradient_statistics
from dynlm.data.article_range import article_range
from dynlm.data.articles import source_name
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream, read_as_one, read_side_by_side
from dynlm.errors import UserError
from dynlm.run.opening import build_dynamic_model
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints, State
from dynlm.runtime.files import exclusive
from dynlm.runtime.tensors import params_fingerprint
from dynlm.train.options import TuneOptions

Measure = Callable[[Mapping[str, float]], float]
"""Returns the nats per token with a setting of constants."""
_NOTICEABLE = 2e-4
"""Nats per token: between settings that differ by less the search stays where it is."""


def tuning_stream(run: Run, tokens: int, lanes: int | None = None) -> Stream:
    """Return the articles that ``tune.articles`` names: all (``tokens`` 0), or evenly spaced ones of about ``tokens``.

    They are read side by side in ``lanes``, by default those of the memory, or as one text without
    ``memory.article_boundaries``.
    """
    memory, options = run.section(MemoryOptions), run.section(TuneOptions)
    split = run.split(options.split)
    named = article_range(options.articles, split.articles, "tune.articles")
    held, count = sum(len(split.article(index)) for index in named), len(named)
    if tokens and held > tokens:
        count = max(1, round(count * tokens / held))
    kept = [named[index * len(named) // count] for index in range(count)]
    if not memory.article_boundaries:
        return read_as_one(split, memory.segment, kept)
    return read_side_by_side(split, memory.segment, kept, memory.lanes if lanes is None else lanes)


def enough_to_tune(run: Run, lanes: int | None = None) -> Stream:
    """Return the articles to tune on: ``tune.tokens`` of those that are named, or all where these are too few.

    Raises UserError where all of them have less than ``tune.fewest_tokens``.
    """
    options = run.section(TuneOptions)
    for tokens in (options.tokens, 0):
        stream = tuning_stream(run, tokens, lanes)
        if (held := _tokens_of(stream)) >= options.fewest_tokens:
            return stream
    raise UserError(
        f"the tuning articles have {held:,} tokens, and rates found on less than {options.fewest_tokens:,} "
        "may make reading worse",
        do="name more by --tune.articles, give more text, or set --tune.fewest_tokens lower",
    )


def _tokens_of(stream: Stream) -> int:
    return sum(len(stream.split.article(index)) for index in stream.order)


def ensure_statistics(run: Run, kind: StatisticsKind = SEGMENTS) -> Statistics:
    """Return the run's R over all its tensors, computed on training articles if it was not yet.

    Raises UserError where ``kind`` asks for larger batches than the text has.
    """
    if (stored := run.store.load_statistics(kind)) is not None:
        return stored[0]
    tokens, segment = run.section(TuneOptions).statistics_tokens, run.section(MemoryOptions).segment
    train, begun = run.split("train"), time.monotonic()
    level_1 = build_dynamic_model(run.trained, StepOptions(rule="none", capture=False), LEVEL_1)
    if kind.segment is None:
        stream = Stream(train, 1, segment, range(train.articles), seed=run.options.seed)
        statistics = gradient_statistics(level_1, stream, tokens)
    else:
        statistics = batch_statistics(level_1, train, kind, tokens)
    run.store.save_statistics(statistics, tokens, kind, round(time.monotonic() - begun, 1))
    return statistics


def tune(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Tune ``memory.rule`` for ``memory.reset``, by the run's options, and keep the result in the run.

    Resumes with the settings that an interrupted search has measured. Returns the constants, their nats per token and
    level 1's, how many settings were read, on how many tokens and in how many seconds. Raises UserError for a rule that
    has nothing to tune by hand, for less than ``tune.fewest_tokens`` to read, and where another process tunes the same;
    Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    run = run.writable()
    memory, options, trained = run.section(MemoryOptions), run.section(TuneOptions), run.trained
    kind, stem = RULES[memory.rule], f"tune-{memory.rule}-{memory.policy}"
    build = kind.build
    if build is None or not kind.searched:
        raise UserError(f"memory.rule {memory.rule!r} is not tuned by hand", do=f"choose {', '.join(tuned_rules())}")
    with exclusive(run.store.path(stem), f"the search for rates of {memory.rule}"):
        stream = enough_to_tune(run)
        dynamic, constants, statistics = trained.model.dynamic_tensors(memory.targets), kind.constants(memory), None
        fingerprints = {"the text": stream.split.fingerprint}
        if (needed := kind.statistics_for(memory)) is not None:
            statistics = ensure_statistics(run, needed).of(dynamic)
            fingerprints["the statistics R"] = params_fingerprint(statistics.rms)

        def measure(values: Mapping[str, float]) -> float:
            rule = build(dynamic, {**constants, **values}, statistics)
            return mean_nats(build_dynamic_model(trained, memory, rule), stream)

        # The name of a learned rule decides nothing here.
        checkpoints = run.checkpoints(stem, memory.replace(g="meta"), options, **fingerprints)
        tuned = find_constants(run, stream, started(kind.searches(), constants), measure, checkpoints, quiet)
        tuned |= {name: value for name, value in constants.items() if name not in kind.searched}
        tuned |= {
            "level_1_nats_per_token": mean_nats(build_dynamic_model(trained, memory, LEVEL_1), stream),
            "tuned_on": [run.record("rates", "tuned", options.split, stream.articles)],
        }
        run.store.save_tuned(memory.rule, memory.policy, tuned)
        if run.processes.is_main:
            checkpoints.drop()
    return {"rule": memory.rule, "reset": memory.policy, **tuned}


def started(searched: Mapping[str, Search], given: Mapping[str, Any]) -> dict[str, Search]:
    """Return the searches, each from the value that is ``given`` where that is not None."""
    starts = {name: each.start if given[name] is None else float(given[name]) for name, each in searched.items()}
    return {name: each._replace(start=starts[name]) for name, each in searched.items()}


def find_constants(
    run: Run, stream: Stream, searched: Mapping[str, Search], measure: Measure, checkpoints: Checkpoints, quiet: bool
) -> dict[str, Any]:
    """Return the setting of the lowest ``measure`` on ``stream``, and how it was found; each one is logged."""
    memory, options = run.section(MemoryOptions), run.section(TuneOptions)
    event = "tune" if memory.cache == "none" else "tune cache"
    with tqdm(desc=f"{event} {memory.rule}", unit="setting", disable=quiet) as bar:

        def logged(values: Mapping[str, float]) -> float:
            nats = measure(values)
            bar.update()
            bar.set_postfix({"nats": f"{nats:.4f}", **{name: f"{value:.4g}" for name, value in values.items()}})
            run.log(event=event, rule=memory.rule, reset=memory.reset, nats=nats, **values)
            return nats

        saved_in = checkpoints if run.processes.is_main else None
        found = coordinate_search(logged, searched, options.rounds, saved_in)
    return {
        **found.constants,
        "nats_per_token": found.value,
        "settings": found.settings,
        "seconds": round(found.seconds, 1),
        "parameters": len(searched),
        "tokens": _tokens_of(stream),
        "corpus": source_name(run.section(CorpusOptions)),
        "split": options.split,
        "articles": sorted(int(index) + 1 for index in stream.articles),
        "segment": memory.segment,
        **run.trained.reading_entry,
    }


class Found(NamedTuple):
    """The setting of a search with the lowest value, how many settings were measured, and in how many seconds."""

    constants: dict[str, float]
    value: float
    settings: int
    seconds: float


class _Measured:
    """The settings that a search has measured and their values, infinite where not finite, in how many seconds."""

    def __init__(self, measure: Measure):
        self._measure = measure
        self.values, self.seconds = dict[tuple[float, ...], float](), 0.0

    def value_of(self, setting: Mapping[str, float]) -> float:
        """Return the value of a setting, measured once."""
        key = tuple(setting.values())
        if key not in self.values:
            begun = time.monotonic()
            value = self._measure(setting)
            self.seconds += time.monotonic() - begun
            self.values[key] = value if math.isfinite(value) else math.inf
        return self.values[key]

    def state_dict(self) -> State:
        return State({}, {"measured": list(self.values.items()), "seconds": self.seconds})

    def load_state_dict(self, state: State) -> None:
        self.values.update({tuple(setting): float(value) for setting, value in state.values["measured"]})
        self.seconds = float(state.values.get("seconds", 0.0))  # Earlier versions did not keep them.


def coordinate_search(
    measure: Measure, searched: Mapping[str, Search], rounds: int, checkpoints: Checkpoints | None = None
) -> Found:
    """Return the setting of the lowest ``measure`` that steps by factors find, within the bounds of the searches.

    Non-finite values are treated as infinite. Every setting that was measured is saved in ``checkpoints``, and not
    measured again by the same search. Raises UserError where no setting that was tried is finite.
    """
    measured = _Measured(measure)
    with Checkpointer(checkpoints, measured) as checkpointer:
        checkpointer.resume()

        def value_of(setting: dict[str, float]) -> float:
            before = len(measured.values)
            value = measured.value_of(setting)
            if len(measured.values) > before:
                checkpointer.after_step(len(measured.values))
            return value

        best = {name: each.start for name, each in searched.items()}
        lowest = value_of(best)
        for _, (name, each) in itertools.product(range(rounds), searched.items()):
            for factor in (each.factor, 1 / each.factor):
                before = lowest
                while True:
                    trial = {**best, name: _step(best[name], factor, each)}
                    value = value_of(trial)
                    if not value < lowest - _NOTICEABLE:
                        break
                    best, lowest = trial, value
                if lowest < before:
                    break
    if not math.isfinite(lowest):
        tried = ", ".join(f"{name} {value:g}" for name, value in best.items())
        raise UserError(f"no setting near {tried} gives finite losses", do="start from a lower rate")
    return Found(best, lowest, len(measured.values), measured.seconds)


def _step(value: float, factor: float, within: Search) -> float:
    """Return the next value of a search; rounding keeps a step up and one down on the same grid."""
    return min(max(float(f"{value * factor:.4g}"), within.low), within.high)
