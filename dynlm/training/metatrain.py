"""Meta-training g: the rates and pulls of each tensor, learned from what they cost on later segments.

phi starts at the tuned rms rule and moves in the logarithms of its rates, by Adam, along exact first-order
meta-gradients (``memory.sensitivities``), on training articles that the LSTM has not seen. phi's Polyak average is
kept if it reads the tuning articles better than the rule it started from; else the start is, and the run says so.
Several processes share the lanes; their meta-gradients are summed once a window, and all take the same step.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.config import Config
from dynlm.corpus.articles import iter_articles
from dynlm.corpus.streams import Stream
from dynlm.corpus.tokens import TokenisedSplit, tokenise
from dynlm.errors import UserError
from dynlm.memory.rules import Rates, Rule, Statistics
from dynlm.memory.sensitivities import Sensitivities
from dynlm.memory.state import dynamic_tensors
from dynlm.memory.unroll import mean_nats, read_segment
from dynlm.training import memory_folder
from dynlm.training.processes import Processes
from dynlm.training.run_folder import TrainedModel, load_model, log_line
from dynlm.training.tune import ensure_statistics, tune, tuning_stream

# A pull of zero has no logarithm; it starts here, where it does next to nothing in thousands of segments.
_SMALLEST_PULL = 1e-6


def metatrain(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Learn phi for ``config.memory.reset`` and keep it in the run; tunes rms first where that was not done.

    Returns what was learned and the tuning articles' nats per token at the start and at the end.
    """
    reset = config.memory.reset
    processes = Processes.start(config.run.cpu)
    quiet = quiet or not processes.first
    trained = load_model(folder, processes.device)
    with processes.first_goes_ahead():
        if memory_folder.load_tuned(folder, "rms", reset, trained) is None:
            rms = dataclasses.replace(config.memory, rule="rms")
            tune(folder, dataclasses.replace(config, memory=rms), quiet)
        every = ensure_statistics(folder, trained, config)
    tuned = memory_folder.load_tuned(folder, "rms", reset, trained)
    assert tuned is not None
    if tuned["segment"] != config.memory.segment:
        raise UserError(
            f"rms was tuned on segments of {tuned['segment']} tokens, memory.segment is {config.memory.segment}",
            folder / "memory" / "tuned.json",
            "run `dynlm tune` with this segment first",
        )
    dynamic = dynamic_tensors(trained.model, config.memory.dynamic)
    statistics = Statistics({name: every.rms[name] for name in dynamic})
    start = dict.fromkeys(dynamic, Rates(tuned["rate"], max(tuned["pull"], _SMALLEST_PULL)))
    learned = _learn(folder, config, trained, processes, statistics, start, tuned["epsilon"], quiet)

    with processes.first_goes_ahead():
        valid = tokenise(iter_articles(config.corpus, config.tune.split), trained.tokenizer, config.corpus.num_proc)
    # More than the start was tuned on, where there is more: on those articles the start is at its best.
    stream = tuning_stream(valid, config, config.metatrain.pick_tokens)
    nats = {}
    for name, rates in (("start", start), ("learned", learned)):
        rule = memory_folder.rms_family_rule("meta", rates, statistics, tuned["epsilon"])
        nats[name] = mean_nats(memory_folder.reader_of(trained, config.memory, rule, dynamic), stream)
    kept = "learned" if nats["learned"] < nats["start"] else "start"
    about = {
        "epsilon": tuned["epsilon"],
        "segment": config.memory.segment,
        "tokens": config.metatrain.tokens,
        "start": {"rate": tuned["rate"], "pull": tuned["pull"]},
        "tuning_nats_per_token": nats,
        "kept": kept,
    }
    rule = memory_folder.rms_family_rule("meta", learned if kept == "learned" else start, statistics, tuned["epsilon"])
    if processes.first:
        memory_folder.save_learned(folder, reset, rule, about, trained)
    return {"reset": reset, **about, "rates": {name: rates._asdict() for name, rates in rule.rates.items()}}


def _learn(
    folder: Path,
    config: Config,
    trained: TrainedModel,
    processes: Processes,
    statistics: Statistics,
    start: dict[str, Rates],
    epsilon: float,
    quiet: bool,
) -> dict[str, Rates]:
    """Read the articles kept for it, moving phi after every window; returns its Polyak average as rates."""
    options, names = config.metatrain, list(start)
    with processes.first_goes_ahead():
        split = tokenise(iter_articles(config.corpus, "meta"), trained.tokenizer, config.corpus.num_proc)
    stream = _stream(split, config, processes)
    # Row k holds tensor k's log alpha and log pull.
    origin_K2 = torch.tensor([[math.log(rates.alpha), math.log(rates.pull)] for rates in start.values()]).double()
    phi_K2 = origin_K2.clone().requires_grad_()
    mean_K2 = origin_K2.clone()
    adam = torch.optim.Adam([phi_K2], lr=options.rate)
    template = memory_folder.rms_family_rule("meta", start, statistics, epsilon)
    reader = memory_folder.reader_of(trained, config.memory, template, tuple(names))
    memory, place = reader.fresh_memory(stream.own_lanes), stream.begin()
    sensitivities = Sensitivities(template, memory, trained.params, reader.native)
    steps = 0
    # Of this process, since phi's last step: segments that were read, and their nats.
    window = torch.zeros(2, dtype=torch.float64, device=processes.device)
    rounds = math.ceil(options.window / options.lanes)
    bar = tqdm(total=options.tokens, desc="metatrain", unit="tok", unit_scale=True, disable=quiet)
    while place.tokens < options.tokens:
        before = place.tokens
        for _ in range(rounds):
            segment, place = stream.next(place)
            assert segment is not None, "a repeating stream has no end"
            if config.memory.reset == "article":
                sensitivities.restart(segment.starts_B.nonzero()[0])
            nats_BT, memory = read_segment(reader, memory, segment, sensitivities)
            mask_BT = torch.from_numpy(segment.mask_BT).to(nats_BT.device, non_blocking=True)
            window += torch.stack([mask_BT.any(1).sum(), (nats_BT.double() * mask_BT).sum()])
        bar.update(place.tokens - before)
        count, nats = processes.total(window).tolist()
        phi_K2.grad = processes.total(sensitivities.gathered_K2).cpu() / count
        adam.step()
        with torch.no_grad():
            phi_K2.clamp_(origin_K2 - options.bound, origin_K2 + options.bound)
        steps += 1
        # Early on the average is over what there is, not weighed down by the start.
        mean_K2.lerp_(phi_K2.detach(), max(1 - options.average, 1 / (steps + 1)))
        rule = with_rates(template, _rates(names, phi_K2))
        reader = dataclasses.replace(reader, rule=rule)
        sensitivities.rule = rule
        if processes.first:
            log_line(
                folder,
                event="metatrain",
                reset=config.memory.reset,
                tokens=place.tokens,
                nats_of_window=nats,
                phi=phi_K2.tolist(),
            )
        sensitivities.gathered_K2.zero_()
        window.zero_()
    bar.close()
    return _rates(names, mean_K2)


def _stream(split: TokenisedSplit, config: Config, processes: Processes) -> Stream:
    lanes = config.metatrain.lanes
    if lanes % processes.world:
        raise UserError(f"metatrain.lanes is {lanes}", do=f"choose a multiple of the {processes.world} processes")
    return Stream(
        split,
        lanes,
        config.memory.segment,
        range(split.articles),
        seed=config.run.seed,
        repeat=True,
        rank=processes.rank,
        world=processes.world,
    )


def with_rates(rule: Rule, rates: dict[str, Rates]) -> Rule:
    """``rule`` with other rates and the same statistics."""
    return dataclasses.replace(rule, rates=rates)


def _rates(names: list[str], phi_K2: Tensor) -> dict[str, Rates]:
    values = phi_K2.detach().exp().tolist()
    return {name: Rates(alpha, pull) for name, (alpha, pull) in zip(names, values, strict=True)}
