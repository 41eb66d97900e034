"""Reading texts of one's own in sittings, with a memory that can be saved and continued.

Each text is an article. A text may be left unfinished: the next one then continues it, and both together give what they
would have given in one piece, bit for bit. For that, what more text could still change (the last segment, where it is
not whole, and the last line, whose tokens are not final before its end) is not read yet, and kept as text.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from dynlm.adapt.dynamic_model import DynamicModel, distance
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import About, SavedMemory, Unfinished, load_memory, save_memory
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.update_filter import FilterState
from dynlm.data.stream import StreamPosition, read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.text_result import TextResult
from dynlm.evaluation.word_gains import record_of
from dynlm.run.folder import TrainedModel
from dynlm.run.opening import build_dynamic_model
from dynlm.runtime.tree import clone


class Source(Protocol):
    """Where the model of a session comes from: a ``Run``, or a model that is in memory (``AttachedModel``)."""

    @property
    def trained(self) -> TrainedModel:
        """The model with its static parameters, factors that the memory moves included, and its tokenizer."""

    @property
    def memory(self) -> MemoryOptions:
        """The options of the memory."""

    def dynamic_model(self) -> DynamicModel:
        """Return the model that adapts while it reads. Raises UserError for constants that are not known."""


@dataclass
class Session:
    """A reading in sittings with ``options``, in one lane; ``saved`` is its memory, which calls replace.

    The tensors of a memory are overwritten: ``copy`` a session to keep it.
    """

    trained: TrainedModel
    options: MemoryOptions
    dynamic_model: DynamicModel
    saved: SavedMemory

    @classmethod
    def open(cls, source: Source, memory_file: Path | None = None) -> Session:
        """Start with a fresh memory, or that of ``memory_file``.

        Raises UserError where the options ask for several lanes, and as ``load_memory`` and ``open_dynamic_model`` do.
        """
        options = source.memory
        options.require_boundaries("a reading in sittings")
        options.require_merged("a reading in sittings")
        if options.lanes > 1:
            what = f"memory.lanes is {options.lanes}, but a saved memory has one"
            raise UserError(what, do="choose --memory.lanes 1")
        trained, dynamic_model = source.trained, source.dynamic_model()
        if memory_file is None:
            saved = SavedMemory(dynamic_model.fresh_memory())
        else:
            saved = load_memory(memory_file, dynamic_model, options, trained.fingerprint)
        return cls(trained, options, dynamic_model, saved)

    def save(self, path: Path) -> About:
        """Write the memory to a file, atomically, and return the file's description of itself."""
        return save_memory(path, self.saved, self.dynamic_model, self.options, self.trained.fingerprint)

    @property
    def distance(self) -> float:
        """|theta_t - theta_0| / |theta_0|."""
        memory = self.saved.memory
        return float(distance(memory, self.dynamic_model)) if memory.params and self.saved.tokens else 0.0

    def copy(self) -> Session:
        """Return a session that reading with this one does not change."""
        return dataclasses.replace(self, saved=self.saved.copy())

    def fresh(self) -> Session:
        """Return a session with the same model that has read nothing."""
        return dataclasses.replace(self, saved=SavedMemory(self.dynamic_model.fresh_memory()))

    @property
    def compares(self) -> bool:
        """Whether reading gives the static model's losses too: it is that model, or is mixed with it."""
        return self.dynamic_model.is_static or self.dynamic_model.mixture is not None

    def level_1(self) -> Session | None:
        """Return a session of the static parameters that reads the same from here on; None where this one ``compares``.

        An unfinished article continues with the model's state in the memory, which has no state of level 1's.
        """
        if self.compares:
            return None
        level_1 = build_dynamic_model(self.trained, self.options, LEVEL_1)
        memory = level_1.fresh_memory()._replace(state=clone(self.saved.memory.state))
        return Session(self.trained, self.options, level_1, dataclasses.replace(self.saved, memory=memory))

    def read(self, text: str, finish: bool = True) -> TextResult:
        """Read an article, or more of the unfinished one, and learn from it; ``finish=False`` leaves it unfinished.

        The result also has the tokens of earlier text that were not read before, and the static model's losses where
        this session ``compares``. Raises UserError for an empty text and
        for a lone surrogate.
        """
        before = self.saved.unfinished
        if not text and before is None:
            raise UserError("an empty text", do="give at least one character")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise UserError("the text holds half a character (a lone surrogate)", do="remove it") from error
        whole, done = (text, 0) if before is None else (before.text + text, before.read)
        split = TokenisedSplit.from_texts([whole], self.trained.tokenizer)
        if done > len(split.ids_N):
            raise UserError("a damaged memory: more of its unfinished article was read than there is")
        segment = self.options.segment
        end = len(split.ids_N) if finish else done + max(0, _num_final(split) - done) // segment * segment
        stream = read_in_order(dataclasses.replace(split, starts=np.array([0, end], dtype=np.int64)), segment, [0])
        memory, mixes = self.saved.memory, self.dynamic_model.mixture is not None
        nats, static = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
        if end > done:
            position = StreamPosition(0, 1, (0,), (done,)) if done else None
            for read in iter_segments(self.dynamic_model, stream, memory, position):
                memory = read.memory
                nats.append(read.nats_T.float().cpu().numpy())
                if mixes:
                    static.append(read.experts_BT2[0, :, 0].float().cpu().numpy())
        rejected = 0
        if memory.filter is not None:
            # Counts belong to a reading; a saved memory has none.
            rejected = int(memory.filter.counts_BC.sum())
            memory = memory._replace(
                filter=FilterState.initial(1, len(self.dynamic_model.dynamic), self.dynamic_model.like)
            )
        own = slice(done, end)
        columns = split.ids_N[own], split.surfaces(0)[own], split.words_N[own]
        unfinished = None if finish else _unfinished(split, end)
        articles = self.saved.articles + (before is None)
        self.saved = SavedMemory(memory, self.saved.tokens + end - done, articles, unfinished, record=self.saved.record)
        own_N = np.concatenate(nats)
        static_N = np.concatenate(static) if mixes else own_N if self.compares else None
        return TextResult(*columns, own_N, rejected, static_N)

    def record(self, result: TextResult, title: str = "") -> None:
        """Add what ``read`` returned, with the static model's losses, to what the memory tells of its reading."""
        record = self.saved.record.plus(record_of([result], [title] if title else []))
        self.saved = dataclasses.replace(self.saved, record=record)


def _num_final(split: TokenisedSplit) -> int:
    """Return how many tokens no further text can change: no token crosses an end of line."""
    breaks = np.flatnonzero(split.text == ord("\n"))
    size = int(breaks[-1]) + 1 if len(breaks) else 0
    return int(np.searchsorted(np.cumsum(split.lengths_N, dtype=np.int64), size, side="right"))


def _unfinished(split: TokenisedSplit, read: int) -> Unfinished:
    """Return what to keep of an article of which ``read`` tokens were read: from the line of the last of them on.

    The model's input is each token's predecessor, and text is tokenised line by line.
    """
    ends = np.cumsum(split.lengths_N, dtype=np.int64)
    data = split.text.tobytes()
    begin = data.rfind(b"\n", 0, int(ends[read - 1] - split.lengths_N[read - 1])) + 1 if read else 0
    return Unfinished(data[begin:].decode(), read - int(np.searchsorted(ends, begin, side="right")))
