"""Reading a split with a run's model and writing what every token cost."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.footprint import foretold_bytes, held_bytes, refuse_what_does_not_fit
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import SavedMemory, constants_of, load_about
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.cache_gate import Gate
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.elementwise import Rule
from dynlm.adapt.state import Memory, distance
from dynlm.adapt.update_filter import counts_of, first_of, joined, ratios_of
from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.options import ORDERS
from dynlm.data.stream import read_side_by_side
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores, write_scores
from dynlm.evaluation.score_path import Into, file_stem, resume_key, scoring_key
from dynlm.evaluation.scoring_checkpoint import ScoringCheckpointer, ScoringState
from dynlm.evaluation.session import open_memory
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.provenance import made_with
from dynlm.run.rule_store import open_reader
from dynlm.run.tuned_on import tuned_on
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive, staging_dir
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.validation import one_of
from dynlm.train.config import Config

_RESETS = {
    "stream": "dynamic weights run through the whole text",
    "article": "dynamic weights start afresh with each article",
}
_CACHED = {"stream": "of earlier articles too", "article": "empty when an article begins"}


def score(
    folder: Path,
    config: Config,
    split: str,
    articles: str | None = None,
    quiet: bool = False,
    order: str = "in order",
    order_seed: int = 0,
    memory_file: Path | None = None,
    into: Into | None = None,
) -> tuple[Path, Scores]:
    """Read ``articles`` (``"31-60"``, None: all) of a split by ``config.memory`` and write the score file.

    ``order`` "shuffled" reads them in an order drawn by ``order_seed``; the file's rows stay in the split's own order.
    ``into`` tells which file it is. What was scored before by the same inputs is read from its file (``Scores.path`` is
    set) and not computed again. With ``memory_file`` it starts with what was read before; that file stays as it is.
    Several processes share the articles. A scoring that was stopped goes on from what it kept (every
    ``config.run.checkpoint_seconds``). Raises UserError for what cannot be read or does not fit in memory, where the
    rule was never tuned, where several processes are to read one stream, for a memory that does not fit, and where the
    file cannot be written or another process is making it.
    """
    one_of("order", order, ORDERS)
    into = into or Into()
    memory, processes = config.memory, Processes.start(config.run.cpu)
    if processes.world > 1 and (memory.rule, memory.cache) != ("none", "none") and memory.reset == "stream":
        raise UserError(
            f"{processes.world} processes cannot share the one stream of memory.reset 'stream'",
            do="start one process, or choose --memory.reset article",
        )
    trained = load_model(folder, processes.device)
    # What is missing is told before the text is tokenised, which may take long.
    reader = open_reader(folder, trained, memory)
    begun = None
    if memory_file is not None:
        _refuse_what_cannot_go_on(memory, processes)
        begun = open_memory(memory_file, reader, config, trained.tokenizer, trained.fingerprint)
    with processes.main_process_first():
        text = tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
    chosen = article_range(articles, text.articles)
    protocol = _protocol(folder, config, trained, reader, split, text, chosen, order, order_seed)
    stem = file_stem(memory, split, articles, protocol["order"])
    if memory_file is not None and begun is not None:
        protocol |= _begun_with(memory_file, begun, protocol)
        stem += f"-after-{memory_file.stem}"
    protocol |= into.told
    key = scoring_key(protocol)
    path = into.place(folder, stem, key)
    if (there := into.there(path, key)) is not None:
        return path, there
    with exclusive(path, "this score file"):
        if processes.is_main:
            with staging_dir(path.parent):  # refused now where nothing can be written, not after the reading
                pass
        keeper = ScoringCheckpointer(
            path, resume_key(protocol), config.run.checkpoint_seconds, processes.rank, processes.world
        )
        scores = read_scored(
            reader,
            text,
            in_order(chosen, order, order_seed),
            memory.segment,
            memory.lanes,
            processes,
            quiet or not processes.is_main,
            memory.track,
            None if begun is None else begun.memory,
            keeper,
        )
        scores = dataclasses.replace(scores, protocol={**scores.protocol, **protocol})
        if processes.is_main:
            write_scores(path, scores)
        keeper.drop()
    return path, scores


def _refuse_what_cannot_go_on(memory: MemoryOptions, processes: Processes) -> None:
    if memory.reset == "article":
        raise UserError(
            "memory.reset is 'article', and what was read would be forgotten at the first article's beginning",
            do="read and score with --memory.reset stream",
        )
    if processes.world > 1:
        raise UserError(f"{processes.world} processes cannot go on with one memory", do="start one process")


def _begun_with(path: Path, begun: SavedMemory, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """What a protocol says of the memory that a reading starts with."""
    before = f"begun with a memory of {begun.tokens} tokens of {begun.articles} articles that were read before"
    content = load_about(path)[0].content
    return {
        "variant": f"{protocol['variant']} after {path.stem}",
        "statement": f"{protocol['statement']}; {before}",
        "memory": {"content": content, "tokens": begun.tokens, "articles": begun.articles},
    }


def text_fingerprint(text: TokenisedSplit, articles: Sequence[int]) -> str:
    """What tells the tokens of ``articles``, in the split's own order, from any others."""
    return fingerprint(text.fingerprint, *(str(index) for index in articles))


def in_order(articles: Sequence[int], order: str, seed: int) -> list[int]:
    """``articles`` as they are to be read: "in order" as they stand, "shuffled" by the seed."""
    if order == "in order":
        return list(articles)
    return [articles[index] for index in np.random.default_rng(seed).permutation(len(articles))]


def read_scored(
    reader: Reader,
    text: TokenisedSplit,
    articles: Sequence[int],
    segment: int,
    lanes: int = 1,
    processes: Processes | None = None,
    quiet: bool = True,
    track: bool = False,
    begun: Memory | None = None,
    keeper: ScoringCheckpointer | None = None,
) -> Scores:
    """One pass over ``articles`` in the order given; the protocol says only what the reading itself knows.

    Rows are in the split's own order whatever the articles were read in, so that any two readings can be compared.
    With ``track`` the memory's distance from theta_0 and its flushes stand beside each token. The reading starts with
    the memory ``begun`` (a fresh one), which is used up, or goes on with what ``keeper`` has kept of it.
    """
    read_first, stream_order, articles = articles[0], articles, sorted(articles)
    lengths = [len(text.article(index)) for index in articles]
    rank, world = (0, 1) if processes is None else (processes.rank, processes.world)
    # More lanes than articles would only wait.
    lanes = min(lanes, -(-len(lengths) // world))
    stream = read_side_by_side(text, segment, stream_order, lanes, rank, world)
    foretold = _foretell(reader, lanes, segment, quiet) if lanes > 1 else None
    bar = tqdm(total=sum(lengths), desc=f"score {reader.rule.name}", unit="tok", unit_scale=True, disable=quiet)
    track = track and reader.rule.learns
    # Each token's place among those of ``articles``, and what it cost (and the distance of the weights that it was read
    # with): the latter stay on the device until the end.
    first = dict(zip(articles, np.cumsum([0, *lengths]).tolist(), strict=False))
    places: list[np.ndarray] = []
    costs: list[Tensor] = []
    held, place = 0, stream.begin()
    kept = None if keeper is None else keeper.kept(reader, stream.local_lanes)
    if kept is not None:
        memory, place, moved_B, held = kept.memory, kept.place, kept.moved_B, kept.held
        places, costs = [kept.places_N], [kept.costs_CN]
        bar.update(place.tokens)
    else:
        memory = reader.fresh_memory(stream.local_lanes) if begun is None else begun
        moved_B = torch.zeros(stream.local_lanes, device=reader.static["embedding"].device)
        if track and begun is not None:
            moved_B = distance(memory, reader.static)
    with keeper or nullcontext():
        for read in iter_segments(reader, stream, memory, place):
            begins_B = [first.get(int(article), 0) for article in read.segment.article_B]
            places_BT = (begins_B + read.segment.position_B)[:, None] + np.arange(read.segment.mask_BT.shape[1])
            places.append(np.where(read.segment.mask_BT, places_BT, -1).ravel())
            told = [read.nats_BT]
            if track:
                if reader.reset == "article":
                    moved_B = moved_B.masked_fill(torch.from_numpy(read.segment.starts_B).to(moved_B.device), 0)
                told.append(moved_B[:, None].expand_as(read.nats_BT))
                moved_B = distance(read.memory, reader.static)
            costs.append(torch.stack(told).flatten(1).float())
            memory = read.memory
            bar.update(read.place.tokens - bar.n)
            if keeper is not None and keeper.is_due:
                places, costs = [np.concatenate(places)], [torch.cat(costs, 1)]
                held = max(held, held_bytes(reader, memory))
                keeper.keep(ScoringState(memory, read.place, places[0], costs[0], moved_B, held), reader)
    bar.close()
    mine = (np.concatenate(places), torch.cat(costs, 1).cpu().numpy()) if places else None
    columns = np.full((1 + track, sum(lengths)), np.nan, dtype=np.float32)
    for part in [mine] if processes is None else processes.gather_object(mine):
        if part is not None:
            places_N, told_CN = part
            columns[:, places_N[places_N >= 0]] = told_CN[:, places_N >= 0]
    rows = np.concatenate([np.arange(text.starts[a], text.starts[a + 1]) for a in articles])
    segments = [np.arange(length) // segment for length in lengths]
    before = np.cumsum([0, *(int(numbers[-1]) + 1 for numbers in segments)])
    held = max(held, held_bytes(reader, memory))
    return Scores(
        protocol={
            "variant": variant_name(reader),
            "lanes": lanes,
            "processes": world,
            "memory_bytes_a_lane": {"foretold": foretold and foretold // lanes, "held": held // lanes},
            **_guard_protocol(memory, segment, track, processes),
        },
        article=np.repeat(np.array(articles, dtype=np.int32), lengths),
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        segment=np.concatenate([numbers + at for numbers, at in zip(segments, before, strict=False)]).astype(np.int32),
        token=text.ids_N[rows],
        words=text.words_N[rows],
        nats=columns[0],
        surface=[surface for a in articles for surface in text.surfaces(a)],
        distance=columns[1] if track else None,
        flush=_flushes(reader, lengths, segment, None if begun else articles.index(read_first)) if track else None,
    )


def _guard_protocol(memory: Memory, segment: int, track: bool, processes: Processes | None) -> dict[str, Any]:
    """What the guard met in the lanes of all processes and, with ``track``, how large updates were."""
    if memory.guarded is None:
        return {}
    mine = memory.guarded.to("cpu")
    guarded = joined([mine] if processes is None else processes.gather_object(mine))
    names = list(memory.weights)
    first = {
        name: {"article": article, "segment": position // segment}
        for name, (article, position) in first_of(guarded, names).items()
    }
    about: dict[str, Any] = {"guard": {**counts_of(guarded, names), "first": first}}
    return {**about, "update_to_weight": ratios_of(guarded, names)} if track else about


def _flushes(reader: Reader, lengths: Sequence[int], segment: int, begins: int | None) -> np.ndarray:
    """How much of the way home weights went before each token's segment, on average over weights.

    1 where they start afresh; where an article begins under "stream" what g flushes; else the mean beta of a step
    (before the gates' factors). ``begins`` is the place of the article that was read first, if by a fresh memory.
    """
    rule, sizes = reader.rule, {name: reader.static[name].numel() for name in reader.rule.rates}

    def mean(of_tensor: Mapping[str, Tensor | float]) -> float:
        total = sum(float(torch.as_tensor(of_tensor.get(name, 0.0)).mean()) * size for name, size in sizes.items())
        return total / sum(sizes.values())

    step, flushed = mean(rule.beta), mean(rule.flush)
    columns = []
    for article, length in enumerate(lengths):
        column = np.full(length, step, dtype=np.float32)
        if reader.reset == "article":
            column[:segment] = 1.0
        else:
            # Before the very first segment no step was taken.
            column[:segment] = 0.0 if article == begins else step + (1 - step) * flushed
        columns.append(column)
    return np.concatenate(columns)


def _foretell(reader: Reader, lanes: int, segment: int, quiet: bool) -> int:
    """Say how much memory the lanes will take, before any of it is taken. Raises UserError where it is not there."""
    needed = foretold_bytes(reader, lanes, segment)
    refuse_what_does_not_fit(needed, lanes, reader.static["embedding"].device)
    if not quiet:
        each = needed / lanes / 1e6
        print(f"{lanes} lanes will take {needed / 1e6:.1f} MB of memory, {each:.1f} MB a lane", file=sys.stderr)
    return needed


def variant_name(reader: Reader) -> str:
    """What tables call a reader."""
    name = reader.rule.name if reader.rule.learns else "level 1"
    if reader.cache is not None:
        name += " + gated cache" if isinstance(reader.cache.gate, Gate) else " + cache"
    return name if reader.hedge is None else f"no-regret ({name})"


def rates_of(rule: Rule) -> dict[str, dict[str, Any]]:
    """Each dynamic tensor's learning rate and decay."""
    return {name: {"lr": rates.alpha, "decay": rates.pull} for name, rates in rule.rates.items()}


def _cache_protocol(cache: Cache) -> dict[str, Any]:
    """What a score file tells of a cache."""
    about = {"window": cache.window, "flatness": list(cache.flatness)}
    if isinstance(cache.gate, Gate):
        return {"kind": "learned", **about}
    return {"kind": "fixed", **about, "share": cache.gate}


def _protocol(
    folder: Path,
    config: Config,
    trained: TrainedModel,
    reader: Reader,
    split: str,
    text: TokenisedSplit,
    chosen: Sequence[int],
    order: str,
    seed: int,
) -> dict[str, Any]:
    order = order if order == "in order" else f"{order}, seed {seed}"
    rule, cache = reader.rule, reader.cache
    statement = (
        f"score, then learn: each segment of {config.memory.segment} tokens is scored once, before it is learned from; "
        + (f"{_RESETS[reader.reset]}; " if rule.learns else "")
        + (f"a cache of the last {cache.window} tokens, {_CACHED[reader.reset]}; " if cache is not None else "")
        + ("" if reader.hedge is None else _mixing(reader.hedge, reader.reset))
        + "the LSTM's state starts afresh with each article, from a start token that is not scored"
        + ("" if order == "in order" else f"; articles {order}")
    )
    return {
        "run": folder.name,
        "variant": variant_name(reader),
        "level": rule.level,
        "rule": {"name": rule.name, "rates": rates_of(rule)},
        **({} if reader.hedge is None else {"no_regret": {"share": reader.hedge.share}}),
        "reset": reader.reset,
        **({} if cache is None else {"cache": _cache_protocol(cache)}),
        "segment": config.memory.segment,
        "split": split,
        "corpus": source_name(config.corpus),
        "articles": [{"index": int(index), "title": text.titles[index]} for index in chosen],
        "order": order,
        "tuned_on": tuned_on(folder, trained, config.memory),
        "statement": statement,
        "tokenizer": trained.tokenizer.fingerprint,
        "model": trained.fingerprint,
        "text": text_fingerprint(text, chosen),
        "split_text": text.fingerprint,
        "seed": config.run.seed,
        "options": {"corpus": vars(config.corpus), "memory": vars(config.memory)},
        "reader": constants_of(reader),
        **made_with(reader.static["embedding"].device),
    }


def _mixing(hedge: FixedShareMixture, reset: str) -> str:
    afresh = "which start evenly with each article" if reset == "article" else "which run through the whole text"
    return (
        "each token's probability is a mixture of the rule's and level 1's by fixed share (Herbster & Warmuth 1998, "
        f"share {hedge.share:g}), by weights that know only earlier tokens, {afresh}; "
    )
