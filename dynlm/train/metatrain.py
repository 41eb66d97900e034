"""Meta-training of the rule g: its parameters phi, learned from the losses of later segments.

phi starts at the tuned rms rule and moves by Adam along first-order meta-gradients, on training articles that the LSTM
was not trained on. The Polyak average of phi is kept if it reads the tuning articles better than the rule that it
started from; otherwise the start is, and the run says so.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.meta_gradient.per_weight_lstm import Windows
from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule
from dynlm.errors import UserError
from dynlm.run.memory_store import AnyLearnedRule, records_of
from dynlm.run.opening import build_dynamic_model, meta_of
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.files import exclusive
from dynlm.runtime.tensors import params_fingerprint
from dynlm.train.options import MetatrainOptions, TuneOptions
from dynlm.train.outer_loop import OuterLoop, best_of
from dynlm.train.tune import ensure_statistics, tune, tuning_stream
from dynlm.types import Params

_SAMPLE = 4096
"""Weights of each tensor from whose steps the per-weight LSTM rule learns in a window."""


def metatrain(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Learn phi of the rule g for ``memory.reset`` and keep it in the run; tunes rms first where that was not done.

    Resumes from the newest checkpoint. Returns what was learned, the nats per token of the tuning articles by each
    candidate, and the number of ``passes`` over the articles: after the first one, a memory that runs through the text
    (reset "stream") meets articles that it has learned from. Raises Stopped, with a checkpoint saved, at Ctrl-C and
    SIGTERM, and UserError where another process learns the same.
    """
    memory, g, options = run.section(MemoryOptions), run.section(LearnedRuleOptions), run.section(MetatrainOptions)
    trained, processes, name = run.trained, run.processes, f"{memory.g}-{memory.reset}"
    quiet = quiet or not processes.is_main
    with exclusive(run.store.path(name), f"the learned memory {memory.g!r}"):
        with processes.main_process_first():
            if run.store.load_tuned("rms", memory.reset) is None:
                tune(run.with_sections(memory.replace(rule="rms")), quiet)
            every = ensure_statistics(run)
            aside = run.split("meta")
            # More articles than the start was tuned on, where there are more: on those the start is at its best.
            picking = tuning_stream(run, options.pick_tokens)
        tuned = run.store.load_tuned("rms", memory.reset)
        assert tuned is not None
        if tuned["segment"] != memory.segment:
            raise UserError(
                f"rms was tuned on segments of {tuned['segment']} tokens, memory.segment is {memory.segment}",
                run.store.path("tuned.json"),
                "run `dynlm tune` with this segment first",
            )
        meta = meta_of(g, tuned, every.of(trained.model.dynamic_tensors(memory.targets)), trained)
        fingerprints = {
            "the text": aside.fingerprint,
            "the tuned rms": [meta.lr, meta.decay, meta.epsilon],
            "the statistics R": params_fingerprint(meta.statistics.rms),
        }
        checkpoints = run.checkpoints(f"metatrain-{name}", memory, g, options, **fingerprints)
        candidates = {"start": meta.initial(), **_learn(run, meta, checkpoints, quiet)}
        nats = {
            when: mean_nats(build_dynamic_model(trained, memory, meta.rule(phi)), picking)
            for when, phi in candidates.items()
        }
        phi = candidates[best_of(nats)]
        about = {
            "segment": memory.segment,
            "tokens": options.tokens,
            "passes": options.tokens / len(aside.ids_N),
            "start": {option: tuned[option] for option in ("lr", "decay", "epsilon")},
            "tuning_nats_per_token": nats,
            "kept": best_of(nats),
            "g": dataclasses.asdict(g),
            "tuned_on": [
                *records_of(tuned, "rates", "tuned"),
                run.record("g", "learned", "meta", range(aside.articles)),
                run.record("g", "picked", run.section(TuneOptions).split, picking.order),
            ],
        }
        if processes.is_main:
            run.store.save_learned(memory, meta, phi, about)
            checkpoints.drop()
    return {"reset": memory.reset, "name": memory.g, **about, "phi": meta.readable(phi)}


def _learn(run: Run, meta: AnyLearnedRule, checkpoints: Checkpoints, quiet: bool) -> dict[str, Params]:
    """Read the articles kept for it, and return the averages of phi halfway and at the end."""
    memory, options = run.section(MemoryOptions), run.section(MetatrainOptions)
    phi = meta.initial()
    dynamic_model = build_dynamic_model(run.trained, memory, meta.rule(phi))
    with run.processes.in_step(run.options.patience) as processes:
        loop = OuterLoop(run, dynamic_model, run.split("meta"), options, processes)
        learner: MetaGradient
        if isinstance(meta, LearnedLSTMRule):
            learner = Windows(meta, phi, _SAMPLE, torch.Generator().manual_seed(run.options.seed))
        else:
            learner = Sensitivities(meta, phi, dynamic_model, loop.memory, options.bound)
        averages = loop.learn({learner: options.lr}, checkpoints, quiet, name=memory.g, reset=memory.reset)
    return {when: phi for when, (phi,) in averages.items()}
