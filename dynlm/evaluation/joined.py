"""An evaluation that reads its articles as one text, with losses reported for each article.

Legend: N tokens read, in the order of reading.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from dynlm.data.joined import join_articles, joined_rows
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.evaluation.evaluate import Evaluation, evaluate, text_columns
from dynlm.evaluation.score_file import Scores
from dynlm.runtime.checkpoints import Checkpoints


def evaluate_joined(
    evaluation: Evaluation, checkpoints: Checkpoints | None = None, seconds: float = 0.0, quiet: bool = True
) -> Scores:
    """Read the articles, in their order, as one text without boundaries; checkpoints are those of ``evaluate``.

    The rows of the result are those of ``evaluate``: each token by its article and its position there. Segments may
    hold tokens of several articles, and are numbered in the order of reading.
    """
    text, articles = evaluation.text, sorted(evaluation.articles)
    rows_N = joined_rows(text, evaluation.articles)
    joined = dataclasses.replace(evaluation, text=join_articles(text, evaluation.articles), articles=[0])
    scores = evaluate(joined, None, checkpoints, seconds, quiet)
    # A file has its rows in the split's own order, whatever order they were read in.
    order_N = np.argsort(rows_N)
    read = {name: getattr(scores, name) for name in ("segment", "nats", "distance", "reset_share")}
    columns: dict[str, Any] = {name: None if column is None else column[order_N] for name, column in read.items()}
    protocol = _by_article(scores.protocol, rows_N, text, evaluation.segment)
    return Scores(protocol, **text_columns(text, articles), **columns)


def _by_article(protocol: dict[str, Any], rows_N: np.ndarray, text: TokenisedSplit, segment: int) -> dict[str, Any]:
    """Return a protocol in which the update filter's first events are located in their articles."""
    counts = protocol.get("update_filter")
    if counts is None:
        return protocol
    first = {}
    for name, event in counts["first"].items():
        row = int(rows_N[event["segment"] * segment])
        article = int(np.searchsorted(text.starts, row, side="right")) - 1
        first[name] = {"article": article, "segment": (row - int(text.starts[article])) // segment}
    return {**protocol, "update_filter": {**counts, "first": first}}
