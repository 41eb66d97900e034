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
from typing import Any, NamedTuple

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.meta_gradient.learner import MetaGradient, StaticGradients
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.learned import Meta
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.stream import Stream
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.run import provenance, rule_store
from dynlm.run.folder import load_model, log_line, params_fingerprint, save_config, save_model
from dynlm.runtime.checkpoints import Checkpointer, Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.perplexity import perplexity
from dynlm.runtime.renamed import original_options
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config
from dynlm.train.outer_loop import AveragedAdam, OuterLoop, Report, best_of, shared_stream
from dynlm.train.pretrain import validate
from dynlm.train.tune import tune, tuning_stream
from dynlm.types import Params


class _Candidate(NamedTuple):
    """Static parameters, and phi of g where the rule is meta (else empty)."""

    static: Params
    phi: Params


def finetune(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Train the static parameters of the run in ``folder`` further, read by ``config.memory``, into a new run.

    The tensors of ``memory.dynamic`` move. Of the start and the Polyak averages halfway and at the end the new run
    gets the one that reads the tuning articles best by ``finetune.pick_rule``. Resumes from the newest checkpoint, in
    ``folder``. Returns what the new run's card says. Raises UserError where the new run exists already, or another
    process makes it, or the rules lack what they need, and Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    target = folder.parent / (config.finetune.name or f"{folder.name}-finetuned-{_label(config.memory)}")
    with exclusive(target, "this run"):
        return _finetune(folder, target, config, quiet)


def _finetune(folder: Path, target: Path, config: Config, quiet: bool) -> dict[str, Any]:
    options, memory = config.finetune, config.memory
    processes = Processes.start(config.run.cpu)
    quiet = quiet or not processes.is_main
    checkpoints = Checkpoints(folder / "checkpoints", f"finetune-{target.name}", config.run.checkpoints_kept)
    _check(config, target, checkpoints)
    trained = load_model(folder, processes.device)
    picked_by = memory.replace(rule=options.pick_rule or memory.rule)
    reader = rule_store.open_reader(folder, trained, memory)
    rule_store.open_reader(folder, trained, picked_by)  # Before anything takes long.
    meta, phi = (None, {}) if memory.rule != "meta" else rule_store.open_meta(folder, trained, memory)
    if options.phi and not isinstance(meta, Meta):
        raise UserError("finetune.phi does not go with a g of kind lstm", do="leave it out")
    if meta is not None and set(meta.names) - set(reader.dynamic):
        raise UserError(f"g {memory.g!r} moves other tensors than memory.dynamic names", do="name those it moves")
    # Before training: a corpus that cannot be read is reported before hours are spent.
    with processes.main_process_first():
        tuning, valid, read = (
            tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
            for split in (config.tune.split, "valid", options.split)
        )
    made_with = {
        "run.seed": config.run.seed,
        **fingerprint_options(memory, options, *([config.metatrain] if options.phi else [])),
        "the model": trained.fingerprint,
        "the text": read.fingerprint,
        "phi": params_fingerprint(phi),
    }
    checkpoints = dataclasses.replace(checkpoints, made_with=made_with)
    with processes.in_step(config.run.patience) as in_step:
        stream = shared_stream(read, options.lanes, memory.segment, config.run.seed, "finetune.lanes", in_step)
        loop = _outer_loop(config, reader, meta, phi, stream, in_step)
        checkpointer = Checkpointer(checkpoints, loop, in_step, every=0, seconds=config.run.checkpoint_seconds)
        averages = loop.run(options, checkpointer, Report(folder, "finetune", {"run": target.name}, quiet))
    candidates = {"start": _Candidate(trained.params, phi)}
    for when, (static, *learned) in averages.items():
        candidates[when] = _Candidate({**trained.params, **static}, learned[0] if learned else phi)
    stream = tuning_stream(tuning, config, options.pick_tokens)
    nats = {}
    for name, (static, own_phi) in candidates.items():
        by = rule_store.open_reader(folder, dataclasses.replace(trained, params=static), picked_by)
        if picked_by.rule == "meta" and meta is not None:
            by = dataclasses.replace(by, rule=_with_static(meta, static).rule(own_phi))
        nats[name] = mean_nats(by, stream)
    kept = best_of(nats)
    static, phi = candidates[kept]
    about: dict[str, Any] = {
        "corpus": source_name(config.corpus),
        "finetuned_from": {"run": folder.name, "model": trained.fingerprint},
        "rule": _label(memory),
        "reset": memory.reset,
        "finetune": original_options("finetune", dataclasses.asdict(options)),
        "tokens": options.tokens,
        "seconds": round(loop.seconds, 1),
        "picked_by": _label(picked_by),
        "tuning_nats_per_token": nats,
        "kept": kept,
    }
    total, tokens = validate(trained.model, static, valid, 0)
    about |= {
        "valid_nats_per_token": total / tokens,
        "valid_perplexity_per_word": perplexity(total, int(valid.words_N.sum(dtype="int64"))),
    }
    if processes.is_main:
        run = dataclasses.replace(config.run, name=target.name, folder=str(target.parent))
        save_config(target, dataclasses.replace(config, run=run))
        trained.tokenizer.save(target / "tokenizer")
        # Its text is that of the run it comes from; the machine is this one.
        data = provenance.read_provenance(folder)["data"]
        provenance.record_sitting(target, data, provenance.made_with(processes.device))
        save_model(target, trained.model, static, trained.tokenizer, about)
        new = load_model(target)
        rule_store.carry_over(folder, trained, target, new)
        if meta is not None:
            learned_by = rule_store.load_learned(folder, memory.g, memory.reset, trained)
            assert learned_by is not None
            card = {key: value for key, value in learned_by[1].items() if key not in ("model", "tensors")}
            rule_store.save_learned(target, memory, _with_static(meta, static), phi, card, new)
        log_line(target, event="finetuned", **about)
        if options.tune:
            rule_store.drop_statistics(target)
            tune(target, dataclasses.replace(config, memory=memory.replace(rule="rms")), quiet)
        checkpoints.drop()
    return {"run": str(target), **about}


def _outer_loop(
    config: Config,
    reader: Reader,
    meta: Meta | CoordinateMeta | None,
    phi: Params,
    stream: Stream,
    processes: Processes,
) -> OuterLoop:
    options = config.finetune
    static, phi = ({name: tensor.clone() for name, tensor in tensors.items()} for tensors in (reader.static, phi))
    reader = dataclasses.replace(reader, static=static)
    if meta is not None:
        meta = _with_static(meta, static)
        reader = dataclasses.replace(reader, rule=meta.rule(phi))
    memory = reader.fresh_memory(stream.local_lanes)
    moving = {name: static[name] for name in reader.dynamic}
    learners: list[MetaGradient] = [StaticGradients(moving)]
    groups = [(moving, options.lr)]
    if options.phi and isinstance(meta, Meta):
        learners.append(Sensitivities(meta, phi, reader, memory, config.metatrain.bound))
        groups.append((phi, config.metatrain.lr))
    return OuterLoop(reader, memory, stream, learners, AveragedAdam(groups, options.average), processes)


def _check(config: Config, target: Path, checkpoints: Checkpoints) -> None:
    """Refuse what cannot be done before anything is read."""
    options, memory = config.finetune, config.memory
    # A run that was killed while it was written still has its checkpoints, and is written again.
    if (target / "model.json").exists() and not checkpoints.paths():
        raise UserError("this run is there already", target, "choose another --finetune.name or remove the folder")
    if memory.cache != "none" or memory.no_regret:
        raise UserError(
            "memory.cache and memory.no_regret do not go with finetune, which trains weights",
            do="leave them out, and read the new run with them",
        )
    if options.phi and memory.rule != "meta":
        raise UserError(f"finetune.phi learns g's phi, memory.rule is {memory.rule!r}", do="choose --memory.rule meta")
    if options.tune and memory.rule == "meta":
        raise UserError(
            "finetune.tune does not go with memory.rule meta, whose phi depends on the rates it was learned from",
            do="leave it out, and run `dynlm metatrain` on the new run for a g of its own",
        )
    if memory.rule != "meta" and options.pick_rule == "meta":
        raise UserError(
            "finetune.pick_rule is 'meta', and memory.rule is not", do="choose --memory.rule meta, or rms to pick by"
        )


def _label(memory: MemoryOptions) -> str:
    return memory.g if memory.rule == "meta" else memory.rule


def _with_static(meta: Meta | CoordinateMeta, static: Params) -> Meta | CoordinateMeta:
    return dataclasses.replace(meta, static={name: static[name] for name in meta.names})
