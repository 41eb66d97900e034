"""Conversion of a segment's arrays to tensors: the only module of this package that imports torch.

Legend: B lanes, T tokens of a segment.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.data.stream import Segment


class Batch(NamedTuple):
    """A ``Segment`` as tensors; ``mask_BT`` is 1 where there is a token to score, else 0."""

    inputs_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    starts_B: Tensor
    headings_B: Tensor
    position_B2: Tensor | None = None
    """Article and position of each lane's first token, if known."""


def to_batch(segment: Segment, like: Tensor) -> Batch:
    """Return ``segment`` on the device of ``like``; the mask gets its floating-point type."""
    dtypes = {"mask_BT": like.dtype}
    return Batch(
        **{
            name: torch.from_numpy(getattr(segment, name)).to(like.device, dtypes.get(name), non_blocking=True)
            for name in Batch._fields
        }
    )
