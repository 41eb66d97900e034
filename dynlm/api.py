"""``dynlm`` from Python: ``dynlm.load`` gives a model that reads, generates and remembers.

It can be shared by ``huggingface_hub``'s mixin (``save_pretrained``, ``push_to_hub``, ``from_pretrained``), without
what it has read.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelHubMixin, snapshot_download

from dynlm.adapt.memory_file import SavedMemory, options_of
from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.evaluation.generate import Sampling, generate
from dynlm.evaluation.model_card import model_card
from dynlm.evaluation.session import Session, TextResult
from dynlm.run.run import Run
from dynlm.run.sharing import PATTERNS, share_run

_OF_DOWNLOADS = ("revision", "cache_dir", "force_download", "local_files_only", "token")
"""What ``ModelHubMixin.from_pretrained`` passes on beside the options of the memory."""


class DynamicLM(ModelHubMixin, library_name="dynlm"):
    """A trained model and the memory of what it has read, at first nothing; see ``load``."""

    def __init__(self, run: Run):
        """Raises UserError where ``run`` is not trained, or lacks what the memory's options ask for."""
        self._hub_mixin_config = None  # a run describes itself in its own files
        self._session = Session.open(run)

    @property
    def options(self) -> MemoryOptions:
        """The options of the memory: rule, reset policy, segment and so on."""
        return self._session.run.section(MemoryOptions)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the static parameters, which reading does not change."""
        return self._session.run.fingerprint

    @property
    def tokens_read(self) -> int:
        """How many tokens the memory has learned from."""
        return self._session.saved.tokens

    def read(self, text: str, unfinished: bool = False) -> TextResult:
        """Read ``text`` as an article and learn from it; return the loss of each token before it was learned from.

        With ``unfinished`` the next text continues the article; the last tokens may then be read, and returned, only
        with that. Raises UserError for an empty text.
        """
        session = self._session.copy()  # an interrupted reading leaves the memory as it was
        result = session.read(text, finish=not unfinished)
        self._session = session
        return result

    def generate(
        self, prompt: str = "", tokens: int = 200, temperature: float = 0.8, top: int = 40, seed: int = 0
    ) -> str:
        """Return ``tokens`` tokens sampled after ``prompt``, from the ``top`` likeliest (0: all) at ``temperature``.

        The prompt continues an unfinished article; the memory stays as it is. Raises UserError for options out of their
        range.
        """
        return generate(self._session.copy(), prompt, Sampling(tokens, temperature, top, seed))

    def save_memory(self, path: str | os.PathLike[str]) -> None:
        """Save the memory atomically, for ``load_memory`` and the commands' ``--memory``."""
        self._session.save(Path(path))

    def load_memory(self, path: str | os.PathLike[str]) -> None:
        """Replace the memory and its options by those of a file.

        Raises UserError where the file is damaged or of another model; the memory then stays as it was.
        """
        run = self._session.run.with_sections(options_of(Path(path), self.options))
        self._session = Session.open(run, Path(path))

    def forget(self) -> None:
        """Forget everything that was read."""
        self._session.saved = SavedMemory(self._session.dynamic_model.fresh_memory())

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Return the card that ``save_pretrained`` and ``push_to_hub`` write as README.md."""
        return ModelCard(model_card(self._session.run))

    def _save_pretrained(self, save_directory: Path) -> None:
        share_run(self._session.run.path, save_directory)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> DynamicLM:
        download = {name: options.pop(name) for name in _OF_DOWNLOADS}
        if not Path(model_id).is_dir():
            model_id = snapshot_download(model_id, allow_patterns=list(PATTERNS), **download)
        return load(model_id, **options)


def load(path: str | os.PathLike[str], **options: Any) -> DynamicLM:
    """Load the run in a folder; ``options`` of the memory, such as ``rule="rms"``, replace the run's own.

    Raises UserError where the folder holds no trained model, for an unknown option, and where the rule was not tuned.
    """
    run = Run.open(Path(path))
    memory = run.section(MemoryOptions)
    known = sorted(item.name for item in dataclasses.fields(memory))
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"the memory has no option {unknown[0]!r}", do=f"choose among {', '.join(known)}")
    return DynamicLM(run.with_sections(memory.replace(**options)))
