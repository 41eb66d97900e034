"""``dynlm`` from Python, in a few lines: ``dynlm.load`` gives a model that reads, and remembers what it has read.

The object holds a run and the memory of what it has read so far, which each call of ``read`` replaces. It can be shared
by ``huggingface_hub``'s mixin: ``save_pretrained``, ``push_to_hub``, ``from_pretrained``; what was read is not shared.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from dynlm.adapt.memory_file import SavedMemory, load_memory, options_of, save_memory
from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.evaluation.generate import check_draws, go_on
from dynlm.evaluation.model_card import model_card
from dynlm.evaluation.session import ReadText, one_lane, read_on
from dynlm.run.folder import load_model
from dynlm.run.rule_store import open_reader
from dynlm.run.sharing import PATTERNS, share_run
from dynlm.runtime.distributed import Processes
from dynlm.train.config import Config, load_config


class DynamicLM(ModelHubMixin, library_name="dynlm"):
    """A trained model and the memory of what it has read, at first nothing. ``load`` makes one."""

    def __init__(self, folder: Path, run_options: Config):
        """Raises UserError where ``folder`` holds no trained model, or not what the memory's options ask for."""
        one_lane(run_options)
        self._hub_mixin_config = None  # a run's own files say what it is
        self._folder, self._config = folder, run_options
        self._trained = load_model(folder, Processes.start(run_options.run.cpu).device)
        self._reader = open_reader(folder, self._trained, run_options.memory)
        self._saved = SavedMemory(self._reader.fresh_memory())

    @property
    def options(self) -> MemoryOptions:
        """How it reads: rule, reset policy, segment and so on."""
        return self._config.memory

    @property
    def fingerprint(self) -> str:
        """What tells its static parameters from any others; reading does not change it."""
        return self._trained.fingerprint

    @property
    def tokens_read(self) -> int:
        """How many tokens its memory has learned from."""
        return self._saved.tokens

    def read(self, text: str, unfinished: bool = False) -> ReadText:
        """Read ``text`` as an article, and learn from it; returns what each token cost before it was learned from.

        With ``unfinished`` the next text goes on with the article; its last tokens may then be read (and told) only
        with that. Raises UserError for an empty text.
        """
        # A reading that is broken off leaves the memory as it was.
        saved = self._saved.copy()
        read, self._saved = read_on(
            self._reader, saved, text, self._trained.tokenizer, self.options.segment, not unfinished
        )
        return read

    def generate(
        self, prompt: str = "", tokens: int = 200, temperature: float = 0.8, top: int = 40, seed: int = 0
    ) -> str:
        """``tokens`` tokens that follow ``prompt``, drawn from the ``top`` likeliest (0: all) at ``temperature``.

        It starts with what was read, and the prompt goes on with an unfinished article; the memory stays as it is.
        Raises UserError for options out of their range.
        """
        check_draws(tokens, temperature, top)
        generator = torch.Generator(self._trained.params["embedding"].device).manual_seed(seed)
        saved, tokenizer, segment = self._saved.copy(), self._trained.tokenizer, self.options.segment
        return go_on(self._reader, saved, tokenizer, segment, prompt, tokens, temperature, top, generator)

    def save_memory(self, path: str | os.PathLike[str]) -> None:
        """Keep what was read in a file, whole or not at all: for ``load_memory``, or ``--memory`` of the verbs."""
        save_memory(Path(path), self._saved, self._reader, self.options, self.fingerprint)

    def load_memory(self, path: str | os.PathLike[str]) -> None:
        """Take the memory of a file in place of this one, and read as it was read.

        Raises UserError where the file is damaged or of another model; the memory then stays as it was.
        """
        options = options_of(Path(path), self.options)
        reader = open_reader(self._folder, self._trained, options)
        self._saved = load_memory(Path(path), reader, options, self.fingerprint)
        self._reader, self._config = reader, dataclasses.replace(self._config, memory=options)

    def forget(self) -> None:
        """As if nothing had been read."""
        self._saved = SavedMemory(self._reader.fresh_memory())

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card that ``save_pretrained`` and ``push_to_hub`` write as README.md, of the run's own figures."""
        return ModelCard(model_card(self._folder, self._trained))

    def _save_pretrained(self, save_directory: Path) -> None:
        share_run(self._folder, save_directory)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> DynamicLM:
        if not Path(model_id).is_dir():
            model_id = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=list(PATTERNS),
            )
        return load(model_id, **options)


def load(path: str | os.PathLike[str], **options: Any) -> DynamicLM:
    """The run in a folder, ready to read. ``options`` are those of the memory, such as ``rule="rms"``, in place of the
    run's own.

    Raises UserError where the folder holds no trained model, for an option that there is none of, and where the rule
    was never tuned.
    """
    folder = Path(path)
    config = load_config(folder)
    known = {item.name for item in dataclasses.fields(MemoryOptions)}
    for name in options:
        if name not in known:
            raise UserError(f"the memory has no option {name!r}", do=f"choose among {', '.join(sorted(known))}")
    return DynamicLM(folder, dataclasses.replace(config, memory=dataclasses.replace(config.memory, **options)))
