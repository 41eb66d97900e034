"""A segment's arrays as tensors on a device, the one way from the corpus to the model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dynlm.data.stream import Segment


class Batch(NamedTuple):
    """One segment of B lanes and T tokens; ``mask_BT`` is 1 where there is a token to score, else 0.

    ``place_B2``: article and position of each lane's first token, where they are known.
    """

    inputs_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    starts_B: Tensor
    headings_B: Tensor
    place_B2: Tensor | None = None


def to_batch(segment: Segment, like: Tensor) -> Batch:
    """``segment`` on the device of ``like`` and with its floating-point type."""

    def move(array: object, dtype: torch.dtype | None = None) -> Tensor:
        return torch.from_numpy(array).to(like.device, dtype, non_blocking=True)

    return Batch(
        move(segment.inputs_BT),
        move(segment.targets_BT),
        move(segment.mask_BT, like.dtype),
        move(segment.starts_B),
        move(segment.headings_B),
        move(places(segment)),
    )


def places(segment: Segment) -> np.ndarray:
    """Article and position of each lane's first token, (B, 2)."""
    return np.stack([segment.article_B, segment.position_B], 1).astype(np.int64, copy=False)
