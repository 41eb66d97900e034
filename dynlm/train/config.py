"""All options of a run of a language model, section by section, as ``runs/NAME/config.yaml`` keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_type_hints

from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions, StepOptions
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.models.options import LSTMOptions, RegularisationOptions
from dynlm.run.options import RunOptions
from dynlm.train.options import FinetuneOptions, MetatrainOptions, PretrainOptions, TuneOptions

if TYPE_CHECKING:
    from dynlm.run.run import Run  # imports torch


@dataclass
class Config:
    """All options of a run; ``runs/NAME/config.yaml`` keeps them."""

    run: RunOptions = field(default_factory=RunOptions)
    corpus: CorpusOptions = field(default_factory=CorpusOptions)
    tokenizer: TokenizerOptions = field(default_factory=TokenizerOptions)
    model: LSTMOptions = field(default_factory=LSTMOptions)
    regularisation: RegularisationOptions = field(default_factory=RegularisationOptions)
    pretrain: PretrainOptions = field(default_factory=PretrainOptions)
    memory: MemoryOptions = field(default_factory=StepOptions)
    tune: TuneOptions = field(default_factory=TuneOptions)
    g: LearnedRuleOptions = field(default_factory=LearnedRuleOptions)
    metatrain: MetatrainOptions = field(default_factory=MetatrainOptions)
    finetune: FinetuneOptions = field(default_factory=FinetuneOptions)


def load_config(folder: Path) -> Config:
    """Return the options that the run in ``folder`` was made with. Raises UserError if they cannot be read."""
    from dynlm.run.folder import load_options

    return load_options(folder, Config, "dynlm pretrain")


def config_of(run: Run) -> Config:
    """Return all options of a run."""
    return Config(**{name: run.section(kind) for name, kind in get_type_hints(Config).items()})
