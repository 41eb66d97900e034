"""Meta-training of the rule g: its parameters phi, learned from the losses of later segments.

phi starts at the tuned rms rule and moves by Adam along first-order meta-gradients, on training articles that the LSTM
was not trained on. The Polyak average of phi is kept if it reads the tuning articles better than the rule that it
started from; otherwise the start is, and the run says so.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.meta_gradient.per_weight_lstm import Windows
from dynlm.adapt.rules.elementwise import Statistics
from dynlm.adapt.rules.learned import Meta, readable
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta
from dynlm.adapt.state import dynamic_tensors
from dynlm.data.articles import iter_articles
from dynlm.data.stream import Stream
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.run import rule_store
from dynlm.run.folder import TrainedModel, load_model, memory_path, params_fingerprint
from dynlm.run.tuned_on import record, records_of
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.renamed import original_options
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config
from dynlm.train.outer_loop import AveragedAdam, OuterLoop, Report, best_of, shared_stream
from dynlm.train.tune import ensure_statistics, tune, tuning_stream

_SAMPLE = 4096
"""Weights of each tensor from whose steps the per-weight LSTM rule learns in a window."""


def metatrain(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Learn phi for ``config.memory.reset`` and keep it in the run; tunes rms first where that was not done.

    Resumes from the newest checkpoint. Returns what was learned, the nats per token of the tuning articles by each
    candidate, and the number of ``passes`` over the articles: after the first one, a memory that runs through the text
    (reset "stream") meets articles that it has learned from. Raises Stopped, with a checkpoint saved, at Ctrl-C and
    SIGTERM, and UserError where another process learns the same.
    """
    processes = Processes.start(config.run.cpu)
    trained = load_model(folder, processes.device)
    learned = memory_path(folder, f"{config.memory.g}-{config.memory.reset}")
    with exclusive(learned, f"the learned memory {config.memory.g!r}"):
        return _metatrain(folder, config, trained, processes, quiet or not processes.is_main)


def _metatrain(
    folder: Path, config: Config, trained: TrainedModel, processes: Processes, quiet: bool
) -> dict[str, Any]:
    reset = config.memory.reset
    with processes.main_process_first():
        if rule_store.load_tuned(folder, "rms", reset, trained) is None:
            rms = config.memory.replace(rule="rms")
            tune(folder, dataclasses.replace(config, memory=rms), quiet)
        every = ensure_statistics(folder, trained, config)
        aside = tokenise(iter_articles(config.corpus, "meta"), trained.tokenizer, config.corpus.num_proc)
        valid = tokenise(iter_articles(config.corpus, config.tune.split), trained.tokenizer, config.corpus.num_proc)
    tuned = rule_store.load_tuned(folder, "rms", reset, trained)
    assert tuned is not None
    if tuned["segment"] != config.memory.segment:
        raise UserError(
            f"rms was tuned on segments of {tuned['segment']} tokens, memory.segment is {config.memory.segment}",
            memory_path(folder, "tuned.json"),
            "run `dynlm tune` with this segment first",
        )
    dynamic = dynamic_tensors(trained.model, config.memory.dynamic)
    statistics = Statistics({name: every.rms[name] for name in dynamic})
    meta = rule_store.meta_of(config.g, tuned, statistics, trained)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        f"metatrain-{config.memory.g}-{reset}",
        config.run.checkpoints_kept,
        {
            "run.seed": config.run.seed,
            **fingerprint_options(config.memory, config.g, config.metatrain),
            "the model": trained.fingerprint,
            "the text": aside.fingerprint,
            "the tuned rms": [meta.rate, meta.pull, meta.epsilon],
            "the statistics R": params_fingerprint(meta.statistics.rms),
        },
    )
    options, seed = config.metatrain, config.run.seed
    with processes.in_step(config.run.patience) as in_step:
        stream = shared_stream(aside, options.lanes, config.memory.segment, seed, "metatrain.lanes", in_step)
        loop = _outer_loop(config, trained, meta, stream, in_step)
        checkpointer = Checkpointer(checkpoints, loop, in_step, options.checkpoint_every)
        fields = {"name": config.memory.g, "reset": reset}
        averages = loop.run(options, checkpointer, Report(folder, "metatrain", fields, quiet))
    candidates = {"start": meta.initial(), **{when: phi for when, (phi,) in averages.items()}}
    # More articles than the start was tuned on, where there are more: on those the start is at its best.
    stream = tuning_stream(valid, config, config.metatrain.pick_tokens)
    nats = {
        name: mean_nats(rule_store.reader_of(trained, config.memory, meta.rule(phi), dynamic), stream)
        for name, phi in candidates.items()
    }
    kept = best_of(nats)
    about = {
        "segment": config.memory.segment,
        "tokens": config.metatrain.tokens,
        "passes": config.metatrain.tokens / len(aside.ids_N),
        "start": {option: tuned[option] for option in ("rate", "pull", "epsilon")},
        "tuning_nats_per_token": nats,
        "kept": kept,
        "g": original_options("g", dataclasses.asdict(config.g)),
        "tuned_on": [
            *records_of(tuned, "rates", "tuned"),
            record("g", "learned", config.corpus, "meta", aside, range(aside.articles)),
            record("g", "picked", config.corpus, config.tune.split, valid, stream.order),
        ],
    }
    if processes.is_main:
        rule_store.save_learned(folder, config.memory, meta, candidates[kept], about, trained)
        checkpoints.drop()
    return {"reset": reset, "name": config.memory.g, **about, "phi": readable(candidates[kept], meta)}


def _outer_loop(
    config: Config, trained: TrainedModel, meta: Meta | CoordinateMeta, stream: Stream, processes: Processes
) -> OuterLoop:
    phi = meta.initial()
    reader = rule_store.reader_of(trained, config.memory, meta.rule(phi), tuple(meta.names))
    memory = reader.fresh_memory(stream.local_lanes)
    learner: MetaGradient
    if isinstance(meta, CoordinateMeta):
        learner = Windows(meta, phi, _SAMPLE, torch.Generator().manual_seed(config.run.seed))
    else:
        learner = Sensitivities(meta, phi, reader, memory, config.metatrain.bound)
    optimizer = AveragedAdam([(phi, config.metatrain.lr)], config.metatrain.average)
    return OuterLoop(reader, memory, stream, [learner], optimizer, processes)
