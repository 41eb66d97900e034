"""``Run``: a run folder with its options, its trained model and its corpus."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import MemoryOptions
from dynlm.data.article_range import format_ranges
from dynlm.data.articles import iter_articles, source_name
from dynlm.data.options import CorpusOptions
from dynlm.data.token_store import TokenisedSplit, tokenise
from dynlm.errors import UserError
from dynlm.models.options import ModelOptions
from dynlm.run.folder import MAKERS, TrainedModel, load_model, log_line, read_options
from dynlm.run.locate import find_run, is_read_only, writable_copy
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from dynlm.run.options import RunOptions
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import StrPath
from dynlm.runtime.validation import Section, fingerprint_options, section_of

_Section = TypeVar("_Section", bound=Section)


class Run:
    """A trained run: its folder, its options by section, its model and its corpus.

    The model and the tokenised splits are loaded on first use and kept. ``with_sections`` returns the same run with
    other options; it shares what is loaded.
    """

    def __init__(self, path: Path, content: dict[str, Any], device: torch.device | str | None = None):
        """``content`` has the values of each section, as ``config.yaml`` does; see ``Run.open``."""
        self.path = path
        self._content = content
        self._sections: dict[str, Section] = {}
        self._device = device
        self._loaded: dict[Any, Any] = {}

    @classmethod
    def open(cls, path: StrPath, *sections: Section, device: torch.device | str | None = None) -> Run:
        """Open the run of a folder or a name (see ``find_run``); ``sections`` replace its own options.

        The model is loaded to ``device``, by default that of the processes (``run.cpu``). Raises UserError if the
        folder holds no run.
        """
        path = find_run(path)
        return cls(path, read_options(path, *MAKERS), device).with_sections(*sections)

    def writable(self) -> Run:
        """Return this run or, of a read-only one, its copy in the folder of runs, which is made if it is not there.

        Raises UserError if that is a run of another model.
        """
        if not is_read_only(self.path):
            return self
        run = copy.copy(self)
        with self.processes.main_process_first():
            run.path = writable_copy(self.path, self.options.path)
        return run

    def with_sections(self, *sections: Section) -> Run:
        """Return this run with other options, which shares its model and its tokenised splits."""
        run = copy.copy(self)
        run._sections = {**self._sections, **{section.SECTION: section for section in sections}}
        return run

    def section(self, kind: type[_Section]) -> _Section:
        """Return the run's options of a section, such as ``run.section(MemoryOptions)``.

        Raises UserError, naming the option, if they cannot be read.
        """
        section = self._sections.get(kind.SECTION)
        if not isinstance(section, kind):
            try:
                section = section_of(kind, self._content.get(kind.SECTION, {}))
            except UserError as error:
                path = self.path / "config.yaml"
                raise UserError(f"not a config that dynlm can read ({error})", path) from error
            self._sections[kind.SECTION] = section
        return section

    @property
    def options(self) -> RunOptions:
        """The options of the run itself: seed, device, checkpoints."""
        return self.section(RunOptions)

    @property
    def memory(self) -> MemoryOptions:
        """The options of the memory."""
        return self.section(MemoryOptions)

    def with_memory(self, options: MemoryOptions) -> Run:
        """Return this run with other options of the memory."""
        return self.with_sections(options)

    def checkpoints(self, stem: str, *sections: Section, **data: Any) -> Checkpoints:
        """Return the checkpoints ``stem`` of work on this run, whose outcome ``sections`` and ``data`` decide.

        ``data``: fingerprints of what the work reads. The seed and the model decide it too.
        """
        made_with = {"run.seed": self.options.seed, **fingerprint_options(*sections), "the model": self.fingerprint}
        made_with |= {f"model.{name}": value for name, value in self.trained.model.options.reading().items()}
        return Checkpoints(self.path / "checkpoints", stem, self.options.checkpoints_kept, {**made_with, **data})

    @functools.cached_property
    def processes(self) -> Processes:
        """The processes that this command runs in."""
        return Processes.start(self.options.cpu)

    @property
    def trained(self) -> TrainedModel:
        """The model with its static parameters, factors that the memory moves included, and its tokenizer.

        It reads by the run's options of the model, as far as they are options of reading. Raises UserError if it is not
        trained.
        """
        if "trained" not in self._loaded:
            self._loaded["trained"] = load_model(self.path, self._device or self.processes.device)
        loaded: TrainedModel = self._loaded["trained"]
        targets, reading = self.section(MemoryOptions).targets_of(self.options.seed), loaded.model.options.reading()
        # Without options of reading, or with those of another kind of model, it reads as it was made.
        if reading and (chosen := self.section(ModelOptions)).kind == loaded.model.options.kind:
            reading = chosen.reading()
        key = (targets, *reading.items())
        if key not in self._loaded:
            self._loaded[key] = loaded.with_reading(reading).with_targets(targets)
        trained: TrainedModel = self._loaded[key]
        return trained

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the static parameters."""
        return self.trained.fingerprint

    def split(self, name: str) -> TokenisedSplit:
        """Return a tokenised split of the run's corpus: train, meta, valid or test."""
        corpus = self.section(CorpusOptions)
        key = (name, repr(corpus))
        if key not in self._loaded:
            self._loaded[key] = tokenise(iter_articles(corpus, name), self.trained.tokenizer, corpus.num_proc)
        split: TokenisedSplit = self._loaded[key]
        return split

    def dynamic_model(self, memory: MemoryOptions | None = None, trained: TrainedModel | None = None) -> DynamicModel:
        """Return the model that ``memory`` (default: the run's own options) adapts while it reads.

        Constants that the options leave unset are those tuned or learned for this run. ``trained`` takes the place of
        the run's own static parameters. Raises UserError for constants that are neither given nor tuned.
        """
        if memory is not None:
            return self.with_sections(memory).dynamic_model(trained=trained)
        return open_dynamic_model(self.path, trained or self.trained, self.section(MemoryOptions))

    @property
    def store(self) -> MemoryStore:
        """What the run keeps for rules and caches."""
        return MemoryStore(self.path, self.trained)

    def record(self, what: str, how: str, split: str, indices: Iterable[int]) -> dict[str, Any]:
        """Return the record that ``what`` (rates, g, cache, gate) was tuned, learned or picked on articles of a split.

        It is stored with ``what`` and in score files. ``articles`` are counted from 1, such as "1-30,32";
        ``split_text`` is the fingerprint of the whole split.
        """
        return {
            "what": what,
            "how": how,
            "corpus": source_name(self.section(CorpusOptions)),
            "split": split,
            "articles": format_ranges(int(index) + 1 for index in indices),
            "split_text": self.split(split).fingerprint,
        }

    def log(self, **fields: Any) -> None:
        """Append one JSON object to the run's log."""
        log_line(self.path, **fields)
