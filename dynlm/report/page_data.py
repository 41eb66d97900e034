"""Data of the report's page: every token's losses and text, packed, and the curves and words made from them.

Losses are packed as the score files' own float32, so the page shows exactly what the files hold. Columns are split
into byte planes (all first bytes, all second bytes, ...), which gzip compresses a quarter better, and encoded in
base64. Legend: N tokens.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from dynlm.report.curve_data import PositionCurve, position_curve
from dynlm.report.memory_stats import memory_records
from dynlm.report.passages import PASSAGE, article_passages
from dynlm.report.scale import STEPS, limit_of
from dynlm.report.score_set import ScoreSet
from dynlm.report.token_cells import token_texts
from dynlm.report.words import Words, extremes, find_words

_WINDOWS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_WORDS = 25
_BEGINS_WORD, _REPEATED = 1, 2


def page_data(scores: ScoreSet, window: int | None = None) -> tuple[dict[str, Any], str]:
    """Return what the page's script needs: an object for JSON, and the packed columns of the tokens.

    ``window`` is the initial smoothing, by default a hundredth of the text. Raises UserError where it does not fit.
    """
    text, tokens, window = scores.text, len(scores.text), scores.window(window)
    shown, words = token_texts(text.surface, text.starts), find_words(text)
    flags_N = np.zeros(tokens, dtype=np.uint8)
    flags_N[words.starts_G] |= _BEGINS_WORD
    flags_N[words.repeated_N] |= _REPEATED
    index_N = shown.index_N.astype(np.uint16 if len(shown.texts) <= 2**16 else np.uint32)
    columns: list[np.ndarray] = [index_N, flags_N, *(each.nats.astype(np.float32) for each in scores.variants)]
    nats = [each.nats.astype(np.float64) for each in scores.variants]
    data = {
        "tokens": tokens,
        "variants": scores.labels,
        "lower": scores.baseline,
        "higher": min(scores.others, key=lambda index: float(nats[index].sum())),
        "starts": text.starts.tolist(),
        "articles": [_article(scores, index) for index in range(len(text.articles))],
        "passage": PASSAGE,
        "windows": sorted({*(each for each in _WINDOWS if each <= tokens), window}),
        "window": window,
        "limits": [[limit_of(lower - higher) for higher in nats] for lower in nats],
        "steps": STEPS,
        "texts": shown.texts,
        "lineEnds": shown.line_ends,
        "widths": [column.dtype.itemsize for column in columns],
        "words": _words(words, scores),
        "position": _position(scores),
        "memory": [
            {name: _numbers(value) if isinstance(value, np.ndarray) else value for name, value in asdict(each).items()}
            for each in memory_records(scores)
        ],
    }
    return data, _pack(columns)


def _article(scores: ScoreSet, index: int) -> dict[str, Any]:
    text = scores.text
    article, start = int(text.articles[index]), int(text.starts[index])
    passages = [[passage.rows(text).start, passage.length] for passage in article_passages(text, article)]
    first = int(text.position[start])
    return {"number": article + 1, "title": text.title(article), "first": first, "passages": passages}


def _words(words: Words, scores: ScoreSet) -> list[dict[str, Any]]:
    """Return the words that gained or lost most between any two variants, with every variant's nats."""
    sums = [words.sums(each.nats) for each in scores.variants]
    kept: dict[int, None] = {}
    for index, lower in enumerate(sums):
        for higher in sums[index + 1 :]:
            for order in extremes(lower - higher, _WORDS):
                kept.update(dict.fromkeys(order))
    counts = words.counts()
    return [
        {"text": words.texts[word], "count": int(counts[word]), "nats": [float(each[word]) for each in sums]}
        for word in kept
    ]


def _position(scores: ScoreSet) -> dict[str, Any]:
    def curve(each: PositionCurve) -> dict[str, Any]:
        return {name: _numbers(getattr(each, name)) for name in ("mean", "low", "high")}

    losses = [position_curve(each) for each in scores.variants]
    baseline = scores.variants[scores.baseline]
    return {
        "tokens": _numbers(losses[0].position),
        "articles": losses[0].articles.tolist(),
        "loss": [curve(each) for each in losses],
        "gain": [curve(position_curve(each, baseline)) for each in scores.variants],
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Return seven significant digits, and None where there is no finite number."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values.tolist()]


def _pack(columns: Sequence[np.ndarray]) -> str:
    planes = []
    for column in columns:
        little_endian = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<")))
        planes.append(little_endian.view(np.uint8).reshape(len(column), column.dtype.itemsize).T.tobytes())
    # Without a date, the same numbers give the same bytes.
    return base64.b64encode(gzip.compress(b"".join(planes), compresslevel=6, mtime=0)).decode("ascii")
