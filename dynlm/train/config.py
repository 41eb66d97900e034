"""All options of a run of a language model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions, StepOptions
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.models.options import LSTMOptions, RegularisationOptions
from dynlm.run.options import RunOptions
from dynlm.train.options import FinetuneOptions, MetatrainOptions, PretrainOptions, TuneOptions


@dataclass
class Config:
    """All options of a run, section by section, as ``runs/NAME/config.yaml`` keeps them."""

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
    from dynlm.run.folder import MAKERS, load_options  # imports torch

    return load_options(folder, Config, *MAKERS)
