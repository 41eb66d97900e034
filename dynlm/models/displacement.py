"""A matrix's displacement in a form that is smaller than the matrix: low-rank, or in some of its rows.

Legend: B lanes, T tokens of a segment, M rows of the factors, N used rows, V rows and H columns of the matrix.

The engine multiplies by the matrix that is in its weights and adds the displacement's products. Where the lanes share
that matrix, one large product serves all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.types import Params


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


class RowSparse(NamedTuple):
    """Each lane's displacement of a matrix (V, H) in the rows ``rows_BN``; N may be 0.

    ``slots_BV``: where each row's values are among N, -1 where it has none. Values in a place that is not used are
    zero.
    """

    rows_BN: Tensor
    values_BNH: Tensor
    slots_BV: Tensor

    def dense(self) -> Tensor:
        """Return the displacement itself (B, V, H)."""
        values_BNH = self.values_BNH
        out_BVH = values_BNH.new_zeros(*self.slots_BV.shape, values_BNH.shape[2])
        return out_BVH.scatter_add_(1, self.rows_BN[..., None].expand_as(values_BNH), values_BNH)

    def add_rows_(self, rows_BT: Tensor, out_BTH: Tensor) -> None:
        """Add the rows ``rows_BT`` of the displacement."""
        if self._used:
            slots_BT = self.slots_BV.gather(1, rows_BT).long()
            index_BTH = slots_BT.clamp(min=0)[..., None].expand(-1, -1, self.values_BNH.shape[2])
            out_BTH.addcmul_(self.values_BNH.gather(1, index_BTH), (slots_BT >= 0)[..., None].to(out_BTH.dtype))

    def add_product_(self, x_BTH: Tensor, out_BTV: Tensor) -> None:
        """Add x times the transposed displacement."""
        if self._used:
            product_BTN = torch.bmm(x_BTH, self.values_BNH.transpose(1, 2))
            out_BTV.scatter_add_(2, self.rows_BN[:, None].expand_as(product_BTN), product_BTN)

    def add_transposed_product_(self, d_BTV: Tensor, out_BTH: Tensor) -> None:
        """Add d times the displacement."""
        if self._used:
            out_BTH.baddbmm_(columns(d_BTV, self.rows_BN), self.values_BNH)

    @property
    def _used(self) -> int:
        return self.rows_BN.shape[1]


Displacement = LowRank | RowSparse


def columns(x_BTV: Tensor, rows_BN: Tensor) -> Tensor:
    """Return the columns ``rows_BN`` of each lane's matrix (B, T, N)."""
    return x_BTV.gather(2, rows_BN[:, None].expand(-1, x_BTV.shape[1], -1))


def with_displacement(lane_params: Mapping[str, Tensor], name: str, displacement: Displacement) -> Params:
    """Return the lanes' weights with a displacement of the matrix ``name`` beside it, as ``Engine.score`` takes it."""
    parts = {_key(name, field): tensor for field, tensor in displacement._asdict().items()}
    return {**lane_params, **parts}


def displacement_of(lane_params: Mapping[str, Tensor], name: str) -> Displacement | None:
    """Return the displacement of the matrix ``name`` that ``with_displacement`` added; None without one."""
    for kind in (LowRank, RowSparse):
        if _key(name, kind._fields[0]) in lane_params:
            return kind(*(lane_params[_key(name, field)] for field in kind._fields))
    return None


def _key(name: str, field: str) -> str:
    return f"{name}/{field}"
