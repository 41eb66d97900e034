"""theta_0 trained to be read with: fine-tuned by what it costs while a rule moves the weights away from it.

To first order d theta_t / d theta_0 is 1 under every rule (of theta_t - theta_0 nothing depends on theta_0 but by the
gradients, which first order takes as constants), so the gradient of a segment's mean nats at theta_t *is* the
meta-gradient of theta_0: first-order MAML (Finn et al. 2017) on a language model. With memory.rule none theta_t is
theta_0 and the same function is plain training, at the same budget: the same articles, optimiser and steps.

The result is a run of its own; the one that it starts from stays as it is. Lanes that are being read move along with
theta_0, and g's phi may be learned in the same reading.
"""

from __future__ import annotations

import dataclasses
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from dynlm.adapt.loop import mean_nats, read_segment
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.reader import Reader, StepEvent
from dynlm.adapt.rules.learned import Meta, clamp_
from dynlm.adapt.rules.per_weight_lstm import CoordinateMeta
from dynlm.adapt.state import Memory
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.models.lstm.model import Params
from dynlm.run import provenance
from dynlm.run import rule_store as memory_folder
from dynlm.run.folder import TrainedModel, load_model, log_line, save_config, save_model
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive
from dynlm.runtime.perplexity import perplexity
from dynlm.train.config import Config
from dynlm.train.pretrain import validate
from dynlm.train.shared_stream import shared_stream
from dynlm.train.tune import tune, tuning_stream


class _Found(NamedTuple):
    """Static parameters, and g's phi where the rule is meta (else nothing)."""

    static: Params
    phi: Params

    def clone(self) -> _Found:
        return _Found(*({name: tensor.clone() for name, tensor in tensors.items()} for tensors in self))


class StaticGradients:
    """An observer that sums dL / d theta_t over segments and lanes: to first order the gradient of theta_0."""

    def __init__(self, static: Params):
        self.gathered = {name: torch.zeros_like(tensor) for name, tensor in static.items()}

    @torch.no_grad()
    def __call__(self, shown: StepEvent) -> None:
        gathered = self.gathered[shown.gradient.name][shown.gradient.part]
        for u in shown.gradient.tensor:
            gathered.add_(u)


@torch.no_grad()
def move_static(static: Params, before: Params, memory: Memory) -> None:
    """Let the lanes of ``memory``, read from ``before``, stand as far from ``static`` as they stood from that."""
    for name, theta in memory.weights.items():
        moved = static[name] - before[name]
        theta.add_(moved)
        if name in memory.home:
            memory.home[name].add_(moved)


def finetune(folder: Path, config: Config, quiet: bool = False) -> dict[str, Any]:
    """Train the static parameters of the run in ``folder`` further, read by ``config.memory``, into a run of its own.

    The tensors of ``memory.dynamic`` move. Of the start and the Polyak averages halfway and at the end the new run
    gets the one that reads the tuning articles best by ``finetune.pick_rule``. Returns what its card says. Raises
    UserError where the new run is there already, or another process makes it, or the rules have not what they need.
    """
    target = folder.parent / (config.finetune.name or f"{folder.name}-finetuned-{_label(config.memory)}")
    with exclusive(target, "this run"):
        return _finetune(folder, target, config, quiet)


def _finetune(folder: Path, target: Path, config: Config, quiet: bool) -> dict[str, Any]:
    options, memory = config.finetune, config.memory
    processes = Processes.start(config.run.cpu)
    quiet = quiet or not processes.is_main
    _check(config, target)
    trained = load_model(folder, processes.device)
    picked_by = dataclasses.replace(memory, rule=options.pick_rule or memory.rule)
    reader = memory_folder.open_reader(folder, trained, memory)
    memory_folder.open_reader(folder, trained, picked_by)  # Before anything takes long.
    meta, phi = (None, {}) if memory.rule != "meta" else memory_folder.open_meta(folder, trained, memory)
    if options.phi and not isinstance(meta, Meta):
        raise UserError("finetune.phi does not go with a g of kind lstm", do="leave it out")
    if meta is not None and set(meta.names) - set(reader.dynamic):
        raise UserError(f"g {memory.g!r} moves other tensors than memory.dynamic names", do="name those it moves")
    # Read before training: what cannot be read is told before hours are spent.
    with processes.main_process_first():
        tuning, valid = (
            tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
            for split in (config.tune.split, "valid")
        )
    begun = time.monotonic()
    candidates = {
        "start": _Found(trained.params, phi),
        **_learn(folder, target.name, config, trained, reader, meta, phi, processes, quiet),
    }
    seconds = time.monotonic() - begun
    stream = tuning_stream(tuning, config, options.pick_tokens)
    nats = {}
    for name, (static, own_phi) in candidates.items():
        moved = dataclasses.replace(trained, params=static)
        by = memory_folder.open_reader(folder, moved, picked_by)
        if picked_by.rule == "meta" and meta is not None:
            by = dataclasses.replace(by, rule=_with_static(meta, static).rule(own_phi))
        nats[name] = mean_nats(by, stream)
    kept = min(nats, key=lambda name: nats[name] if math.isfinite(nats[name]) else math.inf)
    static, phi = candidates[kept]
    about: dict[str, Any] = {
        "corpus": source_name(config.corpus),
        "finetuned_from": {"run": folder.name, "model": trained.fingerprint},
        "rule": _label(memory),
        "reset": memory.reset,
        "finetune": dataclasses.asdict(options),
        "tokens": options.tokens,
        "seconds": round(seconds, 1),
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
        # Its text is that of the run it comes from; what it ran on is its own.
        data = provenance.read_provenance(folder)["data"]
        provenance.record_sitting(target, data, provenance.made_with(processes.device))
        save_model(target, trained.model, static, trained.tokenizer, about)
        memory_folder.carry_over(folder, trained, target, load_model(target))
        if meta is not None:
            learned_by = memory_folder.load_learned(folder, memory.g, memory.reset, trained)
            assert learned_by is not None
            told = {key: value for key, value in learned_by[1].items() if key not in ("model", "tensors")}
            new = load_model(target)
            memory_folder.save_learned(target, memory.g, memory.reset, _with_static(meta, static), phi, told, new)
        log_line(target, event="finetuned", **about)
        if options.tune:
            memory_folder.drop_statistics(target)
            tune(target, dataclasses.replace(config, memory=dataclasses.replace(memory, rule="rms")), quiet)
    return {"run": str(target), **about}


def _learn(
    folder: Path,
    run: str,
    config: Config,
    trained: TrainedModel,
    reader: Reader,
    meta: Meta | CoordinateMeta | None,
    phi: Params,
    processes: Processes,
    quiet: bool,
) -> dict[str, _Found]:
    """Read the articles, moving theta_0 (and phi) after every window: their Polyak averages halfway and at the end."""
    options = config.finetune
    with processes.main_process_first():
        split = tokenise(iter_articles(config.corpus, options.split), trained.tokenizer, config.corpus.num_proc)
    stream = shared_stream(split, options.lanes, "finetune.lanes", config, processes)
    now = _Found(trained.params, phi).clone()
    mean = now.clone()
    moving = {name: now.static[name] for name in reader.dynamic}
    groups: list[dict[str, Any]] = [{"params": list(moving.values()), "lr": options.rate}]
    if meta is not None:
        meta = _with_static(meta, now.static)
        reader = dataclasses.replace(reader, rule=meta.rule(now.phi))
    reader = dataclasses.replace(reader, static=now.static)
    memory, place = reader.fresh_memory(stream.local_lanes), stream.begin()
    gradients, sensitivities = StaticGradients(moving), None
    if options.phi and isinstance(meta, Meta):
        groups.append({"params": list(now.phi.values()), "lr": config.metatrain.rate})
        sensitivities = Sensitivities(meta, reader.rule, memory, reader.native)
    adam = torch.optim.Adam(groups)

    def observe(shown: StepEvent) -> None:
        gradients(shown)
        if sensitivities is not None:
            sensitivities(shown)

    steps, averages = 0, dict[str, _Found]()
    window = torch.zeros(2, dtype=torch.float64, device=processes.device)
    rounds = math.ceil(options.window / options.lanes)
    bar = tqdm(total=options.tokens, desc="finetune", unit="tok", unit_scale=True, disable=quiet)
    while place.tokens < options.tokens:
        read = place.tokens
        for _ in range(rounds):
            segment, place = stream.next(place)
            assert segment is not None, "a repeating stream has no end"
            if sensitivities is not None and segment.starts_B.any():
                sensitivities.begin_articles(reader, memory, segment.starts_B.nonzero()[0])
            restored_B = memory.guarded and memory.guarded.restored_B.clone()
            nats_BT, memory = read_segment(reader, memory, segment, observe)
            if sensitivities is not None and memory.guarded is not None and restored_B is not None:
                sensitivities.forget((memory.guarded.restored_B > restored_B).nonzero().flatten().tolist())
            mask_BT = torch.from_numpy(segment.mask_BT).to(nats_BT.device)
            window += torch.stack([mask_BT.any(1).sum(), (nats_BT.double() * mask_BT).sum()])
        bar.update(place.tokens - read)
        count, nats = processes.reduce(window).tolist()
        before = {name: tensor.clone() for name, tensor in moving.items()}
        for name, tensor in moving.items():
            tensor.grad = processes.reduce(gradients.gathered[name]) / count
            gradients.gathered[name].zero_()
        if sensitivities is not None:
            for key, tensor in now.phi.items():
                tensor.grad = processes.reduce(sensitivities.gathered[key]) / count
                sensitivities.gathered[key].zero_()
        adam.step()
        move_static(moving, before, memory)
        if sensitivities is not None:
            clamp_(now.phi, config.metatrain.bound)
            sensitivities.rule = sensitivities.meta.rule(now.phi, importance=sensitivities.importance)
            reader = dataclasses.replace(reader, rule=sensitivities.rule)
        steps += 1
        for averaged, tensors in zip(mean, now, strict=True):
            for name, tensor in averaged.items():
                # Early on the average is over what there is, not weighed down by the start.
                tensor.lerp_(tensors[name], max(1 - options.average, 1 / (steps + 1)))
        if processes.is_main:
            told = {"tokens": place.tokens, "nats_of_window": nats, "segments_of_window": count}
            log_line(folder, event="finetune", run=run, **told)
        window.zero_()
        if "halfway" not in averages and place.tokens >= options.tokens / 2:
            averages["halfway"] = mean.clone()
    bar.close()
    return {**averages, "learned": mean}


def _check(config: Config, target: Path) -> None:
    """Refuse what cannot be done before anything is read."""
    options, memory = config.finetune, config.memory
    if (target / "model.json").exists():
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
            "finetune.tune does not go with memory.rule meta, whose phi stands on the rates it was learned from",
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
