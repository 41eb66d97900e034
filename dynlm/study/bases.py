"""The base models of a study: the run itself, a run beside it for each further seed, and runs that variants name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.run.provenance import read_provenance
from dynlm.run.run import Run
from dynlm.runtime.parsing import read_json
from dynlm.study.options import StudyOptions
from dynlm.study.variants import Variant
from dynlm.train.config import Config, load_config
from dynlm.train.pretrain import checkpoints_of, pretrain, refuse_other_options


@dataclass(frozen=True)
class Base:
    """A base model: its seed, the options of training it, and the study's options for its run."""

    seed: int
    made_with: Config
    config: Config

    @property
    def path(self) -> Path:
        """The folder of its run."""
        return self.config.run.path

    @property
    def is_trained(self) -> bool:
        """Whether there is nothing left to train."""
        return (self.path / "model.json").exists()

    def train(self, quiet: bool) -> None:
        """Train it, or resume its training."""
        pretrain(self.made_with, quiet)

    def open(self) -> Run:
        """Open its run with the study's options."""
        return Run(self.path, {}).with_sections(*vars(self.config).values())


def bases_of(options: StudyOptions) -> list[Base]:
    """Return the base models of the study, the run's own first.

    Raises UserError where the run's own seed is not the first one, where the run cannot be trained from another seed,
    for a run of another seed that was made with other options, and, with ``study.tune`` false, one that is not trained.
    """
    config, study = options.run_options(), options.study
    own, seeds = config.run, study.base_seeds or [config.run.seed]
    if seeds[0] != own.seed:
        what = f"study.base_seeds begins with {seeds[0]}, and run.seed is {own.seed}"
        raise UserError(what, do="name the run's own seed first")
    bases = [Base(own.seed, config, config)]
    if len(seeds) == 1:
        return bases
    made = _training_of(config)
    for seed in seeds[1:]:
        run = own.replace(name=f"{own.name}-seed-{seed}", seed=seed)
        of_training = dataclasses.replace(made, run=run.replace(precision=made.run.precision))
        base = Base(seed, of_training, dataclasses.replace(config, run=run))
        refuse_other_options(base.path, checkpoints_of(of_training))
        if not (study.tune or base.is_trained):
            raise UserError(
                f"no base model of seed {seed}", base.path, "leave out --study.tune false to have it trained"
            )
        bases.append(base)
    return bases


def _training_of(config: Config) -> Config:
    """Return the options that the study's run was, or will be, trained with."""
    path = config.run.path
    if not (path / "model.json").exists():
        return config
    about = read_json(path / "model.json")
    if config.model.MAKER != "dynlm pretrain" or not isinstance(about, dict) or "finetuned_from" in about:
        do = "leave it out, or study a run that `dynlm pretrain` made"
        raise UserError("study.base_seeds: this base model cannot be trained from another seed", path, do)
    made = load_config(path)
    if made.run.seed != config.run.seed:
        what = f"study.base_seeds: this run was trained with run.seed {made.run.seed}, not {config.run.seed}"
        raise UserError(what, path, f"give --run.seed {made.run.seed}")
    return made


def other_runs(run: Run, variants: list[Variant]) -> Mapping[str, Run]:
    """Return the run of each variant that names one, by the variant's name; each reads the study's text.

    Raises UserError for a run that is not trained, or that was trained on another text or with another tokenizer.
    """
    opened = {}
    for variant in variants:
        if variant.run is None:
            continue
        path, who = run.path.parent / variant.run, f"variant {variant.name!r}"
        do = f"`dynlm pretrain --config {run.path / 'config.yaml'} --run.name {variant.run}`"
        if not (path / "model.json").exists():
            raise UserError(f"{who}: this run is not trained", path, f"train it: {do} with a larger model")
        other = Run.open(path, run.options.replace(name=variant.run), run.section(CorpusOptions), variant.model)
        if other.trained.tokenizer.fingerprint != run.trained.tokenizer.fingerprint:
            raise UserError(f"{who}: this run has another tokenizer than the study's", path, f"train another: {do}")
        texts = [read_provenance(each.path)["data"].get("train") for each in (run, other)]
        if None not in texts and texts[0] != texts[1]:
            raise UserError(f"{who}: this run was trained on another text", path, f"train another: {do}")
        opened[variant.name] = other
    return opened
