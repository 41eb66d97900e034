"""Lanes with weights of their own: outputs and gradients are autograd's, one lane at a time."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dynlm.models.lstm import engine as module
from dynlm.models.lstm.engine import forward, gradients
from dynlm.models.lstm.model import Hidden, LSTMLanguageModel, Params
from dynlm.models.lstm.native import NativeKernels
from dynlm.models.options import ModelOptions
from dynlm.models.scratch import Scratch

VOCABULARY = 23
SHAPES = [
    ModelOptions(embedding=6, hidden=6, layers=1),
    ModelOptions(embedding=6, hidden=10, layers=2),
    ModelOptions(embedding=6, hidden=10, layers=2, tied=False),
]


class Case:
    """Made-up weights, a segment with waiting places, and a state to begin with."""

    def __init__(self, config: ModelOptions, lanes: int, dtype: torch.dtype = torch.float64, length: int = 7):
        generator = torch.Generator().manual_seed(lanes)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=dtype) * 0.4

        self.model = LSTMLanguageModel(config, VOCABULARY)
        self.static: Params = {name: draw(*shape) for name, shape in self.model.shapes().items()}
        self.own: Params = {name: draw(lanes, *shape) for name, shape in self.model.shapes().items()}
        self.inputs_BT, self.targets_BT = torch.randint(VOCABULARY, (2, lanes, length), generator=generator)
        self.inputs_BT[:, 3] = self.inputs_BT[:, 1]
        mask_BT = torch.ones(lanes, length, dtype=dtype)
        mask_BT[-1, 4:] = 0
        self.share_BT = mask_BT / mask_BT.sum(1, keepdim=True)
        self.hidden: Hidden = tuple((draw(lanes, wide), draw(lanes, wide)) for _, wide in self.model.widths())

    def reference(self, names: set[str]) -> tuple[Tensor, Hidden, Params]:
        """By autograd through plain operations: nats_BT, the state after, and each lane's gradients."""
        nats, after, gradients_of = [], [], []
        for lane in range(len(self.inputs_BT)):
            one = slice(lane, lane + 1)
            leaves = {
                n: (self.own[n][lane] if n in names else t).clone().requires_grad_() for n, t in self.static.items()
            }
            hidden = tuple((h[one], c[one]) for h, c in self.hidden)
            total, nats_1T, hidden = self.model.naive_loss(
                leaves, self.inputs_BT[one], self.targets_BT[one], self.share_BT[one], hidden
            )
            gradients_of.append(torch.autograd.grad(total, list(leaves.values())))
            nats.append(nats_1T.detach())
            after.append(hidden)
        u = {name: torch.stack([g[k] for g in gradients_of]) for k, name in enumerate(self.static)}
        hidden = tuple(
            (torch.cat([h for h, _ in layer]).detach(), torch.cat([c for _, c in layer]).detach())
            for layer in zip(*after, strict=True)
        )
        return torch.cat(nats), hidden, u

    def fast(
        self,
        names: set[str],
        scratch: Scratch,
        precision: torch.dtype | None = None,
        whole: bool = False,
        native: NativeKernels | None = None,
    ) -> tuple[Tensor, Hidden, Params]:
        """The same by the code under test, the parts of each gradient put together."""
        own = {name: self.own[name] for name in names}
        scored = forward(
            self.model, self.static, own, self.inputs_BT, self.targets_BT, self.hidden, scratch, precision, native
        )
        u = {name: torch.full_like(tensor, math.nan) for name, tensor in self.own.items()}
        for gradient in gradients(self.model, scored, self.share_BT, set(u), scratch, whole, native):
            assert u[gradient.name][:, gradient.part].isnan().all(), "a part came twice"
            u[gradient.name][:, gradient.part] = gradient.tensor
            if gradient.rows_BT is not None:
                others = torch.ones(gradient.tensor.shape[:2]).scatter_(1, gradient.rows_BT, 0).bool()
                assert (gradient.tensor[others] == 0).all()
        return scored.nats_BT, scored.hidden, u


def assert_same(found: tuple[Tensor, Hidden, Params], wanted: tuple[Tensor, Hidden, Params], **close: float) -> None:
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, **close)


@pytest.mark.parametrize("part_bytes", [1, 400, 1 << 30])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("config", SHAPES)
def test_outputs_and_gradients_are_autograds(
    config: ModelOptions, lanes: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", part_bytes)
    case, scratch = Case(config, lanes), Scratch()
    every = set(case.static)
    for names in (every, set(), {"lstm.0.input", "output.bias"}, {"embedding"}):
        assert_same(case.fast(names, scratch), case.reference(names), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("config", SHAPES)
def test_working_space_is_used_again_and_leaves_no_trace(config: ModelOptions) -> None:
    scratch = Scratch()
    cases = [Case(config, lanes, length=length) for lanes, length in ((3, 7), (1, 5), (3, 7), (2, 9), (3, 7))]
    for case in cases:
        every = set(case.static)
        assert_same(case.fast(every, scratch, whole=True), case.reference(every), rtol=1e-11, atol=1e-13)
    held = scratch.bytes()
    cases[0].fast(set(), scratch, whole=True)
    assert scratch.bytes() == held


def test_one_lane_of_its_own_weights_is_read_as_shared_ones_bit_for_bit() -> None:
    case = Case(SHAPES[0], 1, torch.float32)
    case.own = {name: tensor[None].clone() for name, tensor in case.static.items()}
    shared, own = (case.fast(names, Scratch()) for names in (set(), set(case.static)))
    assert torch.equal(shared[0], own[0])
    assert all(torch.equal(shared[2][name], own[2][name]) for name in case.static)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_recurrent_product_is_cut_for_any_number_of_cores(threads: int) -> None:
    """At widths that the cores divide and at those that they do not."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for config in (SHAPES[0], ModelOptions(embedding=8, hidden=8, layers=1)):
            case = Case(config, 1)
            every = set(case.static)
            assert_same(case.fast(every, Scratch()), case.reference(every), rtol=1e-11, atol=1e-13)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("config", SHAPES)
def test_in_bfloat16_products_are_rounded_and_results_are_not(config: ModelOptions, lanes: int) -> None:
    case = Case(config, lanes, torch.float32)
    every = set(case.static)
    nats_BT, hidden, u = case.fast(every, Scratch(), torch.bfloat16)
    assert {tensor.dtype for tensor in (nats_BT, *u.values(), *hidden[0])} == {torch.float32}
    wanted = case.reference(every)
    torch.testing.assert_close(nats_BT, wanted[0], rtol=0.05, atol=0.05)
    for name, found in u.items():
        size = wanted[2][name].norm()
        assert 0 < (found - wanted[2][name]).norm() < 0.05 * size, name


def test_lanes_do_not_hear_each_other() -> None:
    """Another text in one lane changes no bit of the others'."""
    case, names = Case(SHAPES[1], 3, torch.float32), {"embedding", "lstm.0.input"}
    before = case.fast(names, Scratch())
    case.inputs_BT[1] = case.inputs_BT[1].roll(1)
    case.targets_BT[1] = case.targets_BT[1].roll(2)
    after = case.fast(names, Scratch())
    others = torch.tensor([0, 2])
    assert torch.equal(before[0][others], after[0][others])
    assert not torch.equal(before[0][1], after[0][1])
    assert all(torch.equal(before[2][name][others], after[2][name][others]) for name in case.static)
