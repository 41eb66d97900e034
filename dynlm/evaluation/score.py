"""Scoring: read articles of a split with a run's model and write what every token cost.

A file is named ``SPLIT-ARTICLES-RULE-RESET-KEY.parquet``, by a key of everything that decides on its losses: two
scorings that may differ never share a file, and the same scoring again is found.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.used_rows import UsedRowsRule
from dynlm.data.article_range import article_range
from dynlm.errors import UserError
from dynlm.evaluation.evaluate import Evaluation, evaluate, explain_out_of_memory
from dynlm.evaluation.joined import evaluate_joined
from dynlm.evaluation.protocol import ArticleOrder, resume_key, scoring_key, scoring_protocol, start_protocol
from dynlm.evaluation.score_file import FOLDER, Scores, load_if_whole, write_scores
from dynlm.evaluation.session import Session
from dynlm.run.memory_store import rule_stem
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive, staging_dir
from dynlm.runtime.validation import plain_name

_KEY_LENGTH, _LONGEST_STEM = 8, 120


@dataclass(frozen=True)
class ScoreRequest:
    """What is scored, and where the file goes. Raises UserError for a name that is no plain file name."""

    split: str = "valid"
    articles: str | None = None
    """Such as ``"31-60"``; None: all of the split."""
    order: ArticleOrder = field(default_factory=ArticleOrder)
    memory_file: Path | None = None
    """The memory that the reading starts with; the file stays as it is."""
    path: Path | None = None
    """The score file; None: ``name`` in the run's ``scores/``, by default made from what is scored."""
    name: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Entries of the protocol to replace."""
    force: bool = False
    """Whether an existing scoring is computed again."""

    def __post_init__(self) -> None:
        if self.name is not None:
            plain_name("--name", self.name)


def score(run: Run, request: ScoreRequest, quiet: bool = False) -> tuple[Path, Scores]:
    """Read the articles with the run's memory options and write the score file, with rows in the split's own order.

    A scoring with the same inputs that is there already is loaded from its file (``Scores.path`` is then set). One that
    was interrupted resumes at its checkpoint (every ``run.checkpoint_seconds``). Several processes share the
    articles. Raises UserError for a missing or unfitting model, rule, memory file or text, where several processes
    would share one stream, where memory runs out, and where the file cannot be written or is locked.
    """
    memory, processes = run.section(MemoryOptions), run.processes
    _check_processes(memory, request.memory_file, processes)
    # What is missing is reported before the text is tokenised, which may take long.
    dynamic_model, begin = run.dynamic_model(), None
    if memory.track and isinstance(dynamic_model.rule, UsedRowsRule):
        raise UserError("memory.used_rows does not go with memory.track", do="leave one of them out")
    session = None if request.memory_file is None else Session.open(run, request.memory_file)
    if session is not None and session.saved.unfinished is not None:
        session.read("")
    with processes.main_process_first():
        text = run.split(request.split)
    articles = article_range(request.articles, text.articles)
    protocol = scoring_protocol(run, dynamic_model, request.split, articles, request.order)
    stem = file_stem(memory, request.split, request.articles, str(request.order))
    if request.memory_file is not None and session is not None:
        begin = session.saved.memory
        protocol |= start_protocol(request.memory_file, session.saved, protocol)
        stem += f"-after-{request.memory_file.stem}"
    protocol |= request.overrides
    run = run.writable()
    path, found = _file_of(request, run.path / FOLDER, stem, scoring_key(protocol))
    if found is not None:
        return path, found
    order = request.order.apply(articles)
    evaluation = Evaluation(dynamic_model, text, order, memory.segment, memory.lanes, memory.track, processes)
    with exclusive(path, "this score file"):
        if processes.is_main:
            with staging_dir(path.parent):  # fails now, not after the reading, where nothing can be written
                pass
        checkpoints = _checkpoints(path, resume_key(protocol), processes, run.options.checkpoints_kept)
        with explain_out_of_memory(memory.lanes):
            seconds, hides = run.options.checkpoint_seconds, quiet or not processes.is_main
            if memory.article_boundaries:
                scores = evaluate(evaluation, begin, checkpoints, seconds, hides)
            else:
                scores = evaluate_joined(evaluation, checkpoints, seconds, hides)
        scores = dataclasses.replace(scores, protocol={**scores.protocol, **protocol})
        if processes.is_main:
            write_scores(path, scores)
        checkpoints.drop()
    return path, scores


def file_stem(memory: MemoryOptions, split: str, articles: str | None, order: str = "in order") -> str:
    """Return the readable part: split, articles, rule and, where it matters, reset policy, cache, mixture, order."""
    parts = [split, *([articles] if articles else []), rule_stem(memory)]
    if (memory.rule, memory.cache) != ("none", "none"):
        parts += [memory.reset, *{"fixed": ["cache"], "learned": ["gated-cache"]}.get(memory.cache, [])]
        parts += ["no-regret"] if memory.no_regret else []
    parts += [] if memory.article_boundaries else ["joined"]
    return "-".join(parts if order == "in order" else [*parts, order.replace(", seed ", "-")])


def _file_of(request: ScoreRequest, folder: Path, stem: str, key: str) -> tuple[Path, Scores | None]:
    """Return the file of the scoring ``key``, and its scores unless they are to be computed.

    Raises UserError where the name is that of another scoring's file.
    """
    named = None if request.name is None else folder / f"{request.name.removesuffix('.parquet')}.parquet"
    given, short = request.path or named, key[:_KEY_LENGTH]
    if given is not None and request.force:
        return given, None
    for path in (given,) if given else (*sorted(folder.glob(f"*-{short}.parquet")), folder / f"{stem}.parquet"):
        found = load_if_whole(path)
        if found is not None and scoring_key(found.protocol) == key:
            return path, None if request.force else found
        if found is not None and path == named:
            raise UserError("this file holds another scoring", path, "choose another --name, or --force")
    return given or folder / f"{stem[:_LONGEST_STEM]}-{short}.parquet", None


def _checkpoints(path: Path, key: str, processes: Processes, kept: int) -> Checkpoints:
    """Return the checkpoints beside a score file, of this process; those of another ``key`` are removed."""
    stem = f".{path.stem}" if processes.world == 1 else f".{path.stem}.{processes.rank}-of-{processes.world}"
    checkpoints = Checkpoints(path.parent, stem, kept, {"key": key})
    try:
        checkpoints.newest(quiet=True)
    except UserError:
        checkpoints.drop()
    return checkpoints


def _check_processes(memory: MemoryOptions, memory_file: Path | None, processes: Processes) -> None:
    if processes.world > 1 and not memory.article_boundaries:
        what = f"{processes.world} processes cannot share the one text of memory.article_boundaries false"
        raise UserError(what, do="start one process")
    if memory_file is not None and memory.reset == "article":
        what = "memory.reset is 'article', which would discard the memory file at the first article"
        raise UserError(what, do="read and score with --memory.reset stream")
    if processes.world > 1 and memory_file is not None:
        raise UserError(f"{processes.world} processes cannot continue one memory", do="start one process")
    if processes.world > 1 and (memory.rule, memory.cache) != ("none", "none") and memory.reset == "stream":
        what = f"{processes.world} processes cannot share the one stream of memory.reset 'stream'"
        raise UserError(what, do="start one process, or choose --memory.reset article")
