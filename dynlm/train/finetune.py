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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from dynlm.train.options import FinetuneOptions, MetatrainOptions, TuneOptions
from dynlm.train.outer_loop import OuterLoop, best_of
from dynlm.train.pretrain_loop import validation_card
from dynlm.train.tune import tune, tuning_stream
from dynlm.types import Params


class _Candidate(NamedTuple):
    """Static parameters, and phi of g where the rule is meta (else empty)."""

    static: Params
    phi: Params


def finetune(
    run: Run,
    memory: MemoryOptions,
    options: FinetuneOptions,
    metatrain: MetatrainOptions,
    tuning: TuneOptions,
    quiet: bool = False,
) -> dict[str, Any]:
    """Train the static parameters of ``run`` further, read by ``memory``, into a new run.

    The tensors of ``memory.dynamic`` move. Of the start and the Polyak averages halfway and at the end the new run
    gets the one that reads the tuning articles best by ``finetune.pick_rule``. Resumes from the newest checkpoint, in
    ``run``. With ``finetune.phi`` phi is learned by ``metatrain``'s learning rate and bound. Returns what the new
    run's card says. Raises UserError where the new run exists already, or another process makes it, or the rules lack
    what they need, and Stopped, with a checkpoint saved, at Ctrl-C and SIGTERM.
    """
    target = run.path.parent / (options.name or f"{run.path.name}-finetuned-{_label(memory)}")
    with exclusive(target, "this run"):
        return _Finetuning(run, memory, options, metatrain, tuning, target).run_all(quiet or not run.processes.is_main)


@dataclass(frozen=True)
class _Finetuning:
    run: Run
    memory: MemoryOptions
    options: FinetuneOptions
    metatrain: MetatrainOptions
    tuning: TuneOptions
    target: Path

    def run_all(self, quiet: bool) -> dict[str, Any]:
        run, memory, options, processes = self.run, self.memory, self.options, self.run.processes
        stem = f"finetune-{self.target.name}"
        self._check(run.checkpoints(stem))
        picked_by = memory.replace(rule=options.pick_rule or memory.rule)
        dynamic_model = run.dynamic_model(memory)
        run.dynamic_model(picked_by)  # Before anything takes long.
        meta, phi = (None, {}) if memory.rule != "meta" else open_meta(run.store, memory)
        if options.phi and not isinstance(meta, LearnedRule):
            raise UserError("finetune.phi does not go with a g of kind lstm", do="leave it out")
        if meta is not None and set(meta.names) - set(dynamic_model.dynamic):
            raise UserError(f"g {memory.g!r} moves other tensors than memory.dynamic names", do="name those it moves")
        # Before training: a corpus that cannot be read is reported before hours are spent.
        with processes.main_process_first():
            read, valid = run.split(options.split), run.split("valid")
            picking = tuning_stream(run, memory, self.tuning, options.pick_tokens)
        sections = (memory, options, *([self.metatrain] if options.phi else []))
        checkpoints = run.checkpoints(stem, *sections, phi=params_fingerprint(phi), **{"the text": read.fingerprint})
        seconds, learned = self._learn(meta, phi, checkpoints, quiet)
        candidates = {"start": _Candidate(run.trained.params, phi), **learned}
        nats = {}
        for name, (static, own_phi) in candidates.items():
            by = run.dynamic_model(picked_by, dataclasses.replace(run.trained, params=static))
            if picked_by.rule == "meta" and meta is not None:
                by = dataclasses.replace(by, rule=_with_static(meta, static).rule(own_phi))
            nats[name] = mean_nats(by, picking)
        kept_name = best_of(nats)
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
            "kept": kept_name,
            **validation_card(run.trained.model, candidates[kept_name].static, valid),
        }
        if processes.is_main:
            self._write(candidates[kept_name], meta, about, quiet)
            checkpoints.drop()
        return {"run": str(self.target), **about}

    def _check(self, checkpoints: Checkpoints) -> None:
        """Raise UserError for what cannot be done, before anything is read."""
        options, memory = self.options, self.memory
        # A run that was killed while it was written still has its checkpoints, and is written again.
        if (self.target / "model.json").exists() and not checkpoints.paths():
            do = "choose another --finetune.name or remove the folder"
            raise UserError("this run is there already", self.target, do)
        if memory.cache != "none" or memory.no_regret:
            raise UserError(
                "memory.cache and memory.no_regret do not go with finetune, which trains weights",
                do="leave them out, and read the new run with them",
            )
        if options.phi and memory.rule != "meta":
            what = f"finetune.phi learns g's phi, memory.rule is {memory.rule!r}"
            raise UserError(what, do="choose --memory.rule meta")
        if options.tune and memory.rule == "meta":
            raise UserError(
                "finetune.tune does not go with memory.rule meta, whose phi depends on the rates it was learned from",
                do="leave it out, and run `dynlm metatrain` on the new run for a g of its own",
            )
        if memory.rule != "meta" and options.pick_rule == "meta":
            what = "finetune.pick_rule is 'meta', and memory.rule is not"
            raise UserError(what, do="choose --memory.rule meta, or rms to pick by")

    def _learn(
        self, meta: AnyLearnedRule | None, phi: Params, checkpoints: Checkpoints, quiet: bool
    ) -> tuple[float, dict[str, _Candidate]]:
        """Return (seconds, the averages halfway and at the end)."""
        run, options, start_phi = self.run, self.options, phi
        dynamic_model, phi = run.dynamic_model(self.memory), clone(phi)
        dynamic_model = dataclasses.replace(dynamic_model, static=clone(dynamic_model.static))
        if meta is not None:
            meta = _with_static(meta, dynamic_model.static)
            dynamic_model = dataclasses.replace(dynamic_model, rule=meta.rule(phi))
        static = StaticGradients({name: dynamic_model.static[name] for name in dynamic_model.dynamic})
        learners: dict[MetaGradient, float] = {static: options.lr}
        with run.processes.in_step(run.options.patience) as processes:
            loop = OuterLoop(run, dynamic_model, run.split(options.split), self.memory.segment, options, processes)
            if options.phi and isinstance(meta, LearnedRule):
                bound, lr = self.metatrain.bound, self.metatrain.lr
                learners[Sensitivities(meta, phi, dynamic_model, loop.memory, bound)] = lr
            averages = loop.learn(learners, checkpoints, quiet, run=self.target.name)
        return loop.seconds, {
            when: _Candidate({**run.trained.params, **learned[0]}, learned[1] if options.phi else start_phi)
            for when, learned in averages.items()
        }

    def _write(self, kept: _Candidate, meta: AnyLearnedRule | None, about: dict[str, Any], quiet: bool) -> None:
        run, memory, target, trained = self.run, self.memory, self.target, self.run.trained
        own = dataclasses.replace(run.options, name=target.name, folder=str(target.parent))
        sections = {**{name: run.section(kind) for name, kind in sections_of(Config).items()}, "run": own}
        save_config(target, {name: dataclasses.asdict(section) for name, section in sections.items()})
        trained.tokenizer.save(target / "tokenizer")
        # Its text is that of the run it comes from; the machine is this one.
        data = provenance.read_provenance(run.path)["data"]
        provenance.record_sitting(target, data, provenance.made_with(run.processes.device))
        save_model(target, trained.model, kept.static, trained.tokenizer, about)
        new = Run.open(target)
        run.store.copy_to(new.store)
        if meta is not None:
            learned_by = run.store.load_learned(memory.g, memory.reset)
            assert learned_by is not None
            card = {key: value for key, value in learned_by[1].items() if key not in ("model", "tensors")}
            own_meta = _with_static(meta, kept.static)
            new.store.save_learned(memory, own_meta, kept.phi, card)
        new.log(event="finetuned", **about)
        if self.options.tune:
            new.store.drop_statistics()
            tune(new, memory.replace(rule="rms"), self.tuning, quiet)


def _label(memory: MemoryOptions) -> str:
    return memory.g if memory.rule == "meta" else memory.rule


def _with_static(meta: AnyLearnedRule, static: Params) -> AnyLearnedRule:
    return dataclasses.replace(meta, static={name: static[name] for name in meta.names})
