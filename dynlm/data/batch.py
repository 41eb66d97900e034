"""Conversion of a segment's arrays to tensors: the only module of this package that imports torch.

Legend: B lanes, T tokens of a segment.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
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
