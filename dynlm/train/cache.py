"""The constants of a fixed cache, found by search on a trace of one reading.

A cache looks up features and losses of a reading that it does not change. So the rule reads once, what the cache would
have been given is recorded, and the cache's own code runs over that for each setting. Window, inverse temperature and
share are found by the search of the hand-made rules, on their articles.

Legend: one lane, T tokens of an article, H width of the features, N tokens of all articles, F inverse temperatures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import LARGEST_WINDOW, MAX_INVERSE, MIN_INVERSE
from dynlm.adapt.partners.cache import Cache, CacheInput, CacheState, mixture
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.registry import Search
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.stream import Stream
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.models.scratch import Scratch
from dynlm.run.cache_store import command, rule_stem, save_fixed
from dynlm.run.folder import TrainedModel, load_model, log_line, memory_path
from dynlm.run.rule_store import open_reader
from dynlm.run.tuned_on import record
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.hashing import fingerprint
from dynlm.train.config import Config
from dynlm.train.tune import coordinate_search, enough_to_tune, search_checkpoints

_SEARCHED = {"window": Search(2000.0, 2.0), "flatness": Search(0.5, 1.4), "share": Search(0.15, 1.5)}
_LARGEST_SHARE = 0.99


class ArticleTrace(NamedTuple):
    """An article as a reading in one lane left it: all that a fixed cache is given of it."""

    features_1TH: Tensor
    targets_1T: Tensor
    mask_1T: Tensor
    nats_1T: Tensor


@dataclass(frozen=True)
class _Recorder(Cache):
    """In place of a cache: mixes nothing, and records what a cache would be given."""

    recorded: list[ArticleTrace] = field(default_factory=list)

    def read(self, state: CacheState, segment: CacheInput, scratch: Scratch | None = None) -> tuple[Tensor, CacheState]:
        features_BTH, targets_BT, mask_BT, nats_BT, _ = segment
        self.recorded.append(ArticleTrace(features_BTH.clone(), targets_BT, mask_BT, nats_BT))
        return nats_BT, state


def trace_articles(reader: Reader, stream: Stream) -> list[ArticleTrace]:
    """Read a stream of one lane and record what a cache would be given."""
    recorder = _Recorder(1, (1.0,), 0.0)
    reading = iter_segments(dataclasses.replace(reader, cache=recorder), stream)
    starts = [bool(read.segment.starts_B[0]) for read in reading]
    begins = [index for index, starts_here in enumerate(starts) if starts_here]
    articles = [recorder.recorded[begin:end] for begin, end in zip(begins, [*begins[1:], len(starts)], strict=True)]
    return [ArticleTrace(*(torch.cat(parts, 1) for parts in zip(*segments, strict=True))) for segments in articles]


def look_up(cache: Cache, articles: Sequence[ArticleTrace], empty: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return (log_p_NF, sight_N, the model's nats_N) of articles read in turn; ``empty``: each with an empty cache."""
    like, scratch = articles[0].features_1TH, Scratch()
    state = cache.fresh(1, like.shape[2], like)
    starts_1 = torch.ones(1, dtype=torch.bool, device=like.device)
    found = []
    for article in articles:
        state = cache.begin_articles(state, starts_1, empty)
        seen, state = cache.look(state, CacheInput(*article), scratch)
        found.append((seen.log_p_BTF[0], seen.num_visible_BT[0], article.nats_1T[0]))
    log_p, sight, nats = zip(*found, strict=True)
    return torch.cat(log_p), torch.cat(sight), torch.cat(nats)


def tune_cache(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Tune a fixed cache beside ``config.memory.rule``, whose constants stay as they are, and keep it in the run.

    Resumes with the settings that an interrupted search has measured, once the articles were read again. Returns
    window, flatness and share, their nats per token and the rule's alone, and how many settings were tried. Raises
    UserError where the rule cannot be opened, where another kind of cache is asked for, and for less than
    ``tune.fewest_tokens`` to read; Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    memory = config.memory
    if memory.cache != "fixed":
        learned = memory.replace(cache="learned")
        raise UserError("a learned cache is not tuned by hand", do=f"run `{command('metatrain', folder, learned)}`")
    trained, reader = open_single(folder, config)
    with exclusive(memory_path(folder, f"tune-{_stem(config)}"), "the search for this cache's constants"):
        return _tune_cache(folder, config, trained, reader, quiet)


def _tune_cache(folder: Path, config: Config, trained: TrainedModel, reader: Reader, quiet: bool) -> dict[str, Any]:
    memory = config.memory
    split = tokenise(iter_articles(config.corpus, config.tune.split), trained.tokenizer, config.corpus.num_proc)
    stream = enough_to_tune(split, one_lane(config))
    articles = trace_articles(reader, stream)
    found: dict[tuple[int, float], tuple[Tensor, Tensor, Tensor]] = {}
    bar = tqdm(desc=f"tune {memory.rule} + cache", unit="setting", disable=quiet)

    def nats_of(values: dict[str, float]) -> float:
        share, lookup = values["share"], (round(values["window"]), values["flatness"])
        window_fits, flatness_fits = (
            1 <= lookup[0] <= LARGEST_WINDOW,
            MIN_INVERSE <= lookup[1] <= MAX_INVERSE,
        )
        if share > _LARGEST_SHARE or not (window_fits and flatness_fits):
            return math.inf
        if lookup not in found:
            found.clear()  # Shares are searched with one lookup; others would only take memory.
            found[lookup] = look_up(Cache(lookup[0], (lookup[1],), 0.0), articles, memory.reset == "article")
        log_p_NF, sight_N, nats_N = found[lookup]
        nats = mean_of(mixture(nats_N.new_tensor([1 - share, share]).log(), log_p_NF, sight_N, nats_N))
        bar.update()
        bar.set_postfix({"nats": f"{nats:.4f}", **{name: f"{value:.4g}" for name, value in values.items()}})
        log_line(folder, event="tune cache", rule=memory.rule, reset=memory.reset, nats=nats, **values)
        return nats

    given: dict[str, float | None] = {
        "window": memory.cache_window,
        "flatness": memory.cache_inverse_temperature[0] if memory.cache_inverse_temperature else None,
        "share": memory.cache_share,
    }
    searched = {n: s if given[n] is None else s._replace(start=float(given[n] or 0)) for n, s in _SEARCHED.items()}
    nats_1N = torch.cat([article.nats_1T[0] for article in articles])
    checkpoints = search_checkpoints(
        folder,
        f"tune-{_stem(config)}",
        config,
        {
            "the model": trained.fingerprint,
            "the text": split.fingerprint,
            "the reading": fingerprint(nats_1N.cpu().numpy().tobytes()),
        },
    )
    best, nats, settings = coordinate_search(nats_of, searched, config.tune.rounds, checkpoints)
    bar.close()
    tuned: dict[str, Any] = {
        **best,
        "window": round(best["window"]),
        "nats_per_token": nats,
        "without_cache_nats_per_token": mean_of(nats_1N),
        "settings": settings,
        "corpus": source_name(config.corpus),
        "split": config.tune.split,
        "tokens": len(nats_1N),
        "articles": sorted(int(index) + 1 for index in stream.order),
        "segment": memory.segment,
        "tuned_on": [record("cache", "tuned", config.corpus, config.tune.split, split, stream.order)],
    }
    save_fixed(folder, memory, tuned, trained)
    checkpoints.drop()
    return {"rule": memory.rule, "reset": memory.reset, "cache": "fixed", **tuned}


def open_single(folder: Path, config: Config) -> tuple[TrainedModel, Reader]:
    """Return the run's model, and a reader by the rule without a cache. Raises UserError in several processes."""
    processes = Processes.start(config.run.cpu)
    if processes.world > 1:
        raise UserError(f"{processes.world} processes cannot share a cache", do="start one process")
    trained = load_model(folder, processes.device)
    return trained, open_reader(folder, trained, config.memory.replace(cache="none"))


def one_lane(config: Config) -> Config:
    """Return the options by which the tuning articles are read one after the other, whatever the lanes."""
    return dataclasses.replace(config, memory=config.memory.replace(lanes=1))


def mean_of(nats_N: Tensor) -> float:
    """Return the mean of many tokens' nats, summed in float64."""
    return float(nats_N.double().sum()) / len(nats_N)


def _stem(config: Config) -> str:
    return f"cache-{rule_stem(config.memory)}-{config.memory.reset}"
