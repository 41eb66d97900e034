"""The training functions as tests call them: with all options in one config, and without progress bars."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynlm.data.stream import Stream
from dynlm.train import cache, gate
from dynlm.train import finetune as finetuning
from dynlm.train import metatrain as metatraining
from dynlm.train import tune as tuning
from dynlm.train.config import Config
from tests.tiny import opened


def tune(folder: Path, config: Config) -> dict[str, Any]:
    return tuning.tune(opened(folder, config), quiet=True)


def tune_cache(folder: Path, config: Config) -> dict[str, Any]:
    return cache.tune_cache(opened(folder, config), quiet=True)


def train_gate(folder: Path, config: Config) -> dict[str, Any]:
    return gate.train_gate(opened(folder, config), quiet=True)


def metatrain(folder: Path, config: Config) -> dict[str, Any]:
    return metatraining.metatrain(opened(folder, config), quiet=True)


def finetune(folder: Path, config: Config) -> dict[str, Any]:
    return finetuning.finetune(opened(folder, config), quiet=True)


def tuning_stream(folder: Path, config: Config, tokens: int) -> Stream:
    return tuning.tuning_stream(opened(folder, config), tokens)
