"""Reading texts of one's own, with a memory that can be kept and read on with.

Each text is an article. A text may be left unfinished: the next one then goes on with it, and both together are read as
they would have been in one piece, bit for bit. For that, what could come out otherwise with more text behind it (the
last segment, where it is not whole, and the last line, whose tokens are not settled before its end) is not read yet,
and kept as text.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import About, SavedMemory, Unfinished, changing, load_about, load_memory, save_memory
from dynlm.adapt.reader import Reader
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.state import distance
from dynlm.adapt.update_filter import init_filter_state
from dynlm.data.stream import StreamPosition, read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.run.folder import load_model
from dynlm.run.rule_store import open_reader, reader_of
from dynlm.runtime.distributed import Processes
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.tensors import params_fingerprint
from dynlm.train.config import Config


@dataclass(frozen=True)
class ReadText:
    """What was read, a token an entry: its id, the exact bytes it stands for, the words that start in it (an end of
    line is one), and ``nats``, what it cost before it was learned from. ``guarded``: how often a guard had to see to
    it that the memory stays whole."""

    token: np.ndarray
    surface: list[bytes]
    words: np.ndarray
    nats: np.ndarray
    guarded: int = 0

    def __len__(self) -> int:
        return len(self.nats)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Each token's surface, as text, with its nats."""
        for surface, nats in zip(self.surface, self.nats.tolist(), strict=True):
            yield surface.decode("utf-8", "replace"), nats

    @property
    def total(self) -> float:
        """The sum of the nats."""
        return float(self.nats.sum(dtype=np.float64))


@dataclass(frozen=True)
class Sitting:
    """What came of reading some texts into a memory file."""

    tokens: int
    nats: float
    about: About
    distance: float
    """|theta_t - theta_0| / |theta_0|."""
    static: tuple[str, str]
    """Checksum of the static parameters before and after."""
    guarded: int
    """Steps that a guard did not take, and memories that it restored."""
    level_1_nats: float = 0.0
    """What the same tokens cost the static parameters."""
    repeated: bool = False
    """The texts are those of the sitting before, and were not read again."""

    @property
    def worse_by(self) -> float:
        """Nats per token by which reading with the memory was worse than level 1; below 0 it was better."""
        return (self.nats - self.level_1_nats) / max(1, self.tokens)

    def to_dict(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "nats_per_token": self.nats / self.tokens if self.tokens else None,
            "level_1_nats_per_token": self.level_1_nats / self.tokens if self.tokens else None,
            "repeated": self.repeated,
            "distance": self.distance,
            "guarded": self.guarded,
            "static_parameters": {"before": self.static[0], "after": self.static[1]},
            "memory": {"tokens": self.about.tokens, "articles": self.about.articles, "content": self.about.content},
        }


def read_files(
    folder: Path,
    config: Config,
    texts: list[Callable[[], str]],
    path: Path,
    unfinished: bool = False,
    again: bool = False,
) -> Sitting:
    """Read ``texts``, each an article, by ``config.memory``, going on with the memory in ``path`` where there is one.

    The file is written once, when all is read. ``unfinished``: more of the last text is to follow. Texts that the
    memory has read last, as after a command that was broken off and repeated, are not read unless ``again``. Raises
    UserError for a memory that cannot be gone on with, or that another process changes, for an empty text, and for a
    memory that diverged; the file is then as it was.
    """
    # Standard input may take long: the memory is not held meanwhile.
    given = [text() for text in texts]
    with changing(path) as path:
        return _read_files(folder, config, given, path, (unfinished, again))


def _read_files(folder: Path, config: Config, texts: list[str], path: Path, how: tuple[bool, bool]) -> Sitting:
    unfinished, again = how
    one_lane(config)
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    reader = open_reader(folder, trained, config.memory)
    before, tokens, nats, level_1_nats, guarded = params_fingerprint(trained.params), 0, 0.0, 0.0, 0
    saved = SavedMemory(reader.fresh_memory())
    if path.exists():
        saved = load_memory(path, reader, config.memory, trained.fingerprint)
    last = fingerprint(*(text.encode("utf-8", "replace") for text in texts), "unfinished" if unfinished else "")
    if saved.last == last and not again:
        moved = float(distance(saved.memory, reader.static)) if saved.memory.weights else 0.0
        return Sitting(0, 0.0, load_about(path)[0], moved, (before, before), 0, repeated=True)
    level_1 = reader_of(trained, config.memory, LEVEL_1, reader.dynamic)
    # Level 1 goes on with an unfinished article from the LSTM's state in the memory; its own is not kept.
    hidden = tuple((h_BH.clone(), c_BH.clone()) for h_BH, c_BH in saved.memory.hidden)
    beside = dataclasses.replace(saved, memory=level_1.fresh_memory()._replace(hidden=hidden))
    for number, text in enumerate(texts):
        ends = not (unfinished and number == len(texts) - 1)
        read, saved = read_on(reader, saved, text, trained.tokenizer, config.memory.segment, ends)
        tokens, nats, guarded = tokens + len(read), nats + read.total, guarded + read.guarded
        if reader.rule.learns or reader.cache is not None:
            read, beside = read_on(level_1, beside, text, trained.tokenizer, config.memory.segment, ends)
        level_1_nats += read.total
    if not math.isfinite(nats):
        raise UserError("this memory is not kept: what was read cost no finite number", path, "lower the rule's rate")
    moved = float(distance(saved.memory, reader.static)) if saved.memory.weights else 0.0
    after = params_fingerprint(trained.params)
    assert after == before, "reading moved the static parameters"
    saved = dataclasses.replace(saved, last=last)
    about = save_memory(path, saved, reader, config.memory, trained.fingerprint)
    return Sitting(tokens, nats, about, moved, (before, after), guarded, level_1_nats)


def open_memory(path: Path, reader: Reader, config: Config, tokenizer: Tokenizer, model: str) -> SavedMemory:
    """The memory in ``path`` with its last article finished, for who begins a new one. Raises UserError as
    ``load_memory`` does."""
    one_lane(config)
    saved = load_memory(path, reader, config.memory, model)
    return finished(reader, saved, tokenizer, config.memory.segment)[1]


def finished(reader: Reader, saved: SavedMemory, tokenizer: Tokenizer, segment: int) -> tuple[ReadText, SavedMemory]:
    """Read what is left of an unfinished article: no more of it follows."""
    if saved.unfinished is None:
        return ReadText(np.zeros(0, np.int32), [], np.zeros(0, np.int16), np.zeros(0, np.float32)), saved
    return read_on(reader, saved, "", tokenizer, segment)


def read_on(
    reader: Reader, saved: SavedMemory, text: str, tokenizer: Tokenizer, segment: int, ends: bool = True
) -> tuple[ReadText, SavedMemory]:
    """(what ``text`` cost, the memory after it); ``saved`` is used up.

    ``text`` is an article, or goes on with the one that ``saved`` has not finished. Unless it ``ends`` with it, the
    article is unfinished. What was not read of it before is in what was read now. Raises UserError for a text without
    a token.
    """
    before = saved.unfinished
    if not text and before is None:
        raise UserError("an empty text", do="give at least one character")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError("the text holds half a character (a lone surrogate)", do="remove it") from error
    done = 0 if before is None else before.read
    split = TokenisedSplit.from_texts([text if before is None else before.text + text], tokenizer)
    if done > len(split.ids_N):
        raise UserError("a damaged memory: more of its unfinished article was read than there is")
    end = len(split.ids_N) if ends else done + max(0, _settled(split) - done) // segment * segment
    stream = read_in_order(dataclasses.replace(split, starts=np.array([0, end], dtype=np.int64)), segment, [0])
    memory, nats = saved.memory, []
    if end > done:
        place = StreamPosition(0, 1, (0,), (done,)) if done else None
        for read in iter_segments(reader, stream, memory, place):
            memory = read.memory
            nats.append(read.nats_T.float().cpu().numpy())
    met = 0
    if memory.guarded is not None:
        # What a guard met is of a reading; a memory does not carry it.
        met = int(memory.guarded.counts_BC.sum())
        memory = memory._replace(guarded=init_filter_state(1, len(memory.weights), reader.static["embedding"].detach()))
    told = ReadText(
        split.ids_N[done:end],
        split.surfaces(0)[done:end],
        split.words_N[done:end],
        np.concatenate([np.zeros(0, np.float32), *nats]),
        met,
    )
    after = SavedMemory(
        memory,
        saved.tokens + len(told),
        saved.articles + (before is None),
        None if ends else _unfinished(split, end),
    )
    return told, after


def one_lane(config: Config) -> None:
    """Raise UserError where the options ask for several lanes: a memory file holds one."""
    if config.memory.lanes > 1:
        raise UserError(
            f"memory.lanes is {config.memory.lanes}, and a memory that is kept is of one", do="choose --memory.lanes 1"
        )


def _settled(split: TokenisedSplit) -> int:
    """How many tokens stay what they are whatever follows: no token crosses an end of line."""
    breaks = np.flatnonzero(split.text == ord("\n"))
    size = int(breaks[-1]) + 1 if len(breaks) else 0
    return int(np.searchsorted(np.cumsum(split.lengths_N, dtype=np.int64), size, side="right"))


def _unfinished(split: TokenisedSplit, read: int) -> Unfinished:
    """What must be kept of an article of which ``read`` tokens were read: the line of the last of them, and the rest.

    The model is fed each token's predecessor, and tokens are found line by line.
    """
    ends = np.cumsum(split.lengths_N, dtype=np.int64)
    data = split.text.tobytes()
    begin = data.rfind(b"\n", 0, int(ends[read - 1] - split.lengths_N[read - 1])) + 1 if read else 0
    return Unfinished(data[begin:].decode(), read - int(np.searchsorted(ends, begin, side="right")))
