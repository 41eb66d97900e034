"""Segments that every engine is compared on."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dynlm.models.lstm.model import LSTMLanguageModel, LSTMState
from dynlm.models.options import LSTMOptions
from dynlm.models.protocol import Engine, token_nats
from dynlm.runtime.tree import concatenate_lanes, detach, select_lanes
from dynlm.types import Params

VOCABULARY = 23
SHAPES = [
    LSTMOptions(embedding=6, hidden=6, layers=1),
    LSTMOptions(embedding=6, hidden=10, layers=2),
    LSTMOptions(embedding=6, hidden=10, layers=2, tied=False),
]
Result = tuple[Tensor, LSTMState, Params]
"""nats_BT, the next state, and each lane's gradient by every tensor."""


class Case:
    """Random weights, a segment with padding, and an initial state."""

    def __init__(self, options: LSTMOptions, lanes: int, dtype: torch.dtype = torch.float64, length: int = 7):
        generator = torch.Generator().manual_seed(lanes)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype) * 0.4

        self.model = LSTMLanguageModel(options, VOCABULARY)
        self.static: Params = {name: draw(*shape) for name, shape in self.model.shapes().items()}
        self.lane_params: Params = {name: draw(lanes, *shape) for name, shape in self.model.shapes().items()}
        self.inputs_BT, self.targets_BT = torch.randint(VOCABULARY, (2, lanes, length), generator=generator)
        self.inputs_BT[:, 3] = self.inputs_BT[:, 1]  # A row of the embedding that is used twice.
        mask_BT = torch.ones(lanes, length, dtype=dtype)
        mask_BT[-1, 4:] = 0
        self.share_BT = mask_BT / mask_BT.sum(1, keepdim=True)
        self.state: LSTMState = tuple((draw(lanes, wide), draw(lanes, wide)) for _, wide in self.model.widths())

    @property
    def names(self) -> set[str]:
        """All tensors of the model."""
        return set(self.static)

    def by_autograd(self, own: set[str]) -> Result:
        """Run one lane after another by autograd; the tensors ``own`` have weights of each lane."""
        model, nats, states, gradients = self.model.twice_differentiable(), [], [], []
        for lane in range(len(self.inputs_BT)):
            one = slice(lane, lane + 1)
            leaves = {
                n: (self.lane_params[n][lane] if n in own else t).clone().requires_grad_()
                for n, t in self.static.items()
            }
            output = model.forward(leaves, select_lanes(self.state, one), self.inputs_BT[one])
            nats_1T = token_nats(output.logits_BTV, self.targets_BT[one])
            gradients.append(torch.autograd.grad((nats_1T * self.share_BT[one]).sum(), list(leaves.values())))
            nats.append(nats_1T.detach())
            states.append(detach(output.state))
        by_name = {name: torch.stack([g[k] for g in gradients]) for k, name in enumerate(self.static)}
        return torch.cat(nats), concatenate_lanes(states), by_name

    def run(self, engine: Engine, own: set[str], whole_first: bool = False) -> Result:
        """Run an engine; the parts of each gradient are put together, and what ``Engine`` promises is checked."""
        lane_params = {name: self.lane_params[name] for name in own}
        scored = engine.score(self.static, lane_params, self.inputs_BT, self.targets_BT, self.state)
        found = {name: torch.full_like(tensor, math.nan) for name, tensor in self.lane_params.items()}
        order = []
        for gradient in engine.gradients(scored, self.share_BT, self.names, whole_first):
            order.append(gradient.name)
            part = found[gradient.name][:, gradient.part]
            assert part.isnan().all(), "a part was given twice"
            part.copy_(gradient.tensor)
            if gradient.rows_BT is not None:
                others = torch.ones(gradient.tensor.shape[:2]).scatter_(1, gradient.rows_BT, 0).bool()
                assert (gradient.tensor[others] == 0).all()
        assert order[0] == self.model.output_tensor(self.names)
        assert not whole_first or order.count(order[0]) == 1
        return scored.nats_BT, scored.state, found


def assert_same(found: Result, expected: Result, **tolerances: float) -> None:
    """Compare two results."""
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerances)
