"""The constants of a fixed cache, found by search on a trace of one reading.

A cache looks up features and losses of a reading that it does not change. So the rule reads once, what the cache would
have been given is recorded, and the cache's own code runs over that for each setting. Window, inverse temperature and
share are found by the search of the hand-made rules, on their articles.

Legend: N tokens of all articles, F inverse temperatures.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import CACHE_BOUNDS, MemoryOptions
from dynlm.adapt.partners.cache import LOOKED_UP_AT_ONCE, Cache, CacheInput, CacheState, mixture
from dynlm.adapt.rules.registry import Search
from dynlm.data.stream import Stream
from dynlm.errors import UserError
from dynlm.models.scratch import Scratch
from dynlm.run.memory_store import rule_stem
from dynlm.run.opening import command
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import State
from dynlm.runtime.files import exclusive
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.tree import map_tensors
from dynlm.train.options import TuneOptions
from dynlm.train.search import Part, part_tokens
from dynlm.train.tune import enough_to_tune, find_constants, started

_STEPS = {"window": (2000.0, 2.0), "inverse_temperature": (0.5, 1.4), "share": (0.15, 1.5)}
_SEARCHED = {name: Search(*steps, *CACHE_BOUNDS[name]) for name, steps in _STEPS.items()}


@dataclass(frozen=True)
class _Recorder(Cache):
    """In place of a cache: mixes nothing, and records what a cache would be given."""

    recorded: list[CacheInput] = field(default_factory=list)

    def read(self, state: CacheState, segment: CacheInput, scratch: Scratch | None = None) -> tuple[Tensor, CacheState]:
        self.recorded.append(segment._replace(features_BTH=segment.features_BTH.clone(), next_tokens=None))
        return segment.nats_BT, state


def trace_articles(dynamic_model: DynamicModel, stream: Stream) -> list[CacheInput]:
    """Read a stream of one lane and record what a cache would be given of each article."""
    recorder, begins = _Recorder(1, (1.0,), 0.0), list[int]()
    for index, read in enumerate(iter_segments(dataclasses.replace(dynamic_model, cache=recorder), stream)):
        if read.segment.starts_B[0]:
            begins.append(index)
    articles = [recorder.recorded[begin:end] for begin, end in zip(begins, [*begins[1:], None], strict=True)]
    return [map_tensors(lambda *parts: torch.cat(parts, 1), *segments) for segments in articles]


class _Piece(NamedTuple):
    """Tokens of one article, and whether it begins with them."""

    seen: CacheInput
    starts: bool


def cut_trace(articles: Sequence[CacheInput], tokens: int) -> list[list[_Piece]]:
    """Return the trace in parts of at least ``tokens``, but for the last one.

    Within an article pieces end where a lookup of the whole article does, so that nothing depends on ``tokens``.
    """
    parts, filled, length = list[list[_Piece]](), tokens, max(1, tokens // LOOKED_UP_AT_ONCE) * LOOKED_UP_AT_ONCE
    for article in articles:
        for begin in range(0, article.nats_BT.shape[1], length):
            if filled >= tokens:
                parts.append([])
                filled = 0
            piece = map_tensors(lambda tensor, at=slice(begin, begin + length): tensor[:, at], article)
            parts[-1].append(_Piece(piece, begin == 0))
            filled += piece.nats_BT.shape[1]
    return parts


class _Lookups:
    """What a cache finds for each token: (log_p_NF, num_visible_N, the model's nats_N) of part after part.

    ``empty``: each article begins with an empty cache. A part is looked up when it is first asked for.
    """

    def __init__(self, cache: Cache, parts: Sequence[Sequence[_Piece]], empty: bool):
        like = parts[0][0].seen.features_BTH
        self._cache, self._parts, self._empty, self._scratch = cache, parts, empty, Scratch()
        self._state = cache.fresh(1, like.shape[2], like)
        self._starts_1 = torch.ones(1, dtype=torch.bool, device=like.device)
        self._found: list[tuple[Tensor, ...]] = []

    def of_part(self, index: int) -> tuple[Tensor, ...]:
        """Return what is found for the tokens of a part."""
        for part in self._parts[len(self._found) : index + 1]:
            self._found.append(tuple(map(torch.cat, zip(*map(self._look, part), strict=True))))
        return self._found[index]

    def _look(self, piece: _Piece) -> tuple[Tensor, ...]:
        if piece.starts:
            self._state = self._cache.begin_articles(self._state, self._starts_1, self._empty)
        lookup, self._state = self._cache.look(self._state, piece.seen, self._scratch)
        return lookup.log_p_BTF[0], lookup.num_visible_BT[0], piece.seen.nats_BT[0]


class _CacheReading:
    """The trace read with a cache of one share; what is looked up is not saved with a search, but looked up again."""

    def __init__(self, lookups: _Lookups, share: float):
        self._lookups, self._share, self._read = lookups, share, 0

    def read_part(self) -> Part:
        found = self._lookups.of_part(self._read)
        nats_N = mixture(found[0].new_tensor([1 - self._share, self._share]).log(), *found)
        self._read += 1
        return Part(float(nats_N.double().sum()), len(nats_N))

    def state_dict(self) -> State:
        return State({}, {"read": self._read})

    def load_state_dict(self, state: State) -> None:
        self._read = int(state.values["read"])


def tune_cache(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Tune a fixed cache beside ``memory.rule``, whose constants stay as they are, and keep it in the run.

    Resumes with what an interrupted search has measured, once the articles were read again. Returns window, inverse
    temperature and share, their nats per token and the rule's alone, and the settings that were tried.
    Raises UserError where the rule cannot be opened, where another kind of cache is asked for, and for less than
    ``tune.fewest_tokens`` to read; Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    memory, options = run.section(MemoryOptions), run.section(TuneOptions)
    if memory.cache != "fixed":
        learned = memory.replace(cache="learned")
        raise UserError("a learned cache is not tuned by hand", do=f"run `{command('metatrain', run.path, learned)}`")
    run = run.writable()
    dynamic_model, stem = open_without_cache(run), f"tune-cache-{rule_stem(memory)}-{memory.policy}"
    with exclusive(run.store.path(stem), "the search for this cache's constants"):
        stream, begun = enough_to_tune(run, lanes=1), time.monotonic()
        articles = trace_articles(dynamic_model, stream)
        nats_N = torch.cat([article.nats_BT[0] for article in articles])
        seconds = time.monotonic() - begun

        parts = cut_trace(articles, part_tokens(len(nats_N)))

        @functools.lru_cache(maxsize=2)  # Shares are searched with one lookup; more than two settings never go on.
        def lookups(window: int, inverse_temperature: float) -> _Lookups:
            return _Lookups(Cache(window, (inverse_temperature,), 0.0), parts, memory.reset == "article")

        def read_with(values: Mapping[str, float]) -> _CacheReading:
            return _CacheReading(lookups(round(values["window"]), values["inverse_temperature"]), values["share"])

        losses = fingerprint(nats_N.cpu().numpy().tobytes())
        checkpoints = run.checkpoints(stem, memory, options, **{"the losses without a cache": losses})
        tuned = find_constants(run, stream, started(_SEARCHED, memory.cache_constants()), read_with, checkpoints, quiet)
        tuned |= {
            "window": round(tuned["window"]),
            "seconds": round(tuned["seconds"] + seconds, 1),
            "without_cache_nats_per_token": mean_loss(nats_N),
            "tuned_on": [run.record("cache", "tuned", options.split, stream.articles)],
        }
        run.store.save_fixed_cache(memory, tuned)
        checkpoints.drop()
    return {"rule": memory.rule, "reset": memory.policy, "cache": "fixed", **tuned}


def open_without_cache(run: Run) -> DynamicModel:
    """Return the run's model without its cache. Raises UserError in several processes."""
    if run.processes.world > 1:
        raise UserError(f"{run.processes.world} processes cannot share a cache", do="start one process")
    return run.dynamic_model(run.section(MemoryOptions).replace(cache="none"))


def mean_loss(nats_N: Tensor) -> float:
    """Return the mean of many tokens' nats, summed in float64."""
    return float(nats_N.double().sum()) / len(nats_N)
