"""Scoring: read articles of a split with a run's model and write what every token cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import MemoryOptions
from dynlm.data.article_range import article_range
from dynlm.data.articles import source_name
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.evaluation.evaluate import Evaluation, evaluate, explain_out_of_memory
from dynlm.evaluation.protocol import ArticleOrder, dynamic_model_protocol, start_protocol, text_protocol
from dynlm.evaluation.score_file import Scores, write_scores
from dynlm.evaluation.score_path import Output, file_stem, resume_key, scoring_key
from dynlm.evaluation.session import Session
from dynlm.run.options import RunOptions
from dynlm.run.provenance import made_with
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.files import exclusive, staging_dir


@dataclass(frozen=True)
class ScoreRequest:
    """Which articles are scored (``"31-60"``, None: all of the split), in which order, and where the file goes.

    With ``memory_file`` the reading starts with the memory in it; that file stays as it is.
    """

    split: str = "valid"
    articles: str | None = None
    order: ArticleOrder = field(default_factory=ArticleOrder)
    memory_file: Path | None = None
    output: Output = field(default_factory=Output)


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
    dynamic_model, start = run.dynamic_model(), None
    if request.memory_file is not None:
        session = Session.open(run, request.memory_file)
        session.finish()
        start = session.saved
    with processes.main_process_first():
        text = run.split(request.split)
    articles = article_range(request.articles, text.articles)
    protocol = _protocol(run, request, dynamic_model, articles)
    stem = file_stem(memory, request.split, request.articles, str(request.order))
    if request.memory_file is not None and start is not None:
        protocol |= start_protocol(request.memory_file, start, protocol)
        stem += f"-after-{request.memory_file.stem}"
    protocol |= request.output.overrides
    path = request.output.path_for(run.path, stem, key := scoring_key(protocol))
    if (scores := request.output.existing(path, key)) is not None:
        return path, scores
    evaluation = Evaluation(
        dynamic_model, text, request.order.apply(articles), memory.segment, memory.lanes, memory.track, processes
    )
    with exclusive(path, "this score file"):
        if processes.is_main:
            with staging_dir(path.parent):  # fails now, not after the reading, where nothing can be written
                pass
        checkpoints = _checkpoints(path, resume_key(protocol), processes)
        with explain_out_of_memory(memory.lanes):
            begin, seconds = None if start is None else start.memory, run.section(RunOptions).checkpoint_seconds
            scores = evaluate(evaluation, begin, checkpoints, seconds, quiet or not processes.is_main)
        scores = dataclasses.replace(scores, protocol={**scores.protocol, **protocol})
        if processes.is_main:
            write_scores(path, scores)
        checkpoints.drop()
    return path, scores


def _protocol(run: Run, request: ScoreRequest, dynamic_model: DynamicModel, articles: Sequence[int]) -> dict[str, Any]:
    """Describe a scoring that starts with a fresh memory, as far as is known before it."""
    memory, corpus = run.section(MemoryOptions), run.section(CorpusOptions)
    return {
        "run": run.path.name,
        **dynamic_model_protocol(dynamic_model, memory.segment, request.order),
        "split": request.split,
        "corpus": source_name(corpus),
        **text_protocol(run.split(request.split), articles),
        "tuned_on": run.store.tuned_on(memory),
        "tokenizer": run.trained.tokenizer.fingerprint,
        "model": run.fingerprint,
        "seed": run.section(RunOptions).seed,
        "options": {"corpus": vars(corpus), "memory": vars(memory)},
        **made_with(run.processes.device),
    }


def _checkpoints(path: Path, key: str, processes: Processes) -> Checkpoints:
    """Return the checkpoints beside a score file, of this process; those of another ``key`` are removed."""
    stem = f".{path.stem}" if processes.world == 1 else f".{path.stem}.{processes.rank}-of-{processes.world}"
    checkpoints = Checkpoints(path.parent, stem, made_with={"key": key})
    try:
        checkpoints.newest(quiet=True)
    except UserError:
        checkpoints.drop()
    return checkpoints


def _check_processes(memory: MemoryOptions, memory_file: Path | None, processes: Processes) -> None:
    if memory_file is not None and memory.reset == "article":
        raise UserError(
            "memory.reset is 'article', which would discard the memory file at the first article",
            do="read and score with --memory.reset stream",
        )
    if processes.world > 1 and memory_file is not None:
        raise UserError(f"{processes.world} processes cannot continue one memory", do="start one process")
    if processes.world > 1 and (memory.rule, memory.cache) != ("none", "none") and memory.reset == "stream":
        raise UserError(
            f"{processes.world} processes cannot share the one stream of memory.reset 'stream'",
            do="start one process, or choose --memory.reset article",
        )
