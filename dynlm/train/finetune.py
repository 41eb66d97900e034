"""Fine-tuning of theta_0 by the losses of a reading in which a rule moves the weights away from it.

To first order d theta_t / d theta_0 is 1 under every rule (of theta_t - theta_0 only the gradients depend on theta_0,
and first order takes them as constants), so the gradient of a segment's mean nats at theta_t *is* the meta-gradient of
theta_0: first-order MAML (Finn et al. 2017) on a language model. With memory.rule none theta_t is theta_0 and the same
function is plain training, at the same budget: the same articles, optimiser and steps.

The result is a run of its own; the one that it starts from stays as it is. The weights of lanes that are being read
move along with theta_0, and phi of g may be learned in the same reading.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.meta_gradient.learner import MetaGradient, StaticGradients
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.data.articles import source_name
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.run import provenance
from dynlm.run.folder import save_config, save_model
from dynlm.run.memory_store import AnyLearnedRule
from dynlm.run.opening import open_meta
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.files import exclusive
from dynlm.runtime.tensors import params_fingerprint
from dynlm.runtime.tree import clone
from dynlm.runtime.validation import sections_of
from dynlm.train.config import Config
from dynlm.train.meta_texts import MetaText, outer_stream
from dynlm.train.options import FinetuneOptions, MetatrainOptions, TuneOptions
from dynlm.train.outer_loop import OuterLoop, best_of
from dynlm.train.pretrain_loop import validation_card
from dynlm.train.tune import tune, tuning_stream
from dynlm.types import Params

Candidate = tuple[Params, Params]
"""Static parameters, and phi of g where the rule is meta (else empty)."""


def finetune(run: Run, quiet: bool = False) -> dict[str, Any]:
    """Train the static parameters of ``run`` further, adapted by its memory's options, into a new run.

    The tensors of ``memory.targets`` move. Of the start and the Polyak averages halfway and at the end the new run
    gets the one that reads the tuning articles best by ``finetune.pick_rule``. Resumes from the newest checkpoint, in
    ``run``. With ``finetune.phi`` phi is learned by ``metatrain``'s learning rate and bound. Returns what the new
    run's card says. Raises UserError where the new run exists already, or another process makes it, or the rules lack
    what they need, and Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    run = run.writable()
    memory, options = run.section(MemoryOptions), run.section(FinetuneOptions)
    target = run.path.parent / (options.name or f"{run.path.name}-finetuned-{_label(memory)}")
    with exclusive(target, "this run"):
        return _finetune(run, target, quiet or not run.processes.is_main)


def _finetune(run: Run, target: Path, quiet: bool) -> dict[str, Any]:
    memory, options, processes = run.section(MemoryOptions), run.section(FinetuneOptions), run.processes
    stem = f"finetune-{target.name}"
    # A run that was killed while it was written still has its checkpoints, and is written again.
    if (target / "model.json").exists() and not run.checkpoints(stem).paths():
        raise UserError("this run is there already", target, "choose another --finetune.name or remove the folder")
    _check(memory, options)
    picked_by = memory.replace(rule=options.pick_rule or memory.rule)
    dynamic_model = run.dynamic_model(memory)
    run.dynamic_model(picked_by)  # Before anything takes long.
    meta, phi = (None, {}) if memory.rule != "meta" else open_meta(run.store, memory)
    if options.phi and not isinstance(meta, LearnedRule):
        raise UserError("finetune.phi does not go with a g of kind lstm", do="leave it out")
    if meta is not None and set(meta.names) - set(dynamic_model.dynamic):
        raise UserError(f"g {memory.g!r} moves other tensors than memory.targets names", do="name those it moves")
    # Before training: a corpus that cannot be read is reported before hours are spent.
    with processes.main_process_first():
        read, valid = run.split(options.split), run.split("valid")
        picking = tuning_stream(run, options.pick_tokens)
    sections = (memory, options, *([run.section(MetatrainOptions)] if options.phi else []))
    checkpoints = run.checkpoints(stem, *sections, phi=params_fingerprint(phi), **{"the text": read.fingerprint})
    seconds, learned = _learn(run, target, (meta, phi), checkpoints, quiet)
    candidates: dict[str, Candidate] = {"start": (run.trained.params, phi), **learned}
    nats = {}
    for name, (static, own_phi) in candidates.items():
        by = run.dynamic_model(picked_by, dataclasses.replace(run.trained, params=static))
        if picked_by.rule == "meta" and meta is not None:
            by = dataclasses.replace(by, rule=_with_static(meta, static).rule(own_phi))
        nats[name] = mean_nats(by, picking)
    kept = candidates[best_of(nats)]
    about: dict[str, Any] = {
        "corpus": source_name(run.section(CorpusOptions)),
        "finetuned_from": {"run": run.path.name, "model": run.fingerprint},
        "rule": _label(memory),
        "reset": memory.reset,
        "finetune": dataclasses.asdict(options),
        "tokens": options.tokens,
        "seconds": round(seconds, 1),
        "picked_by": _label(picked_by),
        "tuning_nats_per_token": nats,
        "kept": best_of(nats),
        **validation_card(run.trained.model, kept[0], valid),
    }
    if processes.is_main:
        _write(run, target, kept, meta, about)
        if options.tune:
            new = Run.open(target, memory.replace(rule="rms"), run.section(TuneOptions))
            new.store.drop_statistics()
            tune(new, quiet)
        checkpoints.drop()
    return {"run": str(target), **about}


def _check(memory: MemoryOptions, options: FinetuneOptions) -> None:
    """Raise UserError for options that do not go together."""
    if memory.cache != "none" or memory.no_regret:
        what = "memory.cache and memory.no_regret do not go with finetune, which trains weights"
        raise UserError(what, do="leave them out, and read the new run with them")
    if options.phi and memory.rule != "meta":
        what = f"finetune.phi learns g's phi, memory.rule is {memory.rule!r}"
        raise UserError(what, do="choose --memory.rule meta")
    if options.tune and memory.rule == "meta":
        what = "finetune.tune does not go with memory.rule meta, whose phi depends on the rates it was learned from"
        raise UserError(what, do="leave it out, and run `dynlm metatrain` on the new run for a g of its own")
    if memory.rule != "meta" and options.pick_rule == "meta":
        what = "finetune.pick_rule is 'meta', and memory.rule is not"
        raise UserError(what, do="choose --memory.rule meta, or rms to pick by")


def _learn(
    run: Run, target: Path, start: tuple[AnyLearnedRule | None, Params], checkpoints: Checkpoints, quiet: bool
) -> tuple[float, dict[str, Candidate]]:
    """Return (seconds, the averages halfway and at the end); ``start``: g, where the rule is that, and its phi."""
    options, bounds = run.section(FinetuneOptions), run.section(MetatrainOptions)
    dynamic_model, meta, phi = run.dynamic_model(), start[0], clone(start[1])
    dynamic_model = dataclasses.replace(dynamic_model, static=clone(dynamic_model.static))
    if meta is not None:
        meta = _with_static(meta, dynamic_model.static)
        dynamic_model = dataclasses.replace(dynamic_model, rule=meta.rule(phi))
    static = StaticGradients({name: dynamic_model.static[name] for name in dynamic_model.dynamic})
    learners: dict[MetaGradient, float] = {static: options.lr}
    with run.processes.in_step(run.options.patience) as processes:
        stream = outer_stream(run, [MetaText(options.split, run, (options.split,))], options, processes)
        loop = OuterLoop(run, dynamic_model, stream, options, processes)
        if options.phi and isinstance(meta, LearnedRule):
            learners[Sensitivities(meta, phi, dynamic_model, loop.memory, bounds.bound)] = bounds.lr
        averages = loop.learn(learners, checkpoints, quiet, run=target.name)
    return loop.seconds, {
        when: ({**run.trained.params, **learned[0]}, learned[1] if options.phi else start[1])
        for when, learned in averages.items()
    }


def _write(run: Run, target: Path, kept: Candidate, meta: AnyLearnedRule | None, about: dict[str, Any]) -> None:
    """Write the new run: ``kept``, and what the run that it starts from keeps for rules."""
    memory, trained, (static, phi) = run.section(MemoryOptions), run.trained, kept
    own = dataclasses.replace(run.options, name=target.name, folder=str(target.parent))
    sections = {**{name: run.section(kind) for name, kind in sections_of(Config).items()}, "run": own}
    save_config(target, {name: dataclasses.asdict(section) for name, section in sections.items()})
    trained.tokenizer.save(target / "tokenizer")
    # Its text is that of the run it comes from; the machine is this one.
    data = provenance.read_provenance(run.path)["data"]
    provenance.record_sitting(target, data, provenance.made_with(run.processes.device))
    save_model(target, trained.model, static, trained.tokenizer, about)
    new = Run.open(target)
    run.store.copy_to(new.store)
    if meta is not None:
        learned_by = run.store.load_learned(memory.g, memory.reset)
        assert learned_by is not None
        card = {key: value for key, value in learned_by[1].items() if key not in ("model", "tensors")}
        new.store.save_learned(memory, _with_static(meta, static), phi, card)
    new.log(event="finetuned", **about)


def _label(memory: MemoryOptions) -> str:
    return memory.g if memory.rule == "meta" else memory.rule


def _with_static(meta: AnyLearnedRule, static: Params) -> AnyLearnedRule:
    return dataclasses.replace(meta, static={name: static[name] for name in meta.names})
