"""Reading texts of one's own in sittings, with a memory that can be saved and continued.

Each text is an article. A text may be left unfinished: the next one then continues it, and both together give what they
would have given in one piece, bit for bit. For that, what more text could still change (the last segment, where it is
not whole, and the last line, whose tokens are not final before its end) is not read yet, and kept as text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dynlm.adapt.dynamic_model import DynamicModel, distance
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import About, SavedMemory, Unfinished, changing, load_about, load_memory, save_memory
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.update_filter import FilterState
from dynlm.data.stream import StreamPosition, read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.text_result import TextResult
from dynlm.run.folder import TrainedModel
from dynlm.run.opening import build_dynamic_model
from dynlm.run.run import Run
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.tensors import params_fingerprint
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
        return float(distance(memory, self.dynamic_model.static)) if memory.params and self.saved.tokens else 0.0

    def copy(self) -> Session:
        """Return a session that reading with this one does not change."""
        return dataclasses.replace(self, saved=self.saved.copy())

    def fresh(self) -> Session:
        """Return a session with the same model that has read nothing."""
        return dataclasses.replace(self, saved=SavedMemory(self.dynamic_model.fresh_memory()))

    def level_1(self) -> Session | None:
        """Return a session of the static parameters that reads the same from here on; None where this one is that.

        An unfinished article continues with the model's state in the memory, which has no state of level 1's.
        """
        if self.dynamic_model.is_static:
            return None
        level_1 = build_dynamic_model(self.trained, self.options, LEVEL_1)
        memory = level_1.fresh_memory()._replace(state=clone(self.saved.memory.state))
        return Session(self.trained, self.options, level_1, dataclasses.replace(self.saved, memory=memory))

    def read(self, text: str, finish: bool = True) -> TextResult:
        """Read an article, or more of the unfinished one, and learn from it; ``finish=False`` leaves it unfinished.

        The result also has the tokens of earlier text that were not read before. Raises UserError for an empty text and
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
        memory, nats = self.saved.memory, [np.zeros(0, np.float32)]
        if end > done:
            position = StreamPosition(0, 1, (0,), (done,)) if done else None
            for read in iter_segments(self.dynamic_model, stream, memory, position):
                memory = read.memory
                nats.append(read.nats_T.float().cpu().numpy())
        rejected = 0
        if memory.filter is not None:
            # Counts belong to a reading; a saved memory has none.
            rejected = int(memory.filter.counts_BC.sum())
            memory = memory._replace(filter=FilterState.initial(1, len(memory.params), self.dynamic_model.like))
        own = slice(done, end)
        columns = split.ids_N[own], split.surfaces(0)[own], split.words_N[own]
        unfinished = None if finish else _unfinished(split, end)
        articles = self.saved.articles + (before is None)
        self.saved = SavedMemory(memory, self.saved.tokens + end - done, articles, unfinished)
        return TextResult(*columns, np.concatenate(nats), rejected)


@dataclass(frozen=True)
class ReadSummary:
    """The outcome of reading texts into a memory file."""

    about: About
    distance: float
    """|theta_t - theta_0| / |theta_0|."""
    static: tuple[str, str]
    """Fingerprint of the static parameters before and after."""
    tokens: int = 0
    nats: float = 0.0
    level_1_nats: float = 0.0
    """Loss of the same tokens by the static parameters."""
    rejected: int = 0
    """Updates that the update filter rejected, and weights that it restored."""
    repeated: bool = False
    """Whether the texts are those of the sitting before, which were not read again."""

    @property
    def worse_by(self) -> float:
        """Nats per token above level 1; below 0 the memory helped."""
        return (self.nats - self.level_1_nats) / max(1, self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "tokens": self.tokens,
            "nats_per_token": self.nats / self.tokens if self.tokens else None,
            "level_1_nats_per_token": self.level_1_nats / self.tokens if self.tokens else None,
            "repeated": self.repeated,
            "distance": self.distance,
            "guarded": self.rejected,
            "static_parameters": {"before": self.static[0], "after": self.static[1]},
            "memory": {"tokens": self.about.tokens, "articles": self.about.articles, "content": self.about.content},
        }


def read_texts(run: Run, texts: Sequence[str], path: Path, finish: bool = True, again: bool = False) -> ReadSummary:
    """Read ``texts``, each an article, with the memory in ``path`` (a fresh one), and save it there once at the end.

    ``finish=False`` leaves the last text unfinished. Texts that are those of the last sitting, as after a command that
    was interrupted and repeated, are read only with ``again``. Raises UserError for a memory that does not fit, is
    locked or diverged, and for an empty text; the file then stays as it was.
    """
    with changing(path) as path:
        session = Session.open(run, path if path.exists() else None)
        before = params_fingerprint(run.trained.params)
        last = fingerprint(*(text.encode("utf-8", "replace") for text in texts), "" if finish else "unfinished")
        if session.saved.last == last and not again:
            return ReadSummary(load_about(path)[0], session.distance, (before, before), repeated=True)
        level_1 = session.level_1()
        tokens, nats, level_1_nats, rejected = 0, 0.0, 0.0, 0
        for number, text in enumerate(texts, 1):
            ends = finish or number < len(texts)
            result = session.read(text, ends)
            tokens, nats, rejected = tokens + len(result), nats + result.total, rejected + result.rejected
            level_1_nats += result.total if level_1 is None else level_1.read(text, ends).total
        if not math.isfinite(nats):
            raise UserError("this memory is not saved: the loss is not finite", path, "lower the rule's rate")
        after = params_fingerprint(run.trained.params)
        assert after == before, "reading changed the static parameters"
        session.saved = dataclasses.replace(session.saved, last=last)
        about = session.save(path)
        return ReadSummary(about, session.distance, (before, after), tokens, nats, level_1_nats, rejected)


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
