"""The constants of hand-made rules, tuned by reading articles that no figure is reported on.

A coordinate search over factors (``search``): each of a rule's options is moved up or down by its factor for as long as
the nats per token of the articles fall. Every hand-made rule and fixed cache is tuned by this search on the same
articles; the rule g and gates are learned (``metatrain``, ``gate``).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from tqdm import tqdm

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments, mean_nats
from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.registry import RULES, SEGMENTS, Search, StatisticsKind, tuned_rules
from dynlm.adapt.state_tensors import as_tensors, from_tensors
from dynlm.adapt.statistics import batch_statistics, gradient_statistics
from dynlm.data.article_range import article_range
from dynlm.data.articles import source_name
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream, StreamPosition, read_as_one, read_side_by_side
from dynlm.errors import UserError
from dynlm.run.opening import build_dynamic_model
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpoints, State
from dynlm.runtime.files import exclusive
from dynlm.runtime.tensors import params_fingerprint
from dynlm.train.options import TuneOptions
from dynlm.train.search import Opener, Part, Race, Tried, coordinate_search, part_tokens


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
        if (held := tokens_of(stream)) >= options.fewest_tokens:
            return stream
    raise UserError(
        f"the tuning articles have {held:,} tokens, and rates found on less than {options.fewest_tokens:,} "
        "may make reading worse",
        do="name more by --tune.articles, give more text, or set --tune.fewest_tokens lower",
    )


def tokens_of(stream: Stream) -> int:
    """Return the tokens of one pass over a stream's articles."""
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

    Resumes where an interrupted search stopped reading. Returns the constants, their nats per token and level 1's, the
    settings that were tried with the tokens read of each, and in how many seconds. Raises UserError for a rule that
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

        def read_with(values: Mapping[str, float]) -> RuleReading:
            rule = build(dynamic, {**constants, **values}, statistics)
            return RuleReading(build_dynamic_model(trained, memory, rule), stream)

        # The name of a learned rule decides nothing here.
        checkpoints = run.checkpoints(stem, memory.replace(g="meta"), options, **fingerprints)
        tuned = find_constants(run, stream, started(kind.searches(), constants), read_with, checkpoints, quiet)
        tuned |= {name: value for name, value in constants.items() if name not in kind.searched}
        tuned |= {
            "level_1_nats_per_token": mean_nats(build_dynamic_model(trained, memory, LEVEL_1), stream),
            "tuned_on": [run.record("rates", "tuned", options.split, stream.articles)],
        }
        run.store.save_tuned(memory.rule, memory.policy, tuned, memory.targets)
        if run.processes.is_main:
            checkpoints.drop()
    return {"rule": memory.rule, "reset": memory.policy, **tuned}


def started(searched: Mapping[str, Search], given: Mapping[str, Any]) -> dict[str, Search]:
    """Return the searches, each from the value that is ``given`` where that is not None."""
    starts = {name: each.start if given[name] is None else float(given[name]) for name, each in searched.items()}
    return {name: each._replace(start=starts[name]) for name, each in searched.items()}


class RuleReading:
    """The tuning articles read with one setting of a rule's constants."""

    def __init__(self, dynamic_model: DynamicModel, stream: Stream):
        self._dynamic_model, self._stream, self._part = dynamic_model, stream, part_tokens(tokens_of(stream))
        self._memory, self._position = dynamic_model.fresh_memory(stream.local_lanes), stream.begin()
        self._segments = iter_segments(dynamic_model, stream, self._memory, self._position)

    def read_part(self) -> Part:
        """Read whole segments of all lanes until a part is full."""
        nats, begun = [], self._position.tokens
        for read in self._segments:
            nats.append(read.nats_BT[torch.from_numpy(read.segment.mask_BT)])
            self._memory, self._position = read.memory, read.position
            if self._position.tokens - begun >= self._part:
                break
        return Part(float(torch.cat(nats).double().sum()), self._position.tokens - begun)

    def state_dict(self) -> State:
        tensors = as_tensors(self._memory, self._dynamic_model, self._stream.local_lanes)
        return State(tensors, self._position.to_dict())

    def load_state_dict(self, state: State) -> None:
        tensors = {name: tensor.to(self._dynamic_model.device) for name, tensor in state.tensors.items()}
        self._memory = from_tensors(tensors, self._dynamic_model, self._stream.local_lanes)
        self._position = StreamPosition.from_dict(state.values)
        self._segments = iter_segments(self._dynamic_model, self._stream, self._memory, self._position)


def find_constants(
    run: Run, stream: Stream, searched: Mapping[str, Search], read_with: Opener, checkpoints: Checkpoints, quiet: bool
) -> dict[str, Any]:
    """Return the setting of the lowest nats on ``stream``, and how it was found; each one is logged.

    ``read_with`` opens the reading of all of the stream's tokens with a setting.
    """
    memory, options, tokens = run.section(MemoryOptions), run.section(TuneOptions), tokens_of(stream)
    event = "tune" if memory.cache == "none" else "tune cache"
    with tqdm(desc=f"{event} {memory.rule}", unit="setting", disable=quiet) as bar:

        def log(tried: Tried) -> None:
            bar.update()
            shown = {name: f"{value:.4g}" for name, value in tried.constants.items()}
            bar.set_postfix({"nats": f"{tried.nats_per_token:.4f}", "tokens": f"{tried.tokens:,}", **shown})
            found = {"nats": tried.nats_per_token, "tokens": tried.tokens, **tried.constants}
            run.log(event=event, rule=memory.rule, reset=memory.reset, **found)

        race = Race(read_with, tokens, options.search, log)
        saved_in = checkpoints if run.processes.is_main else None
        found = coordinate_search(race, searched, options.rounds, saved_in, run.options.checkpoint_seconds)
    return {
        **found.constants,
        "nats_per_token": found.value,
        "settings": len(found.tried),
        "seconds": round(found.seconds, 1),
        "parameters": len(searched),
        "tokens": tokens,
        "tokens_read": found.tokens,
        "search": options.search,
        "tried": [each.to_dict() for each in found.tried],
        "corpus": source_name(run.section(CorpusOptions)),
        "split": options.split,
        "articles": sorted(int(index) + 1 for index in stream.articles),
        "segment": memory.segment,
        **run.trained.reading_entry,
    }
