"""Meta-training of the rule g: its parameters phi, learned from the losses of later segments.

phi starts at the tuned rule ``g.base``, or at the g of another run (``metatrain.start``), and moves by Adam along
first-order meta-gradients, on training articles that the language model was not trained on, and on further texts where
``metatrain.texts`` names some. The Polyak average of phi is kept if it reads the tuning articles, and the valid
articles of the further texts, better than the start (the mean over texts); otherwise the start is, and the run says so.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.meta_gradient.per_weight_lstm import Windows
from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions
from dynlm.adapt.rules.per_weight_lstm import LearnedLSTMRule
from dynlm.adapt.rules.registry import RULES
from dynlm.errors import UserError
from dynlm.run.locate import find_run
from dynlm.run.memory_store import AnyLearnedRule
from dynlm.run.opening import build_dynamic_model, command, meta_of, take_meta
from dynlm.run.records import Card, records_of
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.files import exclusive
from dynlm.runtime.tensors import params_fingerprint
from dynlm.runtime.tree import clone
from dynlm.train.meta_texts import MetaText, meta_texts, outer_stream, picking_streams
from dynlm.train.options import MetatrainOptions
from dynlm.train.outer_loop import OuterLoop, best_of
from dynlm.train.tune import ensure_statistics, tune
from dynlm.types import Params

_SAMPLE = 4096
"""Weights of each tensor from whose steps the per-weight LSTM rule learns in a window."""


class Start(NamedTuple):
    """Where phi starts: g, its phi, the constants of the rule that it is relative to, and what was learned before."""

    meta: AnyLearnedRule
    phi: Params
    constants: dict[str, float]
    records: list[Card]
    taken_from: dict[str, Any]
    """For the g of another run: the run, and the fingerprint of its model."""


def metatrain(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Learn phi of the rule g for ``memory.reset`` and keep it in the run; tunes rms first where g starts there.

    Resumes from the newest checkpoint. Returns what was learned, how many parameters in how many ``seconds`` (of
    learning and picking), the nats per token of the tuning articles by each candidate, and the number of ``passes``
    over the run's own articles: after the first one, a memory that runs through the text (reset "stream") meets
    articles that it has learned from. Raises Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM, and UserError
    where another process learns the same, where Adam is to be the start and was not tuned, and as ``meta_texts`` does.
    """
    run = run.writable()
    memory, options = run.section(MemoryOptions), run.section(MetatrainOptions)
    processes, name = run.processes, f"{memory.g}-{memory.reset}"
    quiet, base = quiet or not processes.is_main, run.section(LearnedRuleOptions).base
    with exclusive(run.store.path(name), f"the learned memory {memory.g!r}"):
        with processes.main_process_first():
            if options.start is None and base == "rms" and run.store.tuned_for("rms", memory) is None:
                tune(run.with_sections(memory.replace(rule="rms")), quiet)
            start = _tuned_start(run) if options.start is None else _taken_start(run)
            texts = meta_texts(run)
            prints = [text.fingerprint for text in texts]
            # More articles than the start was tuned on, where there are more: on those the start is at its best.
            picking = picking_streams(run, texts, options.pick_tokens)
        meta, g = start.meta, start.meta.g
        fingerprints = {
            "the text": prints[0] if len(prints) == 1 else prints,
            f"the tuned {g.base}": [*start.constants.values()],
            **({"the statistics R": params_fingerprint(meta.statistics.rms)} if g.needs_statistics else {}),
            **({"the start": params_fingerprint(start.phi)} if start.taken_from else {}),
        }
        checkpoints = run.checkpoints(f"metatrain-{name}", memory, g, options, **fingerprints)
        seconds, learned = _learn(run, start, texts, checkpoints, quiet) if options.tokens else (0.0, {})
        candidates, begun = {"start": start.phi, **learned}, time.monotonic()
        nats, kept, records = dict[str, float](), "start", start.records
        if options.tokens:
            for when, phi in candidates.items():
                candidate = build_dynamic_model(run.trained, memory, meta.rule(phi))
                nats[when] = fmean(mean_nats(candidate, stream) for _, _, stream in picking)
            kept, seconds = best_of(nats), seconds + time.monotonic() - begun
            records = [*records, *(record for text in texts for record in text.records("g"))]
            records += [of.record("g", "picked", split, stream.articles) for of, split, stream in picking]
        share = options.tokens / len(texts)
        about = {
            "segment": memory.segment,
            **run.trained.reading_entry,
            "tokens": options.tokens,
            "seconds": round(seconds, 1),
            "parameters": sum(tensor.numel() for tensor in start.phi.values()),
            "passes": share / texts[0].tokens,
            **({"texts": [text.described(share) for text in texts]} if len(texts) > 1 else {}),
            **({} if memory.article_boundaries else {"article_boundaries": False}),
            "start": start.constants,
            "tuning_nats_per_token": nats,
            "kept": kept,
            "g": dataclasses.asdict(g),
            **({"taken_from": start.taken_from} if start.taken_from else {}),
            "tuned_on": records,
        }
        if processes.is_main:
            run.store.save_learned(memory, meta, candidates[kept], about)
            checkpoints.drop()
    return {"reset": memory.reset, "name": memory.g, **about, "phi": meta.readable(candidates[kept])}


def _tuned_start(run: Run) -> Start:
    """Return g by the run's options with a phi of zero: the tuned rule ``g.base``."""
    memory, g = run.section(MemoryOptions), run.section(LearnedRuleOptions)
    tuned, kind = run.store.tuned_for(g.base, memory), RULES[g.base]
    if tuned is None:
        do = f"run `{command('tune', run.path, memory.replace(rule=g.base, cache='none'))}` first"
        raise UserError(f"g.base {g.base} was not tuned for reset {memory.policy!r}", run.path, do)
    if tuned["segment"] != memory.segment:
        raise UserError(
            f"{g.base} was tuned on segments of {tuned['segment']} tokens, memory.segment is {memory.segment}",
            run.store.path("tuned.json"),
            "run `dynlm tune` with this segment first",
        )
    # Earlier versions did not write what is not searched for.
    constants = {name: tuned.get(name, value) for name, value in kind.constants(kind.options(rule=g.base)).items()}
    names = run.trained.model.dynamic_tensors(memory.targets)
    meta = meta_of(g, constants, run.trained, names, lambda: ensure_statistics(run))
    return Start(meta, meta.initial(), constants, records_of(tuned, "rates", "tuned"), {})


def _taken_start(run: Run) -> Start:
    """Return the g that the run ``metatrain.start`` learned, for this run's model."""
    memory, folder = run.section(MemoryOptions), find_run(str(run.section(MetatrainOptions).start))
    meta, phi, card = take_meta(run.store, memory, folder, lambda: ensure_statistics(run))
    taken_from = {"run": folder.resolve().name, "model": card.get("model")}
    return Start(meta, phi, card["start"], records_of(dict(card), "g", "learned"), taken_from)


def _learn(
    run: Run, start: Start, texts: Sequence[MetaText], checkpoints: Checkpoints, quiet: bool
) -> tuple[float, dict[str, Params]]:
    """Read ``texts``, and return (seconds, the averages of phi halfway and at the end)."""
    memory, options = run.section(MemoryOptions), run.section(MetatrainOptions)
    meta, phi = start.meta, clone(start.phi)
    dynamic_model = build_dynamic_model(run.trained, memory, meta.rule(phi))
    with run.processes.in_step(run.options.patience) as processes:
        loop = OuterLoop(run, dynamic_model, outer_stream(run, texts, options, processes), options, processes)
        learner: MetaGradient
        if isinstance(meta, LearnedLSTMRule):
            generator = torch.Generator().manual_seed(options.seed_or(run.options.seed))
            learner = Windows(meta, phi, _SAMPLE, generator)
        else:
            learner = Sensitivities(meta, phi, dynamic_model, loop.memory, options.bound)
        averages = loop.learn({learner: options.lr}, checkpoints, quiet, name=memory.g, reset=memory.reset)
    return loop.seconds, {when: phi for when, (phi,) in averages.items()}
