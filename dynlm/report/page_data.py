"""The numbers that the report's page works with: every token's losses and texts, packed, and what is drawn from them.

Losses are packed as the score files' own float32, so that whatever the page shows is what the files say. Columns are
split into planes (all first bytes, all second bytes, ...), which gzip makes a quarter smaller, and written in base64.
Letters in names of arrays: N tokens.
"""

from __future__ import annotations

import base64
import gzip
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dynlm.evaluation.compare import baseline_of, unique_labels
from dynlm.evaluation.score_file import Scores
from dynlm.report import curve_data as series
from dynlm.report.memory_stats import recorded
from dynlm.report.scale import STEPS, limit_of
from dynlm.report.shown_tokens import shown_tokens
from dynlm.report.words import Words, extremes, words_of

_WINDOWS = (20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_WORDS = 25
_BEGINS_WORD, _REPEATED = 1, 2


def page_data(scores_list: Sequence[Scores], window: int | None = None) -> tuple[dict[str, Any], str]:
    """Everything the page's script needs: an object for JSON, and the packed columns of the tokens.

    ``window`` is the smoothing that is chosen at first; unset, a hundredth of the text. All arms must have read the
    same text.
    """
    first, tokens = scores_list[0], len(scores_list[0])
    base, shown, words = baseline_of(scores_list), shown_tokens(first), words_of(first)
    flags_N = np.zeros(tokens, dtype=np.uint8)
    flags_N[words.starts] |= _BEGINS_WORD
    flags_N[words.repeated_tokens(tokens)] |= _REPEATED
    which_N = shown.which.astype(np.uint16 if len(shown.texts) <= 2**16 else np.uint32)
    columns: list[np.ndarray] = [which_N, flags_N, *(arm.nats.astype(np.float32) for arm in scores_list)]
    chosen = min(tokens, window) if window else series.default_window(tokens)
    meta = {
        "tokens": tokens,
        "arms": unique_labels(scores_list),
        "lower": base,
        "higher": _best(scores_list, base),
        "starts": first.starts.tolist(),
        "articles": [_article(first, index) for index in range(len(first.articles))],
        "passage": series.PASSAGE,
        "windows": sorted({*(each for each in _WINDOWS if each <= tokens), chosen}),
        "window": chosen,
        "limits": [[_limit(one, other) for other in scores_list] for one in scores_list],
        "steps": STEPS,
        "texts": shown.texts,
        "endsLine": shown.ends_line,
        "widths": [column.dtype.itemsize for column in columns],
        "words": _words(words, scores_list),
        "position": _position(scores_list, base),
        "memory": _memory(scores_list),
    }
    return meta, _packed(columns)


def _best(scores_list: Sequence[Scores], base: int) -> int:
    """The arm that is compared at first: the one with the fewest nats besides the baseline."""
    others = [index for index in range(len(scores_list)) if index != base] or [base]
    return min(others, key=lambda index: float(scores_list[index].nats.sum(dtype=np.float64)))


def _article(scores: Scores, index: int) -> dict[str, Any]:
    article, start = int(scores.articles[index]), int(scores.starts[index])
    first = int(scores.position[start])
    passages = [[start + passage.start - first, passage.length] for passage in series.article_passages(scores, article)]
    return {"number": article + 1, "title": scores.title(article), "first": first, "passages": passages}


def _limit(one: Scores, other: Scores) -> float:
    return limit_of(one.nats.astype(np.float64) - other.nats)


def _words(words: Words, scores_list: Sequence[Scores]) -> list[dict[str, Any]]:
    """The words that gained or lost most between any two arms, with every arm's nats."""
    sums = [words.sums(arm.nats) for arm in scores_list]
    kept: dict[int, None] = {}
    for index, one in enumerate(sums):
        for other in sums[index + 1 :]:
            for order in extremes(one - other, _WORDS):
                kept.update(dict.fromkeys(order))
    counts = words.counts()
    return [
        {"text": words.texts[word], "count": int(counts[word]), "nats": [float(each[word]) for each in sums]}
        for word in kept
    ]


def _position(scores_list: Sequence[Scores], base: int) -> dict[str, Any]:
    losses = [series.position_loss(arm) for arm in scores_list]
    gains = [series.position_gain(scores_list[base], arm) for arm in scores_list]
    return {
        "tokens": _numbers(losses[0].position),
        "articles": losses[0].articles.tolist(),
        "loss": [{name: _numbers(getattr(curve, name)) for name in ("mean", "low", "high")} for curve in losses],
        "gain": [{name: _numbers(getattr(curve, name)) for name in ("mean", "low", "high")} for curve in gains],
    }


def _memory(scores_list: Sequence[Scores]) -> list[dict[str, Any]]:
    return [
        {
            "arm": one.arm,
            "row": _numbers(one.row),
            "distance": None if one.distance is None else _numbers(one.distance),
            "flush": None if one.flush is None else _numbers(one.flush),
            "flushes": one.flushes,
        }
        for one in recorded(scores_list)
    ]


def _numbers(values: np.ndarray) -> list[float | None]:
    """Seven significant digits, and null where there is no number."""
    return [float(f"{value:.7g}") if math.isfinite(value) else None for value in values.tolist()]


def _packed(columns: Sequence[np.ndarray]) -> str:
    planes = []
    for column in columns:
        little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<")))
        planes.append(little.view(np.uint8).reshape(len(column), column.dtype.itemsize).T.tobytes())
    # A date within would make other bytes of the same numbers.
    return base64.b64encode(gzip.compress(b"".join(planes), compresslevel=6, mtime=0)).decode("ascii")
