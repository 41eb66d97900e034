"""The LSTM's engine: outputs and gradients equal autograd's, one lane at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dynlm.models.lstm import engine as module
from dynlm.models.lstm import layers
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.options import LSTMOptions
from dynlm.runtime.tree import leaves
from dynlm.types import Params
from tests.models.cases import SHAPES, Case, assert_same


@pytest.mark.parametrize("part_bytes", [1, 400, 1 << 30])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("options", SHAPES)
def test_outputs_and_gradients_equal_autograd(
    options: LSTMOptions, lanes: int, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", part_bytes)
    case = Case(options, lanes)
    engine = LSTMEngine(case.model)
    for own in (case.names, set(), {"lstm.0.input", "output.bias"}, {"embedding"}):
        assert_same(case.run(engine, own), case.by_autograd(own), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("names", [{"embedding"}, {"lstm.1.bias", "embedding"}, {"output.weight", "embedding"}])
@pytest.mark.parametrize("options", SHAPES[1:])
def test_the_first_gradient_is_whole_and_no_other_tensor_is_given(
    options: LSTMOptions, names: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_BYTES", 1)
    case = Case(options, 2)
    names &= case.names
    scored = LSTMEngine(case.model).score(case.static, {}, case.inputs_BT, case.targets_BT, case.state)
    given = list(LSTMEngine(case.model).gradients(scored, case.share_BT, names, whole_first=True))
    assert {gradient.name for gradient in given} == names
    assert given[0].name == case.model.output_tensor(names)
    assert given[0].tensor.shape[1:] == case.static[given[0].name].shape


@pytest.mark.parametrize("options", SHAPES)
def test_reused_scratch_changes_no_result(options: LSTMOptions) -> None:
    cases = [Case(options, lanes, length=length) for lanes, length in ((3, 7), (1, 5), (3, 7), (2, 9), (3, 7))]
    engine = LSTMEngine(cases[0].model)
    for case in cases:
        found = case.run(engine, case.names, whole_first=True)
        assert_same(found, case.by_autograd(case.names), rtol=1e-11, atol=1e-13)
    held = engine.scratch.bytes()
    cases[0].run(engine, set(), whole_first=True)
    assert engine.scratch.bytes() == held


def test_one_lane_with_own_weights_equals_shared_ones_bit_for_bit() -> None:
    case = Case(SHAPES[0], 1, torch.float32)
    case.lane_params = {name: tensor[None].clone() for name, tensor in case.static.items()}
    shared, own = (case.run(LSTMEngine(case.model), names) for names in (set(), case.names))
    assert_same(own, shared, rtol=0, atol=0)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_any_number_of_threads_splits_the_recurrent_product(threads: int) -> None:
    """At widths that the number of threads divides, and at others."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for options in (SHAPES[0], LSTMOptions(embedding=8, hidden=8, layers=1)):
            case = Case(options, 1)
            found = case.run(LSTMEngine(case.model), case.names)
            assert_same(found, case.by_autograd(case.names), rtol=1e-11, atol=1e-13)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("options", SHAPES)
def test_bfloat16_rounds_products_and_keeps_float32_results(options: LSTMOptions, lanes: int) -> None:
    case = Case(options, lanes, torch.float32)
    nats_BT, state, gradients = case.run(LSTMEngine(case.model, precision=torch.bfloat16), case.names)
    assert {tensor.dtype for tensor in (nats_BT, *gradients.values(), *state[0])} == {torch.float32}
    expected = case.by_autograd(case.names)
    torch.testing.assert_close(nats_BT, expected[0], rtol=0.05, atol=0.05)
    for name, found in gradients.items():
        assert 0 < (found - expected[2][name]).norm() < 0.05 * expected[2][name].norm(), name


def test_lanes_are_independent() -> None:
    """Another text in one lane changes no bit of the others."""
    case, own = Case(SHAPES[1], 3, torch.float32), {"embedding", "lstm.0.input"}
    before = case.run(LSTMEngine(case.model), own)
    case.inputs_BT[1] = case.inputs_BT[1].roll(1)
    case.targets_BT[1] = case.targets_BT[1].roll(2)
    after = case.run(LSTMEngine(case.model), own)
    others = torch.tensor([0, 2])
    assert torch.equal(before[0][others], after[0][others])
    assert not torch.equal(before[0][1], after[0][1])
    assert all(torch.equal(before[2][name][others], after[2][name][others]) for name in case.static)


def test_lanes_that_learn_are_read_as_many_at_once_as_there_are_threads() -> None:
    case = Case(SHAPES[0], 1)
    engine, like = LSTMEngine(case.model), case.share_BT
    assert engine.lanes_at_once(5, case.names, like) == torch.get_num_threads()
    assert engine.lanes_at_once(5, ("output.bias",), like) == (1 << 23) // (
        5 * case.model.vocab_size * like.element_size()
    )
    most = engine.lanes_at_once(5, (), like)
    assert most == (1 << 28) // (5 * case.model.vocab_size * like.element_size())
    assert engine.lanes_at_once(5 * most * 2, (), like) == 1


def _static_reading(engine: LSTMEngine, params: Params, at_once: int) -> list[Tensor]:
    """Return the losses of 48 tokens, and the state after them, read ``at_once`` tokens at a time."""
    model = engine.model
    inputs_BT, targets_BT = torch.randint(model.vocab_size, (2, 1, 48), generator=torch.Generator().manual_seed(9))
    state, nats = model.init_state(1, params["embedding"]), []
    for begin in range(0, 48, at_once):
        part = slice(begin, begin + at_once)
        scored = engine.score(params, {}, inputs_BT[:, part], targets_BT[:, part], state, ())
        state = scored.state
        nats.append(scored.nats_BT)
    return [torch.cat(nats, 1), *(tensor for _, tensor in leaves(state))]


@pytest.mark.parametrize("options", SHAPES)
def test_products_that_round_each_row_alike_are_made_for_several_segments(
    options: LSTMOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row_by_row(x_BTI: Tensor, weight: Tensor, bias: Tensor, out_BTO: Tensor) -> None:
        for step in range(x_BTI.shape[1]):
            out_BTO[:, step] = torch.addmv(bias, weight, x_BTI[0, step])

    for owner in (module, layers):
        monkeypatch.setattr(owner, "affine", row_by_row)
    case = Case(options, 1, torch.float32)
    engine = LSTMEngine(case.model)
    assert engine.tokens_at_once(case.static, 3) == 48
    assert all(map(torch.equal, _static_reading(engine, case.static, 48), _static_reading(engine, case.static, 3)))
    monkeypatch.setattr(module, "_LOGITS_BYTES", 4 * 23 * 4 * 3)
    assert engine.tokens_at_once(case.static, 3) == 12
    assert engine.tokens_at_once(case.static, 13) == 13


def test_products_whose_rounding_depends_on_their_rows_are_made_for_one_segment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def by_length(x_BTI: Tensor, weight: Tensor, bias: Tensor, out_BTO: Tensor) -> None:
        layers.affine(x_BTI, weight, bias, out_BTO)
        out_BTO[:, 5:] *= 1 + 1e-6

    case = Case(SHAPES[0], 1, torch.float32)
    monkeypatch.setattr(module, "affine", by_length)
    assert LSTMEngine(case.model).tokens_at_once(case.static, 3) == 3


def test_several_segments_at_once_give_the_bits_of_each_at_the_width_of_the_small_config() -> None:
    """Whatever this processor's library does with the rows of a product."""
    case = Case(LSTMOptions(embedding=256, hidden=256, layers=1), 1, torch.float32)
    engine = LSTMEngine(case.model)
    at_once = min(48, engine.tokens_at_once(case.static, 3))
    assert all(map(torch.equal, _static_reading(engine, case.static, at_once), _static_reading(engine, case.static, 3)))
