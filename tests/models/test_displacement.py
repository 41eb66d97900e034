"""A matrix and a displacement beside it read like the sum of both."""

from __future__ import annotations

import pytest
import torch

from dynlm.models.displacement import RowSparse, columns, with_displacement
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.options import LSTMOptions
from tests.models.cases import SHAPES, Case

PLACES = (4, 2, 3)
"""In use by each lane."""


def displacement_of_rows(case: Case, lanes: int) -> RowSparse:
    """Return random values in some rows of the softmax layer's matrix, among them those of inputs and targets."""
    height, width = case.static[case.model.factored_tensor].shape
    values_BNH = torch.randn(lanes, 4, width, generator=torch.Generator().manual_seed(9), dtype=torch.float64) * 0.2
    rows_BN = torch.zeros(lanes, 4, dtype=torch.int64)
    slots_BV = torch.full((lanes, height), -1, dtype=torch.int16)
    for lane, count in enumerate(PLACES[:lanes]):
        values_BNH[lane, count:] = 0
        rows_BN[lane, :count] = torch.cat([case.inputs_BT[lane], case.targets_BT[lane]]).unique()[:count]
        slots_BV[lane, rows_BN[lane, :count]] = torch.arange(count, dtype=torch.int16)
    return RowSparse(rows_BN, values_BNH, slots_BV)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("options", SHAPES)
def test_displaced_rows_are_those_of_the_dense_matrix(options: LSTMOptions, lanes: int, shared: bool) -> None:
    case = Case(options, lanes)
    name = case.model.factored_tensor
    displacement = displacement_of_rows(case, lanes)
    own = {tensor: t for tensor, t in case.lane_params.items() if tensor != name} if shared else case.lane_params
    matrix = case.static[name] if shared else case.lane_params[name]
    found = []
    for lane_params in (
        {**own, name: matrix + displacement.dense()},
        with_displacement(own, name, displacement),
    ):
        engine = LSTMEngine(case.model)
        scored = engine.score(case.static, lane_params, case.inputs_BT, case.targets_BT, case.state)
        gradients = {}
        for gradient in engine.gradients(scored, case.share_BT, case.names):
            tensor = gradient.tensor.clone()
            if gradient.factors is not None:
                assert gradient.name == name
                assert gradient.factors.targets_BT is case.targets_BT
                left, right, _, rows_BT, at_rows = gradient.factors
                tensor = left.transpose(1, 2) @ right
                if rows_BT is not None and at_rows is not None:
                    tensor.scatter_add_(1, rows_BT[..., None].expand_as(at_rows), at_rows)
            gradients[gradient.name] = tensor
        found.append((scored.nats_BT, gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-11, atol=1e-13)


def test_columns_are_each_lane_s() -> None:
    x_BTV = torch.arange(24.0).view(2, 3, 4)
    assert columns(x_BTV, torch.tensor([[3, 1], [0, 0]])).tolist() == [
        [[3, 1], [7, 5], [11, 9]],
        [[12, 12], [16, 16], [20, 20]],
    ]
