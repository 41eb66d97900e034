"""Texts made to hurt a memory, and what reading them costs by level 1, by a rule, and by both mixed.

Each is one article, so that nothing tells the reader where it turns. Three figures come of one reading: the mixture's,
and those of the two experts that it is of.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.reader import Reader
from dynlm.data.articles import iter_articles
from dynlm.data.stream import read_in_order
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.evaluation.protocol import variant_name
from dynlm.run.folder import load_model
from dynlm.run.rule_store import open_reader
from dynlm.runtime.distributed import Processes
from dynlm.train.config import Config

ALLOWED = 0.01
"""Nats per token that the mixture may cost more than level 1 does."""
_GLUED, _SNIPPET = 20_000, (20, 200)
_REPEATED = 100_000


class Cost(NamedTuple):
    """Nats per token of one text by each reader; not finite where a reader's weights diverged."""

    text: str
    tokens: int
    level_1: float
    rule: float
    no_regret: float

    @property
    def kept(self) -> bool:
        """Whether the mixture was at most ``ALLOWED`` worse than level 1."""
        return self.no_regret - self.level_1 <= ALLOWED


@dataclasses.dataclass(frozen=True)
class Hostilities:
    """Every text's costs, and the rule and share that they are of."""

    variant: str
    reset: str
    segment: int
    share: float
    costs: list[Cost]

    @property
    def kept(self) -> bool:
        """Whether the mixture did what it is for on all texts."""
        return all(cost.kept for cost in self.costs)

    def to_dict(self) -> dict[str, Any]:
        """Fit for JSON, in which a loss that is no number is null."""
        about = {name: getattr(self, name) for name in ("variant", "reset", "segment", "share", "kept")}
        texts = [
            {
                **{name: value if _is_number(value) else None for name, value in cost._asdict().items()},
                "kept": cost.kept,
            }
            for cost in self.costs
        ]
        return {**about, "allowed": ALLOWED, "texts": texts}

    def to_text(self) -> str:
        """A table of nats per token, one line a text."""
        variant = self.variant
        columns: tuple[str, ...] = (
            "text",
            "tokens",
            "level 1",
            variant,
            "no-regret",
            f"{variant} - level 1",
            "no-regret - level 1",
            "",
        )
        rows = [columns]
        for cost in self.costs:
            figures = (cost.level_1, cost.rule, cost.no_regret)
            worse = (f"{figure - cost.level_1:+.4f}" if _is_number(figure) else "-" for figure in figures[1:])
            shown = (f"{figure:.4f}" if _is_number(figure) else "diverged" for figure in figures)
            rows.append((cost.text, f"{cost.tokens:,}", *shown, *worse, "kept" if cost.kept else "BROKEN"))
        widths = [max(len(row[column]) for row in rows) for column in range(len(columns))]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            ).rstrip()
            for row in rows
        ]
        return "\n".join(
            [
                *lines,
                "",
                f"Nats per token, each text read once as one article; memory.reset {self.reset}, segments of "
                f"{self.segment} tokens.",
                f"No-regret: level 1 and {variant} mixed by fixed share, share {self.share:g}; kept: at most "
                f"{ALLOWED:g} worse than level 1.",
            ]
        )


def hostile(folder: Path, config: Config, split: str, tokens: int | None = None, quiet: bool = False) -> Hostilities:
    """Read every hostile text, at most ``tokens`` tokens of each, by ``config.memory`` and by level 1.

    Texts are made of the articles of ``split``, by the run's seed. Raises UserError for rule none, which is level 1
    itself, and where ``tokens`` are too few to be read.
    """
    if config.memory.rule == "none":
        raise UserError("memory.rule is 'none', which is level 1 itself", do="choose a rule that learns, such as rms")
    if tokens is not None and tokens < 2:
        raise UserError(f"tokens is {tokens}", do="choose at least 2")
    trained = load_model(folder, Processes.start(config.run.cpu).device)
    memory = dataclasses.replace(config.memory, no_regret=True)
    reader = open_reader(folder, trained, memory)
    source = tokenise(iter_articles(config.corpus, split), trained.tokenizer, config.corpus.num_proc)
    costs = []
    for name, text in hostile_texts(source, trained.tokenizer, memory.segment, config.run.seed):
        costs.append(cost_of(reader, name, text if tokens is None else text.excerpt(1, tokens), memory.segment, quiet))
    variant = variant_name(dataclasses.replace(reader, hedge=None))
    return Hostilities(variant, memory.reset, memory.segment, memory.switch_share, costs)


def cost_of(reader: Reader, name: str, text: TokenisedSplit, segment: int, quiet: bool = True) -> Cost:
    """One reading of ``text``, by a reader with a hedge: sums of nats, divided once."""
    sums_3 = torch.zeros(3, dtype=torch.float64)
    bar = tqdm(total=len(text.ids_N), desc=name, unit="tok", unit_scale=True, disable=quiet)
    for read in iter_segments(reader, read_in_order(text, segment, range(text.articles))):
        told_BT3 = torch.cat([read.experts_BT2, read.nats_BT[..., None]], 2)
        sums_3 += told_BT3.double().sum((0, 1)).cpu()
        bar.update(read.place.tokens - bar.n)
    bar.close()
    return Cost(name, len(text.ids_N), *(sums_3 / len(text.ids_N)).tolist())


def hostile_texts(
    split: TokenisedSplit, tokenizer: Tokenizer, segment: int, seed: int
) -> Iterator[tuple[str, TokenisedSplit]]:
    """(name, text) of each, one article a text; the same seed makes the same texts.

    Raises UserError where ``split`` has only one article.
    """
    if split.articles < 2:
        raise UserError("hostile texts are made of at least two articles", do="choose a split that has them")
    made: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
        "glued": lambda generator: _glued(split, generator),
        "repeated": lambda generator: np.full(_REPEATED, generator.integers(len(split.ids_N))),
        "shuffled words": lambda generator: generator.permutation(split.rows(_longest(split)[0])),
        "alternating": lambda _: _alternating(split, segment),
    }
    for number, (name, rows_of) in enumerate(made.items()):
        yield name, split.take([rows_of(np.random.default_rng([seed, number]))], [name])
    yield "another language", TokenisedSplit.from_texts([german()], tokenizer, "another language")


def german() -> str:
    """The opening of Franz Kafka's Die Verwandlung (Leipzig: Kurt Wolff, 1915), in the public domain."""
    file = importlib.resources.files("dynlm.evaluation.checks") / "texts" / "kafka-die-verwandlung.txt"
    return file.read_text(encoding="utf-8")


def _glued(split: TokenisedSplit, generator: np.random.Generator) -> np.ndarray:
    """Snippets of random articles, of 20 to 200 tokens where the article has so many, about 20,000 tokens in all."""
    snippets: list[np.ndarray] = []
    while sum(map(len, snippets)) < _GLUED:
        rows = split.rows(int(generator.integers(split.articles)))
        length = min(len(rows), int(generator.integers(*_SNIPPET, endpoint=True)))
        begin = int(generator.integers(len(rows) - length, endpoint=True))
        snippets.append(rows[begin : begin + length])
    return np.concatenate(snippets)


def _alternating(split: TokenisedSplit, segment: int) -> np.ndarray:
    """The two longest articles, a segment of each in turn: what was just learned is of the other one."""
    one, other = (split.rows(article) for article in _longest(split)[:2])
    turns = min(len(one), len(other)) // segment
    if not turns:
        return np.concatenate([one, other])
    cut = slice(0, turns * segment)
    return np.stack([one[cut].reshape(turns, segment), other[cut].reshape(turns, segment)], 1).ravel()


def _longest(split: TokenisedSplit) -> np.ndarray:
    """Articles, the longest first."""
    return np.argsort(-np.diff(split.starts), kind="stable")


def _is_number(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)
