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
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.partners.cache import Cache, CacheInput, CacheState, mixture
from dynlm.adapt.rules.registry import Search
from dynlm.data.stream import Stream
from dynlm.errors import UserError
from dynlm.models.scratch import Scratch
from dynlm.run.memory_store import CACHE_BOUNDS, given_constants, rule_stem
from dynlm.run.opening import command
from dynlm.run.run import Run
from dynlm.runtime.files import exclusive
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.tree import map_tensors
from dynlm.train.options import TuneOptions
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


def look_up(cache: Cache, articles: Sequence[CacheInput], empty: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (log_p_NF, num_visible_N, the model's nats_N) of articles in turn; ``empty``: each with an empty cache."""
    like, scratch = articles[0].features_BTH, Scratch()
    state = cache.fresh(1, like.shape[2], like)
    starts_1 = torch.ones(1, dtype=torch.bool, device=like.device)
    found = []
    for article in articles:
        state = cache.begin_articles(state, starts_1, empty)
        lookup, state = cache.look(state, article, scratch)
        found.append((lookup.log_p_BTF[0], lookup.num_visible_BT[0], article.nats_BT[0]))
    log_p_NF, num_visible_N, nats_N = (torch.cat(parts) for parts in zip(*found, strict=True))
    return log_p_NF, num_visible_N, nats_N


def tune_cache(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Tune a fixed cache beside ``memory.rule``, whose constants stay as they are, and keep it in the run.

    Resumes with the settings that an interrupted search has measured, once the articles were read again. Returns
    window, inverse temperature and share, their nats per token and the rule's alone, and how many settings were tried.
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

        @functools.lru_cache(maxsize=1)  # Shares are searched with one lookup; others would only take memory.
        def lookup(window: int, inverse_temperature: float) -> tuple[Tensor, Tensor, Tensor]:
            return look_up(Cache(window, (inverse_temperature,), 0.0), articles, memory.reset == "article")

        def measure(values: Mapping[str, float]) -> float:
            values, share = {**values, "window": round(values["window"])}, values["share"]
            found = lookup(int(values["window"]), values["inverse_temperature"])
            return mean_of(mixture(nats_N.new_tensor([1 - share, share]).log(), *found))

        losses = fingerprint(nats_N.cpu().numpy().tobytes())
        checkpoints = run.checkpoints(stem, memory, options, **{"the losses without a cache": losses})
        tuned = find_constants(run, stream, started(_SEARCHED, given_constants(memory)), measure, checkpoints, quiet)
        tuned |= {
            "window": round(tuned["window"]),
            "seconds": round(tuned["seconds"] + seconds, 1),
            "without_cache_nats_per_token": mean_of(nats_N),
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


def mean_of(nats_N: Tensor) -> float:
    """Return the mean of many tokens' nats, summed in float64."""
    return float(nats_N.double().sum()) / len(nats_N)
