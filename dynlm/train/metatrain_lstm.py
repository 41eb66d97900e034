"""Meta-training the LSTM meta-learner: its gates learn from windows of what they read (``coordinate_gradients``)."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import torch
from tqdm import tqdm

from dynlm.adapt.loop import read_segment
from dynlm.adapt.meta_gradient.per_weight_lstm import CoordinateWindow
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta
from dynlm.data.articles import iter_articles
from dynlm.data.token_store import tokenise
from dynlm.models.lstm.model import Params
from dynlm.run import rule_store as memory_folder
from dynlm.run.folder import TrainedModel, log_line
from dynlm.runtime.distributed import Processes
from dynlm.train.config import Config
from dynlm.train.shared_stream import shared_stream

_SAMPLE = 4096
"""Weights of each tensor whose steps a window is learned from."""


def learn_gates(
    folder: Path, config: Config, trained: TrainedModel, processes: Processes, meta: CoordinateMeta, quiet: bool
) -> dict[str, Params]:
    """Read the articles kept for it, moving the gates after every window: the Polyak averages halfway and at the end.

    A window is ``metatrain.window`` segments of all lanes, and as far back as it goes its losses are led.
    """
    options = config.metatrain
    with processes.main_process_first():
        split = tokenise(iter_articles(config.corpus, "meta"), trained.tokenizer, config.corpus.num_proc)
    stream = shared_stream(split, options.lanes, "metatrain.lanes", config, processes)
    phi, mean = meta.initial(), meta.initial()
    adam = torch.optim.Adam(list(phi.values()), lr=options.rate)
    reader = memory_folder.reader_of(trained, config.memory, meta.rule(phi), tuple(meta.names))
    memory, place = reader.fresh_memory(stream.local_lanes), stream.begin()
    generator = torch.Generator().manual_seed(config.run.seed)
    steps, averages = 0, dict[str, Params]()
    bar = tqdm(total=options.tokens, desc=f"metatrain {config.memory.g}", unit="tok", unit_scale=True, disable=quiet)
    while place.tokens < options.tokens:
        before, count, total = place.tokens, 0, 0.0
        window = CoordinateWindow(meta, memory, _SAMPLE, generator)
        for _ in range(math.ceil(options.window / options.lanes)):
            segment, place = stream.next(place)
            assert segment is not None, "a repeating stream has no end"
            restored_B = memory.guarded and memory.guarded.restored_B.clone()
            nats_BT, memory = read_segment(reader, memory, segment, window)
            mask_BT = torch.from_numpy(segment.mask_BT).to(nats_BT)
            nats_B = (nats_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp(min=1)
            afresh_B = segment.starts_B & (config.memory.reset == "article")
            if memory.guarded is not None and restored_B is not None:
                afresh_B = afresh_B | (memory.guarded.restored_B > restored_B).cpu().numpy()
            window.after_segment(nats_B.nan_to_num(), afresh_B)
            count, total = count + int(segment.mask_BT.any(1).sum()), total + float((nats_BT * mask_BT).sum())
        bar.update(place.tokens - before)
        read, nats = processes.reduce(
            torch.tensor([count, total], dtype=torch.float64, device=processes.device)
        ).tolist()
        for key, gradient in window.gradients(phi).items():
            phi[key].grad = processes.reduce(gradient) / read
        adam.step()
        steps += 1
        for key, tensor in mean.items():
            tensor.lerp_(phi[key], max(1 - options.average, 1 / (steps + 1)))
        # The gates that read are those that learn, moved in place.
        reader = dataclasses.replace(reader, rule=meta.rule(phi))
        if processes.is_main:
            told = {"name": config.memory.g, "reset": config.memory.reset, "tokens": place.tokens}
            log_line(folder, event="metatrain", **told, nats_of_window=nats)
        if "halfway" not in averages and place.tokens >= options.tokens / 2:
            averages["halfway"] = {key: tensor.clone() for key, tensor in mean.items()}
    bar.close()
    return {**averages, "learned": mean}
