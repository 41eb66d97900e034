"""Options of learning from a user's own texts in one command."""

from __future__ import annotations

from dataclasses import dataclass, field

from dynlm.run.options import RunOptions
from dynlm.runtime.validation import Section, bounded

FEWEST_WORDS = 5_000
"""With less, one of the splits may have no articles (``fit``)."""


@dataclass
class LearnConfig(Section):
    """What is learned from, and how long; all other options are fitted to the size of the texts."""

    SECTION = "learn"

    fewest_words: int = bounded(100_000, FEWEST_WORDS)
    """Of fewer words nothing is trained: ``model`` reads the texts instead."""
    model: str = "wikitext-2-small"
    """The run or packed model that reads them then."""
    budget: float = bounded(1.0, 0.01, 100)
    """Factor of the passes of training and of the tokens of tuning and meta-training; below 1 for a quick trial."""


@dataclass
class FieldOptions(Section):
    """Records with other fields."""

    SECTION = "corpus"

    text_field: str = "text"
    """Field with the text, in JSON lines and Parquet."""
    title_field: str = "title"
    """Field with the title, if there is one."""


@dataclass
class OwnRunOptions(RunOptions):
    """The run's folder and the device."""

    name: str = "own"
    """The run's name: its folder is runs/NAME."""


@dataclass
class LearnOptions:
    """All options of ``dynlm learn``."""

    run: OwnRunOptions = field(default_factory=OwnRunOptions)
    learn: LearnConfig = field(default_factory=LearnConfig)
    corpus: FieldOptions = field(default_factory=FieldOptions)
