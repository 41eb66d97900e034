"""A matrix's displacement as a product of two factors, which many tokens' updates are before they are added up.

Legend: B lanes, T tokens of a segment, M rows of the factors, V rows and H columns of the matrix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.types import Params

_LEFT, _RIGHT = "/left", "/right"


class LowRank(NamedTuple):
    """Each lane's displacement left^T right of a matrix (V, H); M may be 0."""

    left_BMV: Tensor
    right_BMH: Tensor

    def dense(self) -> Tensor:
        """Return the displacement itself (B, V, H)."""
        return self.left_BMV.transpose(1, 2) @ self.right_BMH

    def add_rows_(self, rows_BT: Tensor, out_BTH: Tensor) -> None:
        """Add the rows ``rows_BT`` of the displacement."""
        if self._rank:
            index_BMT = rows_BT[:, None].expand(-1, self._rank, -1)
            out_BTH.baddbmm_(self.left_BMV.gather(2, index_BMT).transpose(1, 2), self.right_BMH)

    def add_product_(self, x_BTH: Tensor, out_BTV: Tensor) -> None:
        """Add x times the transposed displacement."""
        if self._rank:
            out_BTV.baddbmm_(torch.bmm(x_BTH, self.right_BMH.transpose(1, 2)), self.left_BMV)

    def add_transposed_product_(self, d_BTV: Tensor, out_BTH: Tensor) -> None:
        """Add d times the displacement."""
        if self._rank:
            out_BTH.baddbmm_(torch.bmm(d_BTV, self.left_BMV.transpose(1, 2)), self.right_BMH)

    @property
    def _rank(self) -> int:
        return self.left_BMV.shape[1]


def with_low_rank(lane_params: Mapping[str, Tensor], name: str, displacement: LowRank) -> Params:
    """Return the lanes' weights with a displacement of the matrix ``name`` beside it, as ``Engine.score`` takes it."""
    left_BMV, right_BMH = displacement
    return {**lane_params, name + _LEFT: left_BMV, name + _RIGHT: right_BMH}


def low_rank_of(lane_params: Mapping[str, Tensor], name: str) -> LowRank | None:
    """Return the displacement of the matrix ``name`` that ``with_low_rank`` added; None without one."""
    if name + _LEFT not in lane_params:
        return None
    return LowRank(lane_params[name + _LEFT], lane_params[name + _RIGHT])
