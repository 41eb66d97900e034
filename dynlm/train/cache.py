"""The cache's constants: a fixed cache's by search, a gate's by gradients, each on a trace of one reading.

What a cache looks up are the features and losses of a reading that it does not change. So the rule reads once, what
the cache would have seen is kept, and the cache's own code goes over that for each setting. The fixed cache's window,
flatness and share are found by the hand-made rules' search, on their articles. The gate is trained on articles that
the LSTM was not trained on; of its Polyak averages after each pass the one that reads the tuning articles best is kept.

Legend: N tokens, K pieces of evidence, F flatnesses; one lane, T tokens of an article, H width of the features.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import LARGEST_FLATNESS, LARGEST_WINDOW, SMALLEST_FLATNESS
from dynlm.adapt.partners.cache import Cache, CacheState, NextTokenDistribution, mixture
from dynlm.adapt.partners.cache_gate import Gate, initial_gate, log_shares
from dynlm.adapt.reader import Reader
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.stream import Stream
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.models.lstm.model import Params
from dynlm.models.scratch import Scratch
from dynlm.run.cache_store import command, load_fixed, rule_stem, save_fixed, save_gated
from dynlm.run.folder import TrainedModel, load_model, log_line, memory_path
from dynlm.run.rule_store import open_reader
from dynlm.run.tuned_on import record, records_of
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.train.config import Config
from dynlm.train.tune import coordinate_search, enough_to_tune, tuning_stream

_START = {"window": 2000.0, "flatness": 0.5, "share": 0.15}
_LARGEST_SHARE = 0.99
# A gated cache has the tuned flatness, a flatter one and a steeper one.
_FLATNESSES = (0.5, 1.0, 2.0)
_OF_THE_TUNED = 0.9
_HIDDEN = 16
_BATCH = 512
_RATE = 3e-3
_AVERAGE = 0.998
_PATIENCE = 6
# Nats that the passes of the patience have to gain; gates of separable evidence go on by ever smaller steps.
_NOTICEABLE = 1e-4
_MOST_PASSES = 2000


class ReadArticle(NamedTuple):
    """An article as a reading in one lane left it: all that a fixed cache sees of it."""

    features_1TH: Tensor
    targets_1T: Tensor
    mask_1T: Tensor
    nats_1T: Tensor


class Gathered(NamedTuple):
    """What a gate sees of N tokens and is judged by: evidence, log p by each flatness, pairs in sight, model's nats."""

    evidence_NK: Tensor
    log_p_NF: Tensor
    sight_N: Tensor
    nats_N: Tensor


@dataclass(frozen=True)
class _KeepsFeatures(Cache):
    """In place of a cache: mixes nothing, and keeps what a cache would be shown."""

    kept: list[ReadArticle] = field(default_factory=list)

    def read(
        self,
        state: CacheState,
        features_BTH: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor,
        nats_BT: Tensor,
        told: NextTokenDistribution | None = None,
        scratch: Scratch | None = None,
    ) -> tuple[Tensor, CacheState]:
        self.kept.append(ReadArticle(features_BTH.clone(), targets_BT, mask_BT, nats_BT))
        return nats_BT, state


@dataclass(frozen=True)
class _KeepsEvidence(Cache):
    """Looks as a gated cache does, mixes nothing, and keeps what was seen."""

    kept: list[Gathered] = field(default_factory=list)

    def read(
        self,
        state: CacheState,
        features_BTH: Tensor,
        targets_BT: Tensor,
        mask_BT: Tensor,
        nats_BT: Tensor,
        told: NextTokenDistribution | None = None,
        scratch: Scratch | None = None,
    ) -> tuple[Tensor, CacheState]:
        seen, state = self.look(state, features_BTH, targets_BT, mask_BT, nats_BT, told, scratch)
        assert seen.evidence_BTK is not None
        each = (seen.evidence_BTK, seen.log_p_BTF, seen.sight_BT, nats_BT)
        self.kept.append(Gathered(*(tensor[mask_BT > 0] for tensor in each)))
        return nats_BT, state


def read_articles(reader: Reader, stream: Stream) -> list[ReadArticle]:
    """Read a stream of one lane, and keep what a cache would have seen."""
    cache = _KeepsFeatures(1, (1.0,), 0.0)
    starts = [
        bool(read.segment.starts_B[0]) for read in iter_segments(dataclasses.replace(reader, cache=cache), stream)
    ]
    begins = [place for place, starts_here in enumerate(starts) if starts_here]
    segments = [cache.kept[begin:end] for begin, end in zip(begins, [*begins[1:], len(starts)], strict=True)]
    return [ReadArticle(*(torch.cat(parts, 1) for parts in zip(*article, strict=True))) for article in segments]


def looked_at(cache: Cache, articles: Sequence[ReadArticle], empty: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(log_p_NF, sight_N, the model's nats_N) of articles read one after the other; ``empty``: each by itself."""
    like, scratch = articles[0].features_1TH, Scratch()
    state = cache.fresh(1, like.shape[2], like)
    starts_1 = torch.ones(1, dtype=torch.bool, device=like.device)
    found = []
    for article in articles:
        state = cache.begin_articles(state, starts_1, empty)
        seen, state = cache.look(state, *article, scratch=scratch)
        found.append((seen.log_p_BTF[0], seen.sight_BT[0], article.nats_1T[0]))
    log_p, sight, nats = zip(*found, strict=True)
    return torch.cat(log_p), torch.cat(sight), torch.cat(nats)


def tune_cache(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Tune a fixed cache beside ``config.memory.rule``, whose rates stay as they are, and keep it in the run.

    Returns window, flatness and share, their nats per token and the rule's alone, and how many settings were tried.
    Raises UserError where the rule cannot be opened, where another kind of cache is asked for, and for less than
    ``tune.fewest_tokens`` to read.
    """
    memory = config.memory
    if memory.cache != "fixed":
        learned = dataclasses.replace(memory, cache="learned")
        raise UserError("a learned cache is not tuned by hand", do=f"run `{command('metatrain', folder, learned)}`")
    trained, reader = _open(folder, config)
    split = tokenise(iter_articles(config.corpus, config.tune.split), trained.tokenizer, config.corpus.num_proc)
    stream = enough_to_tune(split, _of_one_lane(config))
    articles = read_articles(reader, stream)
    found: dict[tuple[int, float], tuple[Tensor, Tensor, Tensor]] = {}
    bar = tqdm(desc=f"tune {memory.rule} + cache", unit="setting", disable=quiet)

    def nats_of(values: dict[str, float]) -> float:
        share, look = values["share"], (round(values["window"]), values["flatness"])
        window_fits, flatness_fits = 1 <= look[0] <= LARGEST_WINDOW, SMALLEST_FLATNESS <= look[1] <= LARGEST_FLATNESS
        if share > _LARGEST_SHARE or not (window_fits and flatness_fits):
            return math.inf
        if look not in found:
            found.clear()  # Shares are searched with one look; others would only take memory.
            found[look] = looked_at(Cache(look[0], (look[1],), 0.0), articles, memory.reset == "article")
        log_p_NF, sight_N, nats_N = found[look]
        nats = _mean(mixture(nats_N.new_tensor([1 - share, share]).log(), log_p_NF, sight_N, nats_N))
        bar.update()
        bar.set_postfix({"nats": f"{nats:.4f}", **{name: f"{value:.4g}" for name, value in values.items()}})
        log_line(folder, event="tune cache", rule=memory.rule, reset=memory.reset, nats=nats, **values)
        return nats

    given: dict[str, float | None] = {
        "window": memory.cache_window,
        "flatness": memory.cache_flatness[0] if memory.cache_flatness else None,
        "share": memory.cache_share,
    }
    start = {name: _START[name] if value is None else float(value) for name, value in given.items()}
    best, nats, settings = coordinate_search(nats_of, start, config.tune.rounds)
    bar.close()
    tuned: dict[str, Any] = {
        **best,
        "window": round(best["window"]),
        "nats_per_token": nats,
        "without_cache_nats_per_token": _mean(torch.cat([article.nats_1T[0] for article in articles])),
        "settings": settings,
        "corpus": source_name(config.corpus),
        "split": config.tune.split,
        "tokens": sum(article.nats_1T.numel() for article in articles),
        "articles": sorted(int(index) + 1 for index in stream.order),
        "segment": memory.segment,
        "tuned_on": [record("cache", "tuned", config.corpus, config.tune.split, split, stream.order)],
    }
    save_fixed(folder, memory, tuned, trained)
    return {"rule": memory.rule, "reset": memory.reset, "cache": "fixed", **tuned}


def train_gate(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Learn the gate of a cache beside ``config.memory.rule``; tunes the fixed cache first where that was not done.

    Returns how it was learned and the tuning articles' nats per token, without a cache, at the start (shares much as
    the fixed cache's) and as learned. Raises UserError as ``tune_cache`` does, and where another process learns it.
    """
    learned = memory_path(folder, f"gated-cache-{rule_stem(config.memory)}-{config.memory.reset}")
    with exclusive(learned, "this gated cache") if folder.is_dir() else nullcontext():
        return _train_gate(folder, config, quiet)


def _train_gate(folder: Path, config: Config, quiet: bool) -> dict[str, Any]:
    memory = config.memory
    if memory.cache != "learned" or memory.cache_share is not None:
        what = "memory.cache_share is set" if memory.cache == "learned" else "a fixed cache has nothing to meta-train"
        raise UserError(what, do=f"run `{command('tune', folder, dataclasses.replace(memory, cache='fixed'))}`")
    trained, reader = _open(folder, config)
    fixed = load_fixed(folder, memory, trained)
    if fixed is None:
        # The search has one flatness; what was given for the gate is the gate's.
        hand_made = dataclasses.replace(memory, cache="fixed", cache_flatness=None)
        fixed = tune_cache(folder, dataclasses.replace(config, memory=hand_made), quiet)
    around = (fixed["flatness"] * factor for factor in _FLATNESSES)
    flatness = tuple(
        memory.cache_flatness or (min(max(value, SMALLEST_FLATNESS), LARGEST_FLATNESS) for value in around)
    )
    looking = Cache(memory.cache_window or fixed["window"], flatness, 0.0)
    meta, valid = (
        tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
        for split in ("meta", config.tune.split)
    )
    # Not read a second time: in a cache that runs on, an article would find itself.
    stream = Stream(meta, memory.lanes, memory.segment, range(meta.articles), seed=config.run.seed)
    learning = gathered(reader, looking, stream, config.metatrain.tokens, quiet)
    picked = tuning_stream(valid, _of_one_lane(config), config.metatrain.pick_tokens)
    picking = gathered(reader, looking, picked, 0, quiet)
    generator = torch.Generator().manual_seed(config.run.seed)
    shares = _first_shares(flatness, fixed["flatness"], fixed["share"])
    best, nats, passes = learn(
        initial_gate(shares, learning.evidence_NK, _HIDDEN, generator), learning, picking, generator
    )
    log_line(folder, event="train gate", rule=memory.rule, reset=memory.reset, nats_of_passes=nats)
    about = {
        "segment": memory.segment,
        "tokens": len(learning.nats_N),
        "passes": passes,
        "passes_made": len(nats) - 1,
        "still_improving": not stopped_improving(nats),
        "tuning_nats_per_token": {"none": _mean(picking.nats_N), "start": nats[0], "learned": nats[passes]},
        "kept": "learned" if passes else "start",
        "started_at": {name: fixed[name] for name in ("window", "flatness", "share")},
        "tuned_on": [
            *records_of(fixed, "cache", "tuned"),
            record("gate", "learned", config.corpus, "meta", meta, range(meta.articles)),
            record("gate", "picked", config.corpus, config.tune.split, valid, picked.order),
        ],
    }
    cache = dataclasses.replace(looking, gate=Gate(best))
    save_gated(folder, memory, cache, about, trained)
    return {
        "rule": memory.rule,
        "reset": memory.reset,
        "cache": "learned",
        "window": cache.window,
        "flatness": list(flatness),
        **about,
    }


def gathered(reader: Reader, cache: Cache, stream: Stream, tokens: int, quiet: bool = True) -> Gathered:
    """Read ``tokens`` tokens (0: all) and keep what a gate of ``cache`` would have seen. Raises UserError for none."""
    keeping = _KeepsEvidence(cache.window, cache.flatness, 0.0)
    bar = tqdm(desc="evidence", unit="tok", unit_scale=True, disable=quiet)
    for read in iter_segments(dataclasses.replace(reader, cache=keeping), stream):
        bar.update(read.place.tokens - bar.n)
        if tokens and read.place.tokens >= tokens:
            break
    bar.close()
    if not keeping.kept:
        raise UserError("no tokens to learn from", do="name a corpus with articles for meta-training")
    return Gathered(*(torch.cat(parts) for parts in zip(*keeping.kept, strict=True)))


def learn(
    start: Params, learning: Gathered, picking: Gathered, generator: torch.Generator
) -> tuple[Params, list[float], int]:
    """(the best parameters, nats of ``picking`` at the start and after each pass, how many passes the best had).

    Adam on the mean nats of ``learning``; what is judged after each pass is the Polyak average. It ends once
    ``_PATIENCE`` passes in a row gained nothing noticeable, or after ``_MOST_PASSES``.
    """
    phi = {name: tensor.clone() for name, tensor in start.items()}
    moving = [phi[name].requires_grad_() for name in phi if name not in ("center", "spread")]
    average = {name: tensor.clone() for name, tensor in start.items()}
    adam = torch.optim.Adam(moving, lr=_RATE)
    nats, best, steps = [_nats_of(start, picking)], start, 0
    for _ in range(_MOST_PASSES):
        for batch in _batches(learning, generator):
            adam.zero_grad()
            shares = log_shares(phi, batch.evidence_NK)
            mixture(shares, batch.log_p_NF, batch.sight_N, batch.nats_N).mean().backward()
            adam.step()
            steps += 1
            # Early on the average is over what there is, not weighed down by the start.
            for name, mean in average.items():
                mean.lerp_(phi[name].detach(), max(1 - _AVERAGE, 1 / (steps + 1)))
        nats.append(_nats_of(average, picking))
        # What is no number is never the lowest.
        if nats[-1] < min(nats[:-1]):
            best = {name: tensor.clone() for name, tensor in average.items()}
        if stopped_improving(nats):
            break
    return best, nats, nats.index(min(nats))


def stopped_improving(nats: Sequence[float]) -> bool:
    """Whether the last ``_PATIENCE`` passes gained nothing noticeable; ``nats``: at the start and after each pass."""
    earlier = nats[:-_PATIENCE]
    return bool(earlier) and not min(earlier) - min(nats) >= _NOTICEABLE


def _batches(told: Gathered, generator: torch.Generator) -> Iterator[Gathered]:
    order = torch.randperm(len(told.nats_N), generator=generator).to(told.nats_N.device)
    for rows in order.split(_BATCH):
        yield Gathered(*(tensor[rows] for tensor in told))


@torch.no_grad()
def _nats_of(params: Params, told: Gathered) -> float:
    return _mean(mixture(log_shares(params, told.evidence_NK), told.log_p_NF, told.sight_N, told.nats_N))


def _first_shares(flatness: Sequence[float], tuned: float, share: float) -> list[float]:
    """The model's, and each flatness': most of the cache's for the one nearest the tuned, a little for the others."""
    nearest = min(range(len(flatness)), key=lambda index: abs(math.log(flatness[index] / tuned)))
    if len(flatness) == 1:
        return [1 - share, share]
    rest = (1 - _OF_THE_TUNED) / (len(flatness) - 1)
    return [1 - share, *(share * (_OF_THE_TUNED if index == nearest else rest) for index in range(len(flatness)))]


def _open(folder: Path, config: Config) -> tuple[TrainedModel, Reader]:
    """The run's model, and a reader by the rule without a cache."""
    processes = Processes.start(config.run.cpu)
    if processes.world > 1:
        raise UserError(f"{processes.world} processes cannot share a cache", do="start one process")
    trained = load_model(folder, processes.device)
    return trained, open_reader(folder, trained, dataclasses.replace(config.memory, cache="none"))


def _of_one_lane(config: Config) -> Config:
    """The options by which the tuning articles are read one after the other, whatever the lanes."""
    return dataclasses.replace(config, memory=dataclasses.replace(config.memory, lanes=1))


def _mean(nats_N: Tensor) -> float:
    return float(nats_N.double().sum()) / len(nats_N)
