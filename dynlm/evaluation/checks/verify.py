"""Verify a score file: read its text again with the same model and memory, and compare every loss.

On a machine that rounds as the first one did, the nats of every token have to be equal bit for bit. On another (another
version of torch, another processor) they have to agree within a tolerance, because rounding differs from the first
product on and a memory carries it along. Legend: N tokens, in the order of the file's rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynlm.adapt.dynamic_model import EARLIER_CONSTANTS, DynamicModel, constants_of
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import MemoryOptions
from dynlm.data.article_range import article_range
from dynlm.data.joined import joined_rows
from dynlm.data.options import CorpusOptions
from dynlm.data.stream import Stream, read_as_one, read_side_by_side
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.evaluation.evaluate import rows_of, text_columns
from dynlm.evaluation.protocol import ArticleOrder, text_fingerprint
from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.models.options import ModelOptions
from dynlm.run.options import RunOptions
from dynlm.run.provenance import differences, made_with, rounds_alike
from dynlm.run.run import Run
from dynlm.runtime.text import printable
from dynlm.runtime.validation import check_mapping, section_of, within
from dynlm.runtime.verdict import Verdict

TOLERANCE = 1e-3
"""Nats by which a token may differ where sums are rounded otherwise."""


@dataclass(frozen=True)
class VerifyResult(Verdict):
    """Result of re-scoring a file.

    ``compared`` of ``tokens`` were read again; ``differing`` of them are not the same bits, by at most ``largest``
    nats. ``tolerance`` 0 requires the same bits. ``broken`` lists what does not hold, ``changed`` what differs between
    this machine and the one that wrote the file.
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

    def to_text(self) -> str:
        """Return a line with the verdict, and one for each entry of ``broken`` and ``changed``."""
        read = f"{self.compared:,} of {self.tokens:,} tokens read again"
        if self.differing:
            read += f", {self.differing:,} not bit for bit, by at most {self.largest:.3g} nats"
            read += f" (tolerance {self.tolerance:g})" if self.tolerance else ""
        elif self.compared:
            read += ", all bit for bit"
        lines = self.lines(f"{printable(self.variant)} ({printable(str(self.path))})", read)
        return "\n".join([*lines, *(f"        different here: {printable(line)}" for line in self.changed)])


def verify(
    path: Path,
    articles: str | None = None,
    tokens: int | None = None,
    corpus_path: str | None = None,
    tolerance: float = TOLERANCE,
) -> VerifyResult:
    """Read the text of a score file again, all of it, or some ``articles``, or its first ``tokens`` (or a few more).

    The run is the folder above the file that holds the model; ``corpus_path`` is where the text is now. Raises
    UserError where the run, its memory or the text is missing, where the file does not say how it was read or the
    reading began with a memory file, and for ``articles`` of a reading whose articles depend on each other.
    """
    within("tokens", 1 if tokens is None else tokens, 1)
    within("tolerance", tolerance)
    scores = read_scores(path)
    protocol, (run, order) = scores.protocol, _open_run(scores.protocol, path, corpus_path)
    now = made_with(run.processes.device)
    result = VerifyResult(path, scores.variant, len(scores), tolerance, changed=differences(protocol, now))
    broken = (
        _other_model(protocol, run)
        or _other_text(scores, text := _text_of(run, protocol["split"], path))
        or _other_constants(protocol, dynamic_model := run.dynamic_model())
    )
    if broken:
        return dataclasses.replace(result, broken=[broken])
    memory, read = run.section(MemoryOptions), order.apply(scores.articles.tolist())
    if articles is not None:
        _refuse_dependent(dynamic_model, memory)
        requested = set(article_range(articles, text.articles))
        if absent := requested - set(read):
            raise UserError(f"article {min(absent) + 1} is not in it", path, "choose among those that were scored")
        read = [index for index in read if index in requested]
    if memory.article_boundaries:
        stream = read_side_by_side(text, memory.segment, read, min(memory.lanes, len(read)))
    else:
        stream = read_as_one(text, memory.segment, read)
    with _threads_of(protocol) as threads:
        split_rows_N, now_N = read_again(dynamic_model, stream, tokens)
    if not memory.article_boundaries:
        split_rows_N = joined_rows(text, read)[split_rows_N]
    now["platform"]["threads"] = threads
    exact = rounds_alike(protocol, now) and protocol.get("processes", 1) == 1
    rows_N = np.searchsorted(text.starts[scores.article] + scores.position, split_rows_N)  # in the split's own order
    return _compare(dataclasses.replace(result, tolerance=0.0 if exact else tolerance), scores, rows_N, now_N)


def read_again(dynamic_model: DynamicModel, stream: Stream, tokens: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return (rows in the stream's split, nats) of a stream's tokens, of all or until ``tokens`` were read."""
    rows: list[np.ndarray] = []
    nats: list[np.ndarray] = []
    for read in iter_segments(dynamic_model, stream):
        rows_BT = rows_of(read.segment, stream.split.starts)
        rows.append(rows_BT[rows_BT >= 0])
        nats.append(read.nats_BT.float().cpu().numpy()[rows_BT >= 0])
        if tokens is not None and read.position.tokens >= tokens:
            break
    return np.concatenate(rows), np.concatenate(nats)


def _open_run(protocol: dict[str, Any], path: Path, corpus_path: str | None) -> tuple[Run, ArticleOrder]:
    """Open the run above the file, with the options that the file says it was read with, and return the order, too."""
    folder = next((each for each in path.resolve().parents if (each / "model.json").is_file()), None)
    if folder is None:
        raise UserError("no run around this score file", path, "put it into scores/ of the run that it was made with")
    if protocol.get("memory") is not None:
        raise UserError("its reading began with a memory file", path, "verify one that began with a fresh memory")
    kinds = {"split": str, "order": str, "model": str, "reader": str, "options": dict}
    if missing := [name for name, kind in kinds.items() if not isinstance(protocol.get(name), kind)]:
        raise UserError(f"the file does not tell its {missing[0]}", path, "score the text anew to verify it")
    run = Run.open(folder)
    try:
        corpus = section_of(CorpusOptions, protocol["options"].get("corpus"))
        memory = section_of(MemoryOptions, protocol["options"].get("memory"))
        if "reading" in protocol:
            reading = check_mapping("model", protocol["reading"])
            run = run.with_sections(section_of(ModelOptions, {**vars(run.section(ModelOptions)), **reading}))
        if "seed" in protocol:  # of low-rank factors
            run = run.with_sections(section_of(RunOptions, {**vars(run.options), "seed": protocol["seed"]}))
    except UserError as error:
        raise UserError(f"its options are not understood ({error})", path) from error
    if corpus_path is not None:
        corpus.path = corpus_path
    run = run.with_sections(corpus, memory)
    if (order := ArticleOrder.parse(protocol["order"])) is None:
        what = f"its articles were read {protocol['order'][:40]!r}, which is no order"
        raise UserError(what, path, "score the text anew")
    return run, order


def _text_of(run: Run, split: str, path: Path) -> TokenisedSplit:
    try:
        return run.split(split)
    except UserError as error:
        raise UserError(f"its text cannot be read ({error})", path, "say where it is now by --path") from error


def _other_model(protocol: dict[str, Any], run: Run) -> str | None:
    for name, now in (("model", run.fingerprint), ("tokenizer", run.trained.tokenizer.fingerprint)):
        if protocol[name] != now:
            return f"the {name} is {now}, the text was read with {protocol[name]}"
    return None


def _other_text(scores: Scores, text: TokenisedSplit) -> str | None:
    """Return the first difference between the file's rows and the text, if there is any."""
    chosen = [int(entry["index"]) for entry in scores.protocol["articles"]]
    if chosen != scores.articles.tolist():
        return "its rows are of other articles than its protocol says"
    if chosen != sorted(chosen):
        return "its articles are not in the split's own order"
    if chosen[-1] >= text.articles or chosen[0] < 0:
        return f"the text has {text.articles} articles, of which article {chosen[-1] + 1} is none"
    lengths, lengths_now = np.diff(scores.starts), np.diff(text.starts)[chosen]
    if len(other := np.flatnonzero(lengths != lengths_now)):
        n = other[0]
        return f"article {chosen[n] + 1} had {lengths[n]:,} tokens, now it has {lengths_now[n]:,}"
    for name, now in text_columns(text, chosen).items():
        then = getattr(scores, name)
        if len(rows := np.flatnonzero(np.asarray(then, dtype=object) != np.asarray(now, dtype=object))):
            row = int(rows[0])
            was, is_now = (_surface(x) if isinstance(x, bytes) else str(x) for x in (then[row], now[row]))
            return f"row {row + 1}, {_token(scores, row)}: {name} {was} then, {is_now} now"
    if scores.protocol["text"] != text_fingerprint(text, chosen):
        return "the split's other articles are not the same as then"
    return None


def _other_constants(protocol: dict[str, Any], dynamic_model: DynamicModel) -> str | None:
    if protocol["reader"] == constants_of(dynamic_model):
        return None
    rule = protocol.get("rule")
    same = isinstance(rule, dict) and rule.get("rates", {}) == dynamic_model.rule.describe()
    if same and EARLIER_CONSTANTS.fullmatch(protocol["reader"]):
        return None  # Written by an earlier dynlm, whose fingerprints cannot be compared.
    return f"the {'constants' if same else 'rates'} of the memory changed since then: it was tuned or learned anew"


def _refuse_dependent(dynamic_model: DynamicModel, memory: MemoryOptions) -> None:
    """Raise UserError where an article's losses depend on those read before or beside it."""
    what = None
    if dynamic_model.reset != "article" and (dynamic_model.rule.learns or dynamic_model.cache is not None):
        what = "under memory.reset 'stream' an article's losses depend on those before it"
    elif not memory.article_boundaries:
        what = "under memory.article_boundaries false all articles are one text"
    elif memory.lanes > 1:
        what = f"it was read in {memory.lanes} lanes, whose products are rounded together"
    if what is not None:
        raise UserError(what, "--articles", "choose --tokens to read only the first ones")


@contextlib.contextmanager
def _threads_of(protocol: dict[str, Any]) -> Iterator[int]:
    """Compute with as many threads as the file says, within the block: they decide how sums are rounded."""
    before, platform = torch.get_num_threads(), protocol.get("platform")
    count = platform.get("threads") if isinstance(platform, dict) else None
    count = count if isinstance(count, int) and 1 <= count <= 1024 else before
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


def _compare(result: VerifyResult, scores: Scores, rows_N: np.ndarray, now_N: np.ndarray) -> VerifyResult:
    """Add what the losses ``now_N`` of the rows ``rows_N`` show."""
    then_N = scores.nats[rows_N]
    off_N = np.abs(then_N.astype(np.float64) - now_N)
    differs_N = then_N.view(np.int32) != now_N.view(np.int32)  # bits: -0.0 is not 0.0
    wrong = np.flatnonzero(differs_N if result.tolerance == 0 else ~(off_N <= result.tolerance))
    broken = []
    if len(wrong):
        first = wrong[np.argmin(rows_N[wrong])]
        more = f"; and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        token = _token(scores, int(rows_N[first]))
        broken.append(f"{token}: {then_N[first]:.9g} nats then, {now_N[first]:.9g} now{more}")
    differing, largest = int(differs_N.sum()), float(off_N.max(initial=0.0))
    return dataclasses.replace(result, compared=len(rows_N), differing=differing, largest=largest, broken=broken)


def _token(scores: Scores, row: int) -> str:
    article = int(scores.article[row]) + 1
    return f"token {int(scores.position[row])} of article {article} ({_surface(scores.surface[row])})"


def _surface(surface: bytes) -> str:
    return repr(surface.decode("utf-8", "replace")[:40])
