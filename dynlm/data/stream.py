"""Articles in lanes, cut in segments.

Legend: B lanes, T tokens of a segment.

Each of B lanes reads whole articles, one after another; a lane that has finished takes the next article of the order.
A segment never crosses an article's end, so that losses, resets and updates fall between articles: the last segment of
an article is filled up with masked places. One stream serves training (many lanes, articles shuffled anew each epoch)
and reading (one lane, one pass, in order). Where it stands is a small value that can be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from dynlm.data.token_store import TokenisedSplit


@dataclass(frozen=True)
class Segment:
    """One segment of every lane.

    ``inputs_BT`` and ``targets_BT`` (int64; targets one token ahead), ``mask_BT`` (bool, False where there is nothing
    to score), ``starts_B`` (bool, an article starts here), ``article_B`` (index, -1 in an empty lane), ``position_B``
    (of the segment's first token in its article), ``headings_B`` (bool, one of its tokens completes a heading).
    """

    inputs_BT: np.ndarray
    targets_BT: np.ndarray
    mask_BT: np.ndarray
    starts_B: np.ndarray
    article_B: np.ndarray
    position_B: np.ndarray
    headings_B: np.ndarray

    @property
    def tokens(self) -> int:
        """How many tokens are scored."""
        return int(self.mask_BT.sum())


@dataclass(frozen=True)
class StreamPosition:
    """Where a stream stands: the epoch and place in its order of the next article, and each lane's article.

    ``article`` and ``position`` hold one entry a lane; article -1 is a lane that waits for its next one.
    """

    epoch: int
    taken: int
    article: tuple[int, ...]
    position: tuple[int, ...]
    tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "article": list(self.article), "position": list(self.position)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> StreamPosition:
        return cls(**{**content, "article": tuple(content["article"]), "position": tuple(content["position"])})


@dataclass(frozen=True)
class Stream:
    """Segments of ``split``'s articles; ``seed`` None reads them in order.

    ``lanes`` counts all processes' lanes; of them this stream gives number ``rank``, ``rank + world``, ... All
    processes advance the same ``StreamPosition``, so together they read what one process with all lanes would.
    """

    split: TokenisedSplit
    lanes: int
    segment: int
    order: Sequence[int]
    seed: int | None = None
    repeat: bool = False
    rank: int = 0
    world: int = 1

    @property
    def local_lanes(self) -> int:
        """How many of the lanes this process reads."""
        return len(range(self.rank, self.lanes, self.world))

    def begin(self) -> StreamPosition:
        return StreamPosition(0, 0, (-1,) * self.lanes, (0,) * self.lanes)

    def next(self, place: StreamPosition) -> tuple[Segment | None, StreamPosition]:
        """The segment at ``place`` and the place after it; None at the end of a stream that does not repeat."""
        place = self._fill(place)
        if all(article < 0 for article in place.article):
            return None, place
        lengths = [
            min(self.segment, self._length(article) - position) if article >= 0 else 0
            for article, position in zip(place.article, place.position, strict=True)
        ]
        # One lane needs no filling; several share a shape, so that a batch's cost does not depend on luck.
        width = self.segment if self.lanes > 1 else lengths[0]
        segment = self._cut(place, lengths, width)
        position = [p + n for p, n in zip(place.position, lengths, strict=True)]
        article = [-1 if a < 0 or p >= self._length(a) else a for a, p in zip(place.article, position, strict=True)]
        return segment, replace(
            place, article=tuple(article), position=tuple(position), tokens=place.tokens + sum(lengths)
        )

    def _length(self, article: int) -> int:
        return int(self.split.starts[article + 1] - self.split.starts[article])

    def _article(self, epoch: int, taken: int) -> int:
        """The article that is number ``taken`` of an epoch."""
        place = taken if self.seed is None else _permutation(self.seed, epoch, len(self.order))[taken]
        return int(self.order[place])

    def _fill(self, place: StreamPosition) -> StreamPosition:
        epoch, taken = place.epoch, place.taken
        article, position = list(place.article), list(place.position)
        for lane in range(self.lanes):
            if article[lane] >= 0:
                continue
            if taken == len(self.order):
                if not self.repeat:
                    break
                epoch, taken = epoch + 1, 0
            article[lane], position[lane] = self._article(epoch, taken), 0
            taken += 1
        return replace(place, epoch=epoch, taken=taken, article=tuple(article), position=tuple(position))

    def _cut(self, place: StreamPosition, lengths: list[int], width: int) -> Segment:
        mine = range(self.rank, self.lanes, self.world)
        inputs_BT = np.zeros((len(mine), width), dtype=np.int64)
        targets_BT = np.zeros((len(mine), width), dtype=np.int64)
        mask_BT = np.zeros((len(mine), width), dtype=bool)
        headings_B = np.zeros(len(mine), dtype=bool)
        for row, lane in enumerate(mine):
            article, position, length = place.article[lane], place.position[lane], lengths[lane]
            if article < 0:
                continue
            at = int(self.split.starts[article]) + position
            targets_BT[row, :length] = self.split.ids_N[at : at + length]
            inputs_BT[row, 1:length] = targets_BT[row, : length - 1]
            inputs_BT[row, 0] = self.split.ids_N[at - 1] if position else self.split.start_token
            mask_BT[row, :length] = True
            first, last = np.searchsorted(self.split.headings, (at, at + length))
            headings_B[row] = first < last
        article_B = np.array([place.article[lane] for lane in mine], dtype=np.int64)
        position_B = np.array([place.position[lane] for lane in mine], dtype=np.int64)
        starts_B = (position_B == 0) & (article_B >= 0)
        return Segment(inputs_BT, targets_BT, mask_BT, starts_B, article_B, position_B, headings_B)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, articles: int) -> np.ndarray:
    """An epoch's order. It is kept: drawing it anew for each article would take a time that grows with their square."""
    return np.random.default_rng([seed, epoch]).permutation(articles)


def read_in_order(split: TokenisedSplit, segment: int, articles: Sequence[int]) -> Stream:
    """One lane, one pass over ``articles`` in the order given: the stream of every evaluation."""
    return Stream(split, lanes=1, segment=segment, order=articles)


def read_side_by_side(
    split: TokenisedSplit, segment: int, articles: Sequence[int], lanes: int, rank: int = 0, world: int = 1
) -> Stream:
    """One pass over ``articles`` in ``lanes`` lanes of each of ``world`` processes; in one lane, in the order given.

    Several lanes begin with the longest articles, so that they finish at about the same time.
    """
    if lanes * world > 1:
        articles = sorted(articles, key=lambda index: int(split.starts[index] - split.starts[index + 1]))
    return Stream(split, lanes * world, segment, articles, rank=rank, world=world)
