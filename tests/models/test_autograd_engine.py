"""The engine of any model: it agrees with the LSTM's own engine, by batched lanes and lane by lane."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.lstm.model import LSTMLanguageModel, naive_layer
from dynlm.models.options import LSTMOptions
from tests.models.cases import SHAPES, Case, assert_same


class LaneByLane(LSTMLanguageModel):
    """The step-by-step LSTM, which says that it cannot be batched by vmap."""

    supports_vmap = False  # type: ignore[assignment]


def engine_of(case: Case, vmap: bool) -> AutogradEngine:
    model = LSTMLanguageModel if vmap else LaneByLane
    return AutogradEngine(model(case.model.options, case.model.vocab_size, naive_layer))


@pytest.mark.parametrize("vmap", [True, False])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("options", SHAPES)
def test_outputs_and_gradients_equal_those_of_the_lstms_engine(options: LSTMOptions, lanes: int, vmap: bool) -> None:
    case = Case(options, lanes)
    for own in (case.names, set(), {"lstm.0.input", "output.bias"}, {"embedding"}):
        found = case.run(engine_of(case, vmap), own)
        assert_same(found, case.run(LSTMEngine(case.model), own), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("own", [set(), {"embedding"}])
def test_shared_weights_get_the_gradient_of_each_lane(own: set[str]) -> None:
    case = Case(SHAPES[2], 3)
    _, _, together = case.run(engine_of(case, True), own)
    _, _, alone = case.by_autograd(own)
    for name in case.names - own:
        assert together[name].shape == (3, *case.static[name].shape)
        torch.testing.assert_close(together[name], alone[name], rtol=1e-11, atol=1e-13)
        assert not torch.equal(together[name][0], together[name][1])


@pytest.mark.parametrize("vmap", [True, False])
def test_gradients_are_the_same_where_autograd_is_off(vmap: bool) -> None:
    case = Case(SHAPES[0], 3)
    for own in (case.names, {"embedding"}):
        expected = case.run(engine_of(case, vmap), own)
        with torch.no_grad():
            assert_same(case.run(engine_of(case, vmap), own), expected, rtol=0, atol=0)


def test_batched_lanes_use_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    case, calls, vmap = Case(SHAPES[0], 3), [], torch.func.vmap
    monkeypatch.setattr(torch.func, "vmap", lambda function: calls.append(function) or vmap(function))
    case.run(engine_of(case, False), case.names)
    case.run(engine_of(case, True), set())
    assert not calls
    case.run(engine_of(case, True), case.names)
    assert len(calls) == 1


@pytest.mark.parametrize("own", [True, False])
def test_features_and_distribution_equal_those_of_the_lstms_engine(own: bool) -> None:
    case = Case(SHAPES[1], 3)
    lane_params = case.lane_params if own else {}
    by_autograd, by_hand = (
        engine.score(case.static, lane_params, case.inputs_BT, case.targets_BT, case.state)
        for engine in (engine_of(case, True), LSTMEngine(case.model))
    )
    torch.testing.assert_close(by_autograd.features_BTH, by_hand.features_BTH, rtol=1e-11, atol=1e-13)
    for one, other in zip(by_autograd.next_tokens, by_hand.next_tokens, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_nothing_keeps_a_graph_but_the_tape() -> None:
    case = Case(SHAPES[1], 2)
    scored = engine_of(case, True).score(case.static, case.lane_params, case.inputs_BT, case.targets_BT, case.state)
    kept = [
        scored.nats_BT,
        scored.features_BTH,
        *scored.next_tokens,
        *(each for layer in scored.state for each in layer),
    ]
    assert not any(tensor.requires_grad for tensor in kept)
    assert not any(tensor.requires_grad for tensor in (*case.static.values(), *case.lane_params.values()))


@pytest.mark.parametrize("by_hand", [False, True])
def test_weights_of_lanes_without_a_share_may_be_written_over(by_hand: bool) -> None:
    case = Case(SHAPES[2], 3)
    case.share_BT[1] = 0
    _, _, expected = case.by_autograd(case.names)
    engine = LSTMEngine(case.model) if by_hand else engine_of(case, True)
    scored = engine.score(case.static, case.lane_params, case.inputs_BT, case.targets_BT, case.state)
    for tensor in case.lane_params.values():
        tensor[1] = 7.0
    for gradient in engine.gradients(scored, case.share_BT, case.names):
        torch.testing.assert_close(gradient.tensor, expected[gradient.name][:, gradient.part], rtol=1e-11, atol=1e-13)


def test_only_the_named_tensors_are_differentiated() -> None:
    case = Case(SHAPES[2], 2)
    engine = engine_of(case, True)
    scored = engine.score(case.static, case.lane_params, case.inputs_BT, case.targets_BT, case.state)
    assert not list(engine.gradients(scored, case.share_BT, ()))
    names = ("embedding", "output.weight", "lstm.1.bias")
    assert [g.name for g in engine.gradients(scored, case.share_BT, names)] == [
        "output.weight",
        "embedding",
        "lstm.1.bias",
    ]


def test_a_tensor_without_influence_has_a_gradient_of_zero() -> None:
    case = Case(SHAPES[0], 2)
    params = {**case.static, "unused": torch.ones(4, dtype=torch.float64)}

    class WithUnused(LSTMLanguageModel):
        def shapes(self) -> dict[str, tuple[int, ...]]:
            return {**super().shapes(), "unused": (4,)}

        def output_tensor(self, names: object) -> str:
            return "unused"

    engine = AutogradEngine(WithUnused(case.model.options, case.model.vocab_size, naive_layer))
    scored = engine.score(params, {}, case.inputs_BT, case.targets_BT, case.state)
    (found,) = engine.gradients(scored, case.share_BT, {"unused"})
    assert torch.equal(found.tensor, torch.zeros(2, 4, dtype=torch.float64))


def test_the_fused_layer_is_run_lane_by_lane() -> None:
    """It has no batching rule."""
    case = Case(SHAPES[1], 3, torch.float32)
    found = case.run(AutogradEngine(case.model), case.names)
    assert_same(found, case.by_autograd(case.names), rtol=1e-4, atol=1e-5)
    assert not case.model.supports_vmap and dataclasses.replace(case.model, layer=naive_layer).supports_vmap


def test_the_logits_bound_how_many_lanes_are_scored_at_once() -> None:
    case = Case(SHAPES[0], 1)
    engine, like = engine_of(case, True), case.share_BT
    most = engine.lanes_at_once(5, case.names, like)
    assert most == (1 << 28) // (5 * case.model.vocab_size * like.element_size())
    assert engine.lanes_at_once(5 * most * 2, case.names, like) == 1
