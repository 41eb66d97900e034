"""Streams of segments: articles assigned to lanes, cut into segments, and converted to tensors.

Legend: B lanes, T tokens of a segment.

Each lane reads whole articles one after another; a lane that has finished an article takes the next one of the order.
A segment never crosses the end of an article, so that losses, resets and updates fall between articles: the last
segment of an article is padded and masked. The same stream serves training (many lanes, articles reshuffled in each
epoch) and evaluation (one pass, in order). Its position is a small value that can be saved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.data.joined import join_articles
from dynlm.data.tokenised_split import TokenisedSplit


@dataclass(frozen=True)
class Segment:
    """One segment of every lane."""

    inputs_BT: np.ndarray
    """Token ids (int64)."""
    targets_BT: np.ndarray
    """The inputs one token ahead."""
    mask_BT: np.ndarray
    """False at padding (bool)."""
    starts_B: np.ndarray
    """Whether an article starts here (bool)."""
    headings_B: np.ndarray
    """Whether one of the tokens completes a heading (bool)."""
    position_B2: np.ndarray
    """Article of each lane, -1 in an empty one, and index of the segment's first token in it (int64)."""
    longest: int | None = None
    """Tokens of the stream's longest segments; an article's last one may be shorter."""

    @property
    def tokens(self) -> int:
        """Number of tokens that are scored."""
        return int(self.mask_BT.sum())


class Batch(NamedTuple):
    """A ``Segment`` as tensors; ``mask_BT`` is 1 where there is a token to score, else 0. Positions may be unknown."""

    inputs_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    starts_B: Tensor
    headings_B: Tensor
    position_B2: Tensor | None = None


def to_batch(segment: Segment, like: Tensor, width: int | None = None) -> Batch:
    """Return ``segment`` on the device of ``like``, padded to ``width`` tokens; the mask gets the dtype of ``like``."""

    def move(name: str) -> Tensor:
        array = getattr(segment, name)
        if width is not None and name.endswith("_BT"):
            array = np.pad(array, ((0, 0), (0, width - array.shape[1])))
        tensor = torch.from_numpy(array)
        # A copy from pinned memory does not wait for the device.
        tensor = tensor.pin_memory() if like.is_cuda else tensor
        return tensor.to(like.device, like.dtype if name == "mask_BT" else None, non_blocking=True)

    return Batch(*(move(name) for name in Batch._fields))


@dataclass(frozen=True)
class StreamPosition:
    """Position of a stream: how many articles of which epoch were taken, and each lane's position in its article.

    ``article`` and ``position`` have one entry a lane; article -1 is a lane that waits for its next one.
    """

    epoch: int
    taken: int
    article: tuple[int, ...]
    position: tuple[int, ...]
    tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        return {**vars(self), "article": list(self.article), "position": list(self.position)}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> StreamPosition:
        """Return the position that ``to_dict`` described."""
        return cls(**{**content, "article": tuple(content["article"]), "position": tuple(content["position"])})


@dataclass(frozen=True)
class Stream:
    """Segments of ``split``'s articles in ``order``, reshuffled in each epoch unless ``seed`` is None.

    ``lanes`` counts the lanes of all processes; this stream yields lanes ``rank``, ``rank + world``, ... All processes
    advance the same ``StreamPosition``, so that together they read what one process with all lanes would.
    """

    split: TokenisedSplit
    lanes: int
    segment: int
    order: Sequence[int]
    seed: int | None = None
    repeat: bool = False
    rank: int = 0
    world: int = 1
    joined_from: Sequence[int] | None = None
    """Articles, of another split, that the one article of a joined text consists of."""
    longest: int | None = None
    """In one lane: as many tokens, a multiple of ``segment``, at once where the article has as many left."""

    @property
    def articles(self) -> Sequence[int]:
        """The articles that are read, by their index in the split that they come from."""
        return self.order if self.joined_from is None else self.joined_from

    @property
    def local_lanes(self) -> int:
        """Number of lanes of this process."""
        return len(range(self.rank, self.lanes, self.world))

    def begin(self) -> StreamPosition:
        """Return the position before the first segment."""
        return StreamPosition(0, 0, (-1,) * self.lanes, (0,) * self.lanes)

    def next(self, position: StreamPosition) -> tuple[Segment | None, StreamPosition]:
        """Return the segment at ``position`` and the next position; None at the end of a stream without ``repeat``."""
        now = self._fill_lanes(position)
        if max(now.article) < 0:
            return None, now
        lengths = [
            self._next_length(self._length(article) - first) if article >= 0 else 0
            for article, first in zip(now.article, now.position, strict=True)
        ]
        # One lane needs no padding; several have a fixed shape, so that a batch's cost does not vary.
        segment = self._cut(now, lengths, self.segment if self.lanes > 1 else lengths[0])
        ends = tuple(first + length for first, length in zip(now.position, lengths, strict=True))
        article = tuple(-1 if a < 0 or end >= self._length(a) else a for a, end in zip(now.article, ends, strict=True))
        return segment, replace(now, article=article, position=ends, tokens=now.tokens + sum(lengths))

    def _next_length(self, left: int) -> int:
        return self.longest if self.longest and left >= self.longest else min(self.segment, left)

    def _length(self, article: int) -> int:
        return int(self.split.starts[article + 1] - self.split.starts[article])

    def _fill_lanes(self, position: StreamPosition) -> StreamPosition:
        """Give each waiting lane the next article."""
        epoch, taken = position.epoch, position.taken
        article, first = list(position.article), list(position.position)
        for lane in range(self.lanes):
            if article[lane] >= 0:
                continue
            if taken == len(self.order):
                if not self.repeat:
                    break
                epoch, taken = epoch + 1, 0
            index = taken if self.seed is None else _permutation(self.seed, epoch, len(self.order))[taken]
            article[lane], first[lane] = int(self.order[index]), 0
            taken += 1
        return replace(position, epoch=epoch, taken=taken, article=tuple(article), position=tuple(first))

    def _cut(self, now: StreamPosition, lengths: list[int], width: int) -> Segment:
        local = range(self.rank, self.lanes, self.world)
        inputs_BT = np.zeros((len(local), width), dtype=np.int64)
        targets_BT = np.zeros((len(local), width), dtype=np.int64)
        mask_BT = np.zeros((len(local), width), dtype=bool)
        headings_B = np.zeros(len(local), dtype=bool)
        for row, lane in enumerate(local):
            article, position, length = now.article[lane], now.position[lane], lengths[lane]
            if article < 0:
                continue
            begin = int(self.split.starts[article]) + position
            targets_BT[row, :length] = self.split.ids_N[begin : begin + length]
            inputs_BT[row, 1:length] = targets_BT[row, : length - 1]
            inputs_BT[row, 0] = self.split.ids_N[begin - 1] if position else self.split.start_token
            mask_BT[row, :length] = True
            first, last = np.searchsorted(self.split.headings, (begin, begin + length))
            headings_B[row] = first < last
        position_B2 = np.array([now.article, now.position], dtype=np.int64).T[self.rank :: self.world]
        starts_B = (position_B2[:, 0] >= 0) & (position_B2[:, 1] == 0)
        return Segment(inputs_BT, targets_BT, mask_BT, starts_B, headings_B, position_B2, self.longest or self.segment)


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, articles: int) -> np.ndarray:
    """Return the order of an epoch, cached: to draw it for each article takes quadratic time."""
    return np.random.default_rng([seed, epoch]).permutation(articles)


def read_in_order(split: TokenisedSplit, segment: int, articles: Sequence[int]) -> Stream:
    """Return a stream of one lane and one pass over ``articles`` in the given order."""
    return Stream(split, lanes=1, segment=segment, order=articles)


def read_as_one(split: TokenisedSplit, segment: int, articles: Sequence[int]) -> Stream:
    """Return a stream of ``articles``, in the given order, as one text without boundaries between them."""
    return Stream(join_articles(split, articles), 1, segment, [0], joined_from=articles)


def read_side_by_side(
    split: TokenisedSplit, segment: int, articles: Sequence[int], lanes: int, rank: int = 0, world: int = 1
) -> Stream:
    """Return a stream of one pass over ``articles`` in ``lanes`` lanes of each of ``world`` processes.

    Several lanes read the longest articles first, so that they finish at about the same time.
    """
    if lanes * world > 1:
        articles = sorted(articles, key=lambda index: int(split.starts[index] - split.starts[index + 1]))
    return Stream(split, lanes * world, segment, articles, rank=rank, world=world)
