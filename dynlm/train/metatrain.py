"""Meta-training g: its parameters phi, learned from what they cost on later segments.

phi starts at the tuned rms rule and moves by Adam, within bounds, along first-order meta-gradients
(``memory.sensitivities``), on training articles that the LSTM has not seen. phi's Polyak average is kept if it reads
the tuning articles better than the rule it started from; else the start is, and the run says so.
Several processes share the lanes; their meta-gradients are summed once a window, and all take the same step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from dynlm.adapt.loop import mean_nats, read_segment
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.elementwise import Statistics
from dynlm.adapt.rules.learned import Meta, clamp_, readable
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta
from dynlm.adapt.state import dynamic_tensors
from dynlm.adapt.update_filter import counts_of
from dynlm.data.articles import iter_articles
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.models.lstm.model import Params
from dynlm.run import rule_store as memory_folder
from dynlm.run.folder import TrainedModel, load_model, log_line, memory_path, params_fingerprint
from dynlm.run.tuned_on import record, records_of
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.signals import StopRequest, stop_requests
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config
from dynlm.train.meta_progress import MetaProgress, resume, save
from dynlm.train.metatrain_lstm import learn_gates
from dynlm.train.shared_stream import shared_stream
from dynlm.train.tune import ensure_statistics, tune, tuning_stream


def metatrain(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Learn phi for ``config.memory.reset`` and keep it in the run; tunes rms first where that was not done.

    Goes on from the newest checkpoint. Returns what was learned, the tuning articles' nats per token at the start and
    at the end, and how many ``passes`` over the articles the tokens made: after the first one, a memory that runs on
    (reset "stream") meets articles that it has learned from. Raises Stopped, with a checkpoint saved, where it is asked
    to stop, and UserError where another process learns the same.
    """
    learned = memory_path(folder, f"{config.memory.g}-{config.memory.reset}")
    with exclusive(learned, f"the learned memory {config.memory.g!r}") if folder.is_dir() else nullcontext():
        return _metatrain(folder, config, quiet)


def _metatrain(folder: Path, config: Config, quiet: bool) -> dict[str, Any]:
    reset = config.memory.reset
    processes = Processes.start(config.run.cpu)
    quiet = quiet or not processes.is_main
    trained = load_model(folder, processes.device)
    with processes.main_process_first():
        if memory_folder.load_tuned(folder, "rms", reset, trained) is None:
            rms = dataclasses.replace(config.memory, rule="rms")
            tune(folder, dataclasses.replace(config, memory=rms), quiet)
        every = ensure_statistics(folder, trained, config)
    tuned = memory_folder.load_tuned(folder, "rms", reset, trained)
    assert tuned is not None
    if tuned["segment"] != config.memory.segment:
        raise UserError(
            f"rms was tuned on segments of {tuned['segment']} tokens, memory.segment is {config.memory.segment}",
            memory_path(folder, "tuned.json"),
            "run `dynlm tune` with this segment first",
        )
    dynamic = dynamic_tensors(trained.model, config.memory.dynamic)
    statistics = Statistics({name: every.rms[name] for name in dynamic})
    meta = memory_folder.meta_of(config.g, tuned, statistics, trained.params)
    candidates = {"start": meta.initial()}
    if isinstance(meta, CoordinateMeta):
        candidates |= learn_gates(folder, config, trained, processes, meta, quiet)
    else:
        candidates |= _learn(folder, config, trained, processes, meta, quiet)

    with processes.main_process_first():
        aside = tokenise(iter_articles(config.corpus, "meta"), trained.tokenizer, config.corpus.num_proc)
        valid = tokenise(iter_articles(config.corpus, config.tune.split), trained.tokenizer, config.corpus.num_proc)
    # More than the start was tuned on, where there is more: on those articles the start is at its best.
    stream = tuning_stream(valid, config, config.metatrain.pick_tokens)
    nats = {
        name: mean_nats(memory_folder.reader_of(trained, config.memory, meta.rule(phi), dynamic), stream)
        for name, phi in candidates.items()
    }
    # A phi that is no number anywhere reads worse than anything.
    kept = min(nats, key=lambda name: nats[name] if math.isfinite(nats[name]) else math.inf)
    phi = candidates[kept]
    about = {
        "segment": config.memory.segment,
        "tokens": config.metatrain.tokens,
        "passes": config.metatrain.tokens / len(aside.ids_N),
        "start": {option: tuned[option] for option in ("rate", "pull", "epsilon")},
        "tuning_nats_per_token": nats,
        "kept": kept,
        "g": dataclasses.asdict(config.g),
        "tuned_on": [
            *records_of(tuned, "rates", "tuned"),
            record("g", "learned", config.corpus, "meta", aside, range(aside.articles)),
            record("g", "picked", config.corpus, config.tune.split, valid, stream.order),
        ],
    }
    if processes.is_main:
        memory_folder.save_learned(folder, config.memory.g, reset, meta, phi, about, trained)
        _checkpoints(folder, config).drop()
    return {"reset": reset, "name": config.memory.g, **about, "phi": readable(phi, meta)}


def _learn(
    folder: Path, config: Config, trained: TrainedModel, processes: Processes, meta: Meta, quiet: bool
) -> dict[str, Params]:
    """Read the articles kept for it, moving phi after every window: its Polyak average halfway and at the end."""
    with processes.main_process_first():
        split = tokenise(iter_articles(config.corpus, "meta"), trained.tokenizer, config.corpus.num_proc)
    made_with = {
        "run.seed": config.run.seed,
        **fingerprint_options(config.memory, config.g, config.metatrain),
        "the model": trained.fingerprint,
        "the text": split.fingerprint,
        "the tuned rms": [meta.rate, meta.pull, meta.epsilon],
        "the statistics R": params_fingerprint(meta.statistics.rms),
    }
    checkpoints = _checkpoints(folder, config, made_with)
    with processes.in_step(config.run.patience) as in_step, stop_requests() as request:
        return _learn_by_windows(folder, config, trained, in_step, meta, split, checkpoints, request, quiet)


def _learn_by_windows(
    folder: Path,
    config: Config,
    trained: TrainedModel,
    processes: Processes,
    meta: Meta,
    split: TokenisedSplit,
    checkpoints: Checkpoints,
    request: StopRequest,
    quiet: bool,
) -> dict[str, Params]:
    options = config.metatrain
    stream = shared_stream(split, options.lanes, "metatrain.lanes", config, processes)
    phi, mean = meta.initial(), meta.initial()
    adam = torch.optim.Adam(list(phi.values()), lr=options.rate)
    reader = memory_folder.reader_of(trained, config.memory, meta.rule(phi), tuple(meta.names))
    memory = reader.fresh_memory(stream.local_lanes)
    sensitivities = Sensitivities(meta, reader.rule, memory, reader.native)
    fresh = MetaProgress(phi, mean, adam, {}, memory, sensitivities, stream.begin())
    at, resumed = resume(checkpoints, fresh, processes)
    averages, place, steps = at.averages, at.place, at.steps
    if resumed is not None:
        reader = _by(phi, meta, reader, sensitivities)
        if processes.is_main:
            log_line(folder, event="resumed", checkpoint=resumed.name, tokens=place.tokens)
    # Of this process, since phi's last step: segments that were read, and their nats.
    window = torch.zeros(2, dtype=torch.float64, device=processes.device)
    rounds = math.ceil(options.window / options.lanes)
    bar = tqdm(
        total=options.tokens,
        initial=place.tokens,
        desc=f"metatrain {config.memory.g}",
        unit="tok",
        unit_scale=True,
        disable=quiet,
    )
    while place.tokens < options.tokens:
        before = place.tokens
        for _ in range(rounds):
            segment, place = stream.next(place)
            assert segment is not None, "a repeating stream has no end"
            if segment.starts_B.any():
                sensitivities.begin_articles(reader, memory, segment.starts_B.nonzero()[0])
            restored_B = memory.guarded and memory.guarded.restored_B.clone()
            nats_BT, memory = read_segment(reader, memory, segment, sensitivities)
            if memory.guarded is not None and restored_B is not None:
                sensitivities.forget((memory.guarded.restored_B > restored_B).nonzero().flatten().tolist())
            mask_BT = torch.from_numpy(segment.mask_BT).to(nats_BT.device, non_blocking=True)
            window += torch.stack([mask_BT.any(1).sum(), (nats_BT.double() * mask_BT).sum()])
        bar.update(place.tokens - before)
        count, nats = processes.reduce(window).tolist()
        for key, tensor in phi.items():
            tensor.grad = processes.reduce(sensitivities.gathered[key]) / count
        adam.step()
        clamp_(phi, options.bound)
        steps += 1
        for key, tensor in mean.items():
            # Early on the average is over what there is, not weighed down by the start.
            tensor.lerp_(phi[key], max(1 - options.average, 1 / (steps + 1)))
            sensitivities.gathered[key].zero_()
        reader = _by(phi, meta, reader, sensitivities)
        if processes.is_main:
            log_line(
                folder,
                event="metatrain",
                name=config.memory.g,
                reset=config.memory.reset,
                tokens=place.tokens,
                nats_of_window=nats,
                **({} if memory.guarded is None else {"guard": counts_of(memory.guarded, list(memory.weights))}),
                phi={key: tensor.tolist() for key, tensor in phi.items() if "/" not in key},
            )
        window.zero_()
        if "halfway" not in averages and place.tokens >= options.tokens / 2:
            averages["halfway"] = {key: tensor.clone() for key, tensor in mean.items()}
        stopping = processes.any(request.asked)
        if stopping or steps % options.checkpoint_every == 0:
            at = MetaProgress(phi, mean, adam, averages, memory, sensitivities, place, steps)
            path = save(checkpoints, at, processes)
            if stopping:
                request.stop(path)
    bar.close()
    return {**averages, "learned": mean}


def _by(phi: Params, meta: Meta, reader: Reader, sensitivities: Sensitivities) -> Reader:
    """``reader``, by the rule that phi makes now; ``sensitivities`` are told."""
    sensitivities.rule = meta.rule(phi, importance=sensitivities.importance)
    return dataclasses.replace(reader, rule=sensitivities.rule)


def _checkpoints(folder: Path, config: Config, made_with: Mapping[str, Any] | None = None) -> Checkpoints:
    """Those of learning one g under one reset policy."""
    stem = f"metatrain-{config.memory.g}-{config.memory.reset}"
    return Checkpoints(folder / "checkpoints", stem, config.run.checkpoints_kept, made_with or {})
