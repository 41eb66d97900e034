"""A made-up corpus and a configuration small enough to train in seconds.

Each article has words of its own that keep coming back in it, so that reading with a memory gains.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from dynlm.adapt.options import StepOptions
from dynlm.data.options import CorpusOptions, TokenizerOptions
from dynlm.models.options import LSTMOptions
from dynlm.run.options import RunOptions
from dynlm.train.config import Config
from dynlm.train.options import MetatrainOptions, PretrainOptions, TuneOptions

ARTICLES = {"train": 18, "valid": 6, "test": 4}
_SYLLABLES = "ba de fi go ku la me ni po ru sa te vi zo".split()
_SENTENCES = (
    "the {} of the {} was seen near a {} .",
    "in the old town a {} came to the {} .",
    "they built the {} with a {} and it was good .",
    "after the war the {} was given to the {} .",
    "a {} is not the same as a {} , said the {} .",
)


class Run(NamedTuple):
    """A trained run, the configuration that it was made with, and its corpus."""

    folder: Path
    config: Config
    corpus: Path


def article(rng: np.random.Generator, sentences: int) -> str:
    """One article in the WikiText format."""
    topics = ["".join(rng.choice(_SYLLABLES, 4)) for _ in range(3)]
    lines = ["", f" = {topics[0].title()} = ", ""]
    for _ in range(sentences):
        sentence = _SENTENCES[rng.integers(len(_SENTENCES))]
        lines.append(" " + sentence.format(*rng.choice(topics, sentence.count("{}"))) + " ")
    return "\n".join([*lines, ""])


def write_corpus(folder: Path, seed: int = 0, sentences: int = 10) -> Path:
    """Write train.txt, valid.txt and test.txt into ``folder``; the same seed gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for split, count in ARTICLES.items():
        text = "".join(article(rng, sentences) for _ in range(count))
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return folder


def tiny_config(corpus: Path, runs: Path, **options: Any) -> Config:
    """A configuration that trains in seconds; ``pretrain={"epochs": 1}`` and the like change it."""
    config = Config(
        run=RunOptions(name="tiny", folder=str(runs), cpu=True),
        corpus=CorpusOptions(path=str(corpus), meta_every=6),
        tokenizer=TokenizerOptions(vocab_size=420),
        model=LSTMOptions(embedding=32),
        pretrain=PretrainOptions(
            epochs=8,
            lanes=4,
            segment=24,
            lr=0.02,
            warmup_steps=10,
            validate_every=50,
            validate_tokens=500,
            checkpoint_every=50,
            log_every=10,
        ),
        memory=StepOptions(segment=20),
        tune=TuneOptions(articles="1-3", tokens=350, statistics_tokens=1200, rounds=1, fewest_tokens=100),
        metatrain=MetatrainOptions(tokens=1200, window=10, pick_tokens=350),
    )
    changed = {name: dataclasses.replace(getattr(config, name), **values) for name, values in options.items()}
    return dataclasses.replace(config, **changed)


def as_yaml(config: Config) -> str:
    """``config`` as a file for ``--config``."""
    return yaml.safe_dump(dataclasses.asdict(config))


def with_memory(config: Config, **options: Any) -> Config:
    """``config`` with other options of the memory."""
    return dataclasses.replace(config, memory=config.memory.replace(**options))


def readable_name(path: Path) -> str:
    """A score file's name without the key of its scoring, which has to be there."""
    stem, dash, key = path.stem.rpartition("-")
    assert dash and len(key) == 8 and set(key) <= set("0123456789abcdef"), path
    return stem


def listing(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder`` with its content, hidden ones too; locks, which hold nothing, are none."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def scored(
    folder: Path, config: Config, articles: str | None = None, split: str = "valid", order: Any = None, **output: Any
) -> tuple[Path, Any]:
    """Score ``articles`` without a progress bar; ``output`` has other fields of ``ScoreRequest``."""
    from dynlm.evaluation.protocol import ArticleOrder
    from dynlm.evaluation.score import ScoreRequest, score

    request = ScoreRequest(split, articles, order or ArticleOrder(), **output)
    return score(opened(folder, config), request, quiet=True)


def rescored(run: Run, config: Config, split: str = "valid", articles: str | None = None) -> tuple[Path, Any]:
    """Score ``articles`` anew, whether or not their file is there."""
    return scored(run.folder, config, articles, split=split, force=True)


def without_seconds(content: Any) -> Any:
    """Return what a file of a run says, without the time that finding it took."""
    if isinstance(content, dict):
        return {name: without_seconds(value) for name, value in content.items() if name != "seconds"}
    return content


def memory_of(folder: Path) -> dict[str, Any]:
    """What was tuned and learned in the run ``folder``, ready to compare: all but the time that it took."""
    from dynlm.runtime.tensors import load_tensors

    found: dict[str, Any] = {}
    for name, content in listing(folder / "memory").items():
        if name.endswith(".safetensors"):
            tensors, about = load_tensors(folder / "memory" / name)
            found[name] = {key: tensor.numpy().tobytes() for key, tensor in tensors.items()}, without_seconds(about)
        else:
            found[name] = without_seconds(json.loads(content))
    return found


def opened(folder: Path, config: Config) -> Any:
    """Open the run in ``folder`` with the options of ``config``."""
    from dynlm.run.run import Run as OpenRun

    return OpenRun.open(folder, *vars(config).values())


def generated(
    folder: Path, config: Config, prompt: str, tokens: int, memory_file: Path | None = None, **sampling: Any
) -> str:
    """Generate text with the seed of ``config``."""
    from dynlm.evaluation.generate import generate
    from dynlm.evaluation.sampling import Sampling
    from dynlm.evaluation.session import Session

    session = Session.open(opened(folder, config), memory_file)
    return "".join(generate(session, prompt, Sampling(tokens, seed=config.run.seed, **sampling)))


def read_into(
    path: Path, folder: Path, config: Config, texts: list[str], unfinished: bool = False, again: bool = False
) -> Any:
    """Read ``texts`` into the memory file ``path``."""
    from dynlm.data.sources.source import Article
    from dynlm.evaluation.sitting import read_texts

    articles = [Article(f"text {number}", text, "a test") for number, text in enumerate(texts, 1)]
    return read_texts(opened(folder, config), articles, path, not unfinished, again)
