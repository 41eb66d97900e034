"""Stress test: texts made to mislead a memory, read by level 1, by a rule, and by the mixture of both.

Each text is one article, so that nothing marks where its topic changes. The three losses come from one reading: the
mixture's, and those of its two experts.
"""

from __future__ import annotations

import dataclasses
import importlib.resources
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import MemoryOptions
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.evaluation.protocol import variant_name
from dynlm.evaluation.tables import text_rows
from dynlm.run.run import Run
from dynlm.runtime.validation import within

ALLOWED = 0.01
"""Nats per token that the mixture may lose more than level 1."""
_GLUED, _SNIPPET = 20_000, (20, 200)
_REPEATED = 100_000


class Cost(NamedTuple):
    """Nats per token of one text by each model; not finite where a model's weights diverged."""

    text: str
    tokens: int
    level_1: float
    rule: float
    no_regret: float

    @property
    def kept(self) -> bool:
        """Whether the mixture was at most ``ALLOWED`` worse than level 1."""
        return self.no_regret - self.level_1 <= ALLOWED


@dataclass(frozen=True)
class StressResult:
    """Costs of every text, and the rule and fixed share that they are of."""

    variant: str
    reset: str
    segment: int
    share: float
    costs: list[Cost]

    @property
    def kept(self) -> bool:
        """Whether the mixture kept its bound on all texts."""
        return all(cost.kept for cost in self.costs)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON; a loss that is not finite is null."""
        texts = []
        for cost in self.costs:
            finite = {n: v if n == "text" or math.isfinite(v) else None for n, v in cost._asdict().items()}
            texts.append({**finite, "kept": cost.kept})
        about = {name: value for name, value in vars(self).items() if name != "costs"}
        return {**about, "kept": self.kept, "allowed": ALLOWED, "texts": texts}

    def to_text(self) -> str:
        """Return a table of nats per token, one line a text."""
        name = self.variant
        heading = ("text", "tokens", "level 1", name, "no-regret", f"{name} - level 1", "no-regret - level 1", "")
        rows: list[tuple[str, ...]] = [heading]
        for cost in self.costs:
            figures = (cost.level_1, cost.rule, cost.no_regret)
            shown = [f"{figure:.4f}" if math.isfinite(figure) else "diverged" for figure in figures]
            worse = [f"{figure - cost.level_1:+.4f}" if math.isfinite(figure) else "-" for figure in figures[1:]]
            rows.append((cost.text, f"{cost.tokens:,}", *shown, *worse, "kept" if cost.kept else "BROKEN"))
        notes = (
            f"Nats per token, each text read once as one article; memory.reset {self.reset}, segments of "
            f"{self.segment} tokens.\n"
            f"No-regret: level 1 and {name} mixed by fixed share, share {self.share:g}; kept: at most "
            f"{ALLOWED:g} worse than level 1."
        )
        return "\n".join([*text_rows(rows), "", notes])


def stress_test(run: Run, split: str, tokens: int | None = None, quiet: bool = False) -> StressResult:
    """Read every stress text, or its first ``tokens`` tokens, with the run's memory options and with level 1.

    Texts are made from the articles of ``split`` by the run's seed. Raises UserError for rule none, which is level 1,
    and for fewer than 2 ``tokens``.
    """
    memory = dataclasses.replace(run.section(MemoryOptions), no_regret=True)
    if memory.rule == "none":
        raise UserError("memory.rule is 'none', which is level 1 itself", do="choose a rule that learns, such as rms")
    within("tokens", 2 if tokens is None else tokens, 2)
    dynamic_model, costs = run.dynamic_model(memory), []
    for name, text in stress_texts(run.split(split), run.trained.tokenizer, memory.segment, run.options.seed):
        text = text if tokens is None else text.excerpt(1, tokens)
        costs.append(cost_of(dynamic_model, name, text, memory.segment, quiet))
    variant = variant_name(dataclasses.replace(dynamic_model, mixture=None))
    return StressResult(variant, memory.reset, memory.segment, memory.switch_share, costs)


def cost_of(dynamic_model: DynamicModel, name: str, text: TokenisedSplit, segment: int, quiet: bool = True) -> Cost:
    """Read ``text`` once with a model that has a mixture; sums of nats are divided once."""
    sums_3 = torch.zeros(3, dtype=torch.float64)
    with tqdm(total=len(text.ids_N), desc=name, unit="tok", unit_scale=True, disable=quiet) as bar:
        for read in iter_segments(dynamic_model, read_in_order(text, segment, range(text.articles))):
            nats_BT3 = torch.cat([read.experts_BT2, read.nats_BT[..., None]], 2)
            sums_3 += nats_BT3.double().sum((0, 1)).cpu()
            bar.update(read.position.tokens - bar.n)
    return Cost(name, len(text.ids_N), *(sums_3 / len(text.ids_N)).tolist())


def stress_texts(
    split: TokenisedSplit, tokenizer: Tokenizer, segment: int, seed: int
) -> Iterator[tuple[str, TokenisedSplit]]:
    """Yield (name, text) of each, one article a text; the same seed makes the same texts.

    Raises UserError where ``split`` has only one article.
    """
    if split.articles < 2:
        raise UserError("stress texts are made of at least two articles", do="choose a split that has them")
    glue, repeat, shuffle = (np.random.default_rng([seed, number]) for number in range(3))
    longest, second = (split.rows(article) for article in np.argsort(-np.diff(split.starts), kind="stable")[:2])
    # A segment of each in turn: what was just learned is of the other one.
    count = len(second) // segment
    turns = [rows_N[: count * segment].reshape(count, segment) for rows_N in (longest, second)]
    rows = {
        "glued": _glued(split, glue),
        "repeated": np.full(_REPEATED, repeat.integers(len(split.ids_N))),
        "shuffled words": shuffle.permutation(longest),
        "alternating": np.stack(turns, 1).ravel() if count else np.concatenate([longest, second]),
    }
    for name, rows_N in rows.items():
        yield name, split.take([rows_N], [name])
    yield "another language", TokenisedSplit.from_texts([german()], tokenizer, "another language")


def german() -> str:
    """Return the opening of Franz Kafka's Die Verwandlung (Leipzig: Kurt Wolff, 1915), in the public domain."""
    file = importlib.resources.files("dynlm.evaluation.checks") / "texts" / "kafka-die-verwandlung.txt"
    return file.read_text(encoding="utf-8")


def _glued(split: TokenisedSplit, generator: np.random.Generator) -> np.ndarray:
    """Return snippets of random articles, of 20 to 200 tokens (or all an article has), about 20,000 tokens in all."""
    snippets: list[np.ndarray] = []
    while sum(map(len, snippets)) < _GLUED:
        rows = split.rows(int(generator.integers(split.articles)))
        length = min(len(rows), int(generator.integers(*_SNIPPET, endpoint=True)))
        begin = int(generator.integers(len(rows) - length, endpoint=True))
        snippets.append(rows[begin : begin + length])
    return np.concatenate(snippets)
