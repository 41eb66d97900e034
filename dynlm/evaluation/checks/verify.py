"""Does a score file still hold? Its text is read again by the same model and memory, and every loss compared.

On a machine that rounds as the first one did, every token's nats have to be equal bit for bit. On another (another
version of torch, another processor) they have to agree within a tolerance, because rounding differs from the first
product on and a memory carries it along. Legend: N tokens, in the order of the file's rows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import constants_of
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.reader import Reader
from dynlm.data.article_range import article_range
from dynlm.data.articles import iter_articles
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream, read_side_by_side
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.evaluate import rows_of
from dynlm.evaluation.protocol import ArticleOrder, rates_of, text_fingerprint
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.provenance import differences, made_with, rounds_alike
from dynlm.run.rule_store import open_reader
from dynlm.runtime.distributed import Processes
from dynlm.runtime.text import printable
from dynlm.runtime.validation import section_of
from dynlm.train.config import Config, load_config

TOLERANCE = 1e-3
"""Nats by which a token may differ where sums are rounded otherwise."""


@dataclass(frozen=True)
class Verified:
    """What reading a score file's text again told.

    ``compared`` of ``tokens`` were read again; ``differing`` of them do not have the very same bits, by at most
    ``largest`` nats. ``tolerance`` 0 asks for the same bits. ``broken``: what does not hold, a line each; ``changed``:
    what is otherwise here than where the file was written.
    """

    path: Path
    variant: str
    tokens: int
    tolerance: float
    compared: int = 0
    differing: int = 0
    largest: float = 0.0
    broken: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return {**vars(self), "path": str(self.path), "holds": self.holds}

    def to_text(self) -> str:
        """A line with the verdict, and one for each thing that does not hold or is otherwise here."""
        told = f"{self.compared:,} of {self.tokens:,} tokens read again"
        if self.compared:
            told += f", {self.differing:,} not bit for bit" if self.differing else ", all bit for bit"
        if self.differing:
            told += f", by at most {self.largest:.3g} nats"
            told += f" (tolerance {self.tolerance:g})" if self.tolerance else ""
        head = (
            f"{'holds ' if self.holds else 'BROKEN'}  {printable(self.variant)} ({printable(str(self.path))}): {told}"
        )
        rows = [f"        {printable(line)}" for line in self.broken]
        return "\n".join([head, *rows, *(f"        otherwise here: {printable(line)}" for line in self.changed)])


def verify(
    path: Path,
    articles: str | None = None,
    tokens: int | None = None,
    corpus_path: str | None = None,
    tolerance: float = TOLERANCE,
) -> Verified:
    """Read a score file's text again, all of it, or some ``articles``, or its first ``tokens`` (or a few more).

    The run is the folder above the file that holds the model; ``corpus_path`` tells where the text lies now. Raises
    UserError where the run, its memory or the text is missing, the file does not tell what it was read with (or began
    with a memory file), or
    ``articles`` are asked for of a reading whose articles depend on each other.
    """
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens is {tokens}", do="choose at least 1")
    if not tolerance >= 0:
        raise UserError(f"tolerance is {tolerance:g}", do="choose a number of nats, at least 0")
    scores = read_scores(path)
    folder = _run_of(path)
    config, order = _config(folder, scores, corpus_path), _order(scores)
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    now = made_with(trained.params["embedding"].device)
    outcome = Verified(path, scores.variant, len(scores), tolerance, changed=differences(scores.protocol, now))
    if broken := _other_model(scores.protocol, trained):
        return _with(outcome, broken=[broken])
    text = tokenise(iter_articles(config.corpus, scores.protocol["split"]), trained.tokenizer, config.corpus.num_proc)
    if broken := _other_text(scores, text):
        return _with(outcome, broken=[broken])
    reader = open_reader(folder, trained, config.memory)
    if broken := _other_reader(scores.protocol, reader):
        return _with(outcome, broken=[broken])
    chosen = scores.articles.tolist()
    read = order.apply(chosen)
    if articles is not None:
        _refuse_dependent(reader, config.memory.lanes)
        wanted = set(article_range(articles, text.articles))
        if absent := wanted - set(chosen):
            raise UserError(f"article {min(absent) + 1} is not in it", path, "choose among those that were scored")
        read = [index for index in read if index in wanted]
    asked = _threads_then(scores.protocol)
    now["platform"]["threads"] = asked
    one_process = scores.protocol.get("processes", 1) == 1
    exact = rounds_alike(scores.protocol, now) and one_process
    stream = read_side_by_side(text, config.memory.segment, read, min(config.memory.lanes, len(read)))
    with _threads(asked):
        rows_N, nats_N = read_again(reader, stream, tokens)
    return _compared(outcome, scores, text, rows_N, nats_N, 0.0 if exact else tolerance)


def read_again(reader: Reader, stream: Stream, tokens: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(rows in the split, nats) of a stream's tokens, of all or until ``tokens`` were read; float32."""
    rows: list[np.ndarray] = []
    nats: list[np.ndarray] = []
    for read in iter_segments(reader, stream):
        rows_BT = rows_of(read.segment, stream.split.starts)
        rows.append(rows_BT[rows_BT >= 0])
        nats.append(read.nats_BT.float().cpu().numpy()[rows_BT >= 0])
        if tokens is not None and read.place.tokens >= tokens:
            break
    return np.concatenate(rows), np.concatenate(nats)


def _with(outcome: Verified, **changes: Any) -> Verified:
    return Verified(**{**vars(outcome), **changes})


def _run_of(path: Path) -> Path:
    for folder in path.resolve().parents:
        if (folder / "model.json").is_file():
            return folder
    raise UserError("no run around this score file", path, "put it into the scores/ of the run that it was made with")


def _config(folder: Path, scores: Scores, corpus_path: str | None) -> Config:
    """The run's options with those that the file says it was read with."""
    protocol, options = scores.protocol, scores.protocol.get("options")
    needed = {"split": str, "order": str, "model": str, "reader": str}
    missing = [name for name, kind in needed.items() if not isinstance(protocol.get(name), kind)]
    if protocol.get("memory") is not None:
        raise UserError(
            "its reading began with a memory that is not in it", scores.path, "verify one that began afresh"
        )
    if missing or not isinstance(options, dict):
        missing = missing or ["options"]
        raise UserError(f"the file does not tell its {missing[0]}", scores.path, "score the text anew to verify it")
    try:
        corpus = section_of(CorpusOptions, options.get("corpus"))
        memory = section_of(MemoryOptions, options.get("memory"))
    except UserError as error:
        raise UserError(f"what it was read with is not understood ({error})", scores.path) from error
    if corpus_path is not None:
        corpus.path = corpus_path
    config = load_config(folder)
    return Config(**{**vars(config), "corpus": corpus, "memory": memory})


def _order(scores: Scores) -> ArticleOrder:
    """The order that the articles were read in, and its seed. Raises UserError for what is none of ``score``'s."""
    told = str(scores.protocol["order"])
    if (order := ArticleOrder.parse(told)) is None:
        raise UserError(f"its articles were read {told[:40]!r}, which is no order", scores.path, "score the text anew")
    return order


def _other_model(protocol: dict[str, Any], trained: TrainedModel) -> str | None:
    if protocol["model"] != trained.fingerprint:
        return f"the model is {trained.fingerprint}, the text was read by {protocol['model']}"
    if protocol["tokenizer"] != trained.tokenizer.fingerprint:
        return f"the tokenizer is {trained.tokenizer.fingerprint}, the text was read with {protocol['tokenizer']}"
    return None


def _other_text(scores: Scores, text: TokenisedSplit) -> str | None:
    """What tells the file's rows from the text, if anything does."""
    chosen = [int(entry["index"]) for entry in scores.protocol["articles"]]
    if chosen != scores.articles.tolist():
        return "its rows are of other articles than its protocol says"
    if chosen != sorted(chosen):
        return "its articles are not in the split's own order"
    if chosen[-1] >= text.articles or chosen[0] < 0:
        return f"the text has {text.articles} articles, of which article {chosen[-1] + 1} is none"
    lengths = np.diff(text.starts)[chosen]
    if not np.array_equal(np.diff(scores.starts), lengths):
        article = chosen[int(np.flatnonzero(np.diff(scores.starts) != lengths)[0])]
        was = len(range(*scores.rows(article).indices(len(scores))))
        return f"article {article + 1} had {was:,} tokens, now it has {len(text.article(article)):,}"
    places_N = np.concatenate([np.arange(length) for length in lengths])
    if len(other := np.flatnonzero(scores.position != places_N)):
        return f"row {other[0] + 1} is token {scores.position[other[0]]} of its article, not token {places_N[other[0]]}"
    rows_N = _rows(scores, text)
    for name, now_N in (("token", text.ids_N), ("words", text.words_N)):
        if len(other := np.flatnonzero(getattr(scores, name) != now_N[rows_N])):
            return f"{_place(scores, int(other[0]))}: {name} {getattr(scores, name)[other[0]]} then, another now"
    surfaces = [surface for article in chosen for surface in text.surfaces(article)]
    if (other_at := next((n for n, one in enumerate(surfaces) if one != scores.surface[n]), None)) is not None:
        return f"{_place(scores, other_at)}: other bytes than {_shown(surfaces[other_at])} now"
    if scores.protocol["text"] != text_fingerprint(text, chosen):
        # The articles that were scored are as they were.
        return "the split's other articles are not those of then"
    return None


def _other_reader(protocol: dict[str, Any], reader: Reader) -> str | None:
    if protocol["reader"] == constants_of(reader):
        return None
    then = protocol.get("rule", {})
    rates = rates_of(reader.rule)
    before = then.get("rates", {}) if isinstance(then, dict) else {}
    if json.dumps(before, sort_keys=True) != json.dumps(rates, sort_keys=True):
        return "the rates of the memory are not those of then: it was tuned or learned anew"
    return "the memory is not that of then: it was tuned or learned anew"


def _refuse_dependent(reader: Reader, lanes: int) -> None:
    """Articles can be read on their own where nothing is carried from one to the next."""
    if reader.reset != "article" and (reader.rule.learns or reader.cache is not None):
        raise UserError(
            "under memory.reset 'stream' an article's losses depend on those before it",
            "--articles",
            "choose --tokens to read only the first ones",
        )
    if lanes > 1:
        raise UserError(
            f"it was read in {lanes} lanes, whose products are rounded together",
            "--articles",
            "choose --tokens to read only the first ones",
        )


def _threads_then(protocol: dict[str, Any]) -> int:
    """As many as the file was read with, where it tells: sums are rounded by the number of threads."""
    told = protocol.get("platform")
    count = told.get("threads") if isinstance(told, dict) else None
    return count if isinstance(count, int) and 1 <= count <= 1024 else torch.get_num_threads()


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rows(scores: Scores, text: TokenisedSplit) -> np.ndarray:
    """The row in the split of each of the file's rows."""
    return text.starts[scores.article] + scores.position


def _compared(
    outcome: Verified, scores: Scores, text: TokenisedSplit, rows_N: np.ndarray, nats_N: np.ndarray, tolerance: float
) -> Verified:
    place_of_row = np.full(len(text.ids_N), -1, dtype=np.int64)
    place_of_row[_rows(scores, text)] = np.arange(len(scores))
    places_N = place_of_row[rows_N]
    then_N = scores.nats[places_N]
    off_N = np.abs(then_N.astype(np.float64) - nats_N)
    # The same bits: -0.0 is another number than 0.0 here.
    other_N = then_N.view(np.int32) != nats_N.view(np.int32)
    wrong = np.flatnonzero(other_N if tolerance == 0 else ~(off_N <= tolerance))
    broken = []
    if len(wrong):
        first = wrong[np.argmin(places_N[wrong])]
        broken.append(
            f"{_place(scores, int(places_N[first]))}: {then_N[first]:.9g} nats then, {nats_N[first]:.9g} now"
            + (f"; and {len(wrong) - 1:,} more" if len(wrong) > 1 else "")
        )
    return _with(
        outcome,
        compared=len(rows_N),
        differing=int(other_N.sum()),
        largest=float(off_N.max(initial=0.0)),
        tolerance=tolerance,
        broken=broken,
    )


def _place(scores: Scores, row: int) -> str:
    article = int(scores.article[row])
    return f"token {int(scores.position[row])} of article {article + 1} ({_shown(scores.surface[row])})"


def _shown(surface: bytes) -> str:
    return repr(surface.decode("utf-8", "replace")[:40])
