"""Reading a split with a run's model and writing what every token cost."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import dynlm
from dynlm.config import Config, MemoryConfig, article_range
from dynlm.corpus.articles import iter_articles, source_name
from dynlm.corpus.streams import read_in_order
from dynlm.corpus.tokens import TokenisedSplit, tokenise
from dynlm.evaluation.scores_file import FOLDER, Scores, write_scores
from dynlm.files import fingerprint
from dynlm.memory.unroll import Reader, unroll
from dynlm.training.memory_folder import open_reader
from dynlm.training.run_folder import TrainedModel, load_model

_RESETS = {
    "stream": "dynamic weights run through the whole text",
    "article": "dynamic weights start afresh with each article",
}


def score(
    folder: Path, config: Config, split: str, articles: str | None = None, quiet: bool = False
) -> tuple[Path, Scores]:
    """Read ``articles`` (``"31-60"``, None: all) of a split by ``config.memory`` and write the score file.

    Raises UserError for what cannot be read, and where the rule was never tuned.
    """
    trained = load_model(folder)
    text = tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
    chosen = article_range(articles, text.articles)
    reader = open_reader(folder, trained, config.memory)
    scores = read_scored(reader, text, chosen, config.memory.segment, quiet)
    protocol = _protocol(folder, config, trained, reader, split, text, chosen)
    scores = dataclasses.replace(scores, protocol=protocol)
    path = folder / FOLDER / f"{file_stem(config.memory, split, articles)}.parquet"
    write_scores(path, scores)
    return path, scores


def file_stem(memory: MemoryConfig, split: str, articles: str | None) -> str:
    """A score file's name: the split, its articles, the rule and, where weights move, the reset policy."""
    parts = [split, *([articles] if articles else []), memory.rule.replace("+", "-")]
    return "-".join(parts if memory.rule == "none" else [*parts, memory.reset])


def read_scored(
    reader: Reader, text: TokenisedSplit, articles: Sequence[int], segment: int, quiet: bool = True
) -> Scores:
    """One pass over ``articles``; a Scores with an empty protocol."""
    stream = read_in_order(text, segment, articles)
    total = sum(len(text.article(index)) for index in articles)
    bar = tqdm(total=total, desc=f"score {reader.rule.name}", unit="tok", unit_scale=True, disable=quiet)
    nats, sizes = [], []
    for read in unroll(reader, stream):
        nats.append(read.nats_T)
        sizes.append(read.segment.tokens)
        bar.update(read.segment.tokens)
    bar.close()
    rows = np.concatenate([np.arange(text.starts[a], text.starts[a + 1]) for a in articles])
    lengths = [int(text.starts[a + 1] - text.starts[a]) for a in articles]
    return Scores(
        protocol={"arm": arm_name(reader)},
        article=np.repeat(np.array(articles, dtype=np.int32), lengths),
        position=np.concatenate([np.arange(length, dtype=np.int32) for length in lengths]),
        segment=np.repeat(np.arange(len(sizes), dtype=np.int32), sizes),
        token=text.ids_N[rows],
        words=text.words_N[rows],
        nats=torch.cat(nats).float().cpu().numpy(),
        surface=[surface for a in articles for surface in text.surfaces(a)],
    )


def arm_name(reader: Reader) -> str:
    """What tables call a reader."""
    return reader.rule.name if reader.rule.learns else "level 1"


def _protocol(
    folder: Path,
    config: Config,
    trained: TrainedModel,
    reader: Reader,
    split: str,
    text: TokenisedSplit,
    chosen: range,
) -> dict[str, Any]:
    rule = reader.rule
    statement = (
        f"score, then learn: each segment of {config.memory.segment} tokens is scored once, before it is learned from; "
        + (f"{_RESETS[reader.reset]}; " if rule.learns else "")
        + "the LSTM's state starts afresh with each article, from a start token that is not scored"
    )
    return {
        "run": folder.name,
        "arm": arm_name(reader),
        "level": rule.level,
        "rule": {"name": rule.name, "rates": {name: rates._asdict() for name, rates in rule.rates.items()}},
        "reset": reader.reset,
        "segment": config.memory.segment,
        "split": split,
        "corpus": source_name(config.corpus),
        "articles": [{"index": int(index), "title": text.titles[index]} for index in chosen],
        "tuned_on": {"split": config.tune.split, "articles": config.tune.articles},
        "statement": statement,
        "tokenizer": trained.tokenizer.fingerprint,
        "model": trained.fingerprint,
        "text": fingerprint(text.fingerprint, *(str(index) for index in chosen)),
        "seed": config.run.seed,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"dynlm": dynlm.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit that dynlm's own code is at, where it runs from a checkout."""
    try:
        done = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
