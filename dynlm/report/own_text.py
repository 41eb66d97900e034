"""The heat map of texts that were read: each token blue where the memory loses fewer nats than the static model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores
from dynlm.evaluation.text_result import TextResult
from dynlm.report.heatmap import HeatMap
from dynlm.report.passages import Passage

_STATIC = "level 1, with the same context"
_ADAPTED = "each token is scored before anything is learned from it"


def heat_map_of(
    results: Sequence[TextResult], titles: Sequence[str], protocol: Mapping[str, Any], most: int | None = None
) -> HeatMap:
    """Return the heat map of texts, each an article, that the static model read too.

    ``protocol`` names the ``variant`` that read them. Of more than ``most`` tokens in all it shows the opening and the
    middle of the text with the largest gain; ``most`` None shows everything. Raises UserError where nothing was read,
    or not by the static model.
    """
    named = [(result, title) for result, title in zip(results, titles, strict=True) if len(result)]
    if not named or any(result.static is None for result, _ in named):
        raise UserError("there are no two losses of each token to compare", do="read a text, with static=True")
    lengths = [len(result) for result, _ in named]
    article = np.repeat(np.arange(len(named), dtype=np.int32), lengths)
    position = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    columns = [np.concatenate([getattr(r, name) for r, _ in named]) for name in ("token", "words", "nats", "static")]
    token, words, nats, static = columns
    surface = [each for result, _ in named for each in result.surface]
    articles = [{"index": index, "title": title} for index, (_, title) in enumerate(named)]
    common = {**protocol, "text": "", "tokenizer": "", "articles": articles}
    before = article, position, np.zeros_like(position), token, words
    lower = Scores({**common, "variant": "static", "statement": _STATIC}, *before, static, surface)
    higher = Scores({**common, "statement": _ADAPTED}, *before, nats, surface)
    if most is not None and len(lower) > most:
        return HeatMap(lower, higher)
    return HeatMap(lower, higher, [Passage(index, 0, length) for index, length in enumerate(lengths)])
