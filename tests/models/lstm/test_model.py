"""The LSTM: its fused layer equals the step-by-step one, and it is causal, stateful and independent by lane."""

import dataclasses

import pytest
import torch

from dynlm.models.lstm.model import LSTMLanguageModel, fused_layer, naive_layer
from dynlm.models.lstm.regularisers import Regularisers
from dynlm.models.options import LSTMOptions, RegularisationOptions
from dynlm.models.protocol import SequenceModel, token_nats

SHAPES = {
    "tied": LSTMOptions(embedding=6, hidden=9, layers=1, tied=True),
    "deep": LSTMOptions(embedding=6, hidden=9, layers=3, tied=True),
    "untied": LSTMOptions(embedding=6, hidden=9, layers=2, tied=False),
}
ORDER = ["output.bias", "output.weight", "lstm.0.recurrent", "lstm.0.bias", "lstm.0.input", "embedding"]


@pytest.fixture(params=SHAPES)
def model(request):
    return LSTMLanguageModel(SHAPES[request.param], vocab_size=13)


def text(lanes=3, steps=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(13, (lanes, steps + 1), generator=generator)


def random_params(model, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) * 0.3 for name, shape in model.shapes().items()}


def initial(model, params, lanes=3):
    return model.init_state(lanes, params["embedding"].detach())


def test_the_fused_layer_and_loss_equal_the_plain_ones_with_their_gradients(model):
    """The plain ones: the step-by-step layer, with the loss that every model inherits."""
    params = {name: tensor.requires_grad_() for name, tensor in random_params(model, torch.float32).items()}
    tokens = text()
    weights_BT = torch.rand(3, 7, generator=torch.Generator().manual_seed(2))
    state = tuple((h + 0.1, c - 0.2) for h, c in initial(model, params))
    results = []
    for loss in (model.loss, lambda *given: SequenceModel.loss(model.twice_differentiable(), *given)):
        total, nats_BT, after = loss(params, state, tokens[:, :-1], tokens[:, 1:], weights_BT)
        assert not nats_BT.requires_grad
        results.append((total, nats_BT, after, torch.autograd.grad(total, list(params.values()))))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_outputs_are_the_same_bits_with_and_without_gradients(model):
    params = random_params(model, torch.float32)
    with torch.no_grad():
        without = model.forward(params, initial(model, params), text())
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    with_gradients = model.forward(leaves, initial(model, params), text())
    assert torch.equal(without.features_BTH, with_gradients.features_BTH)
    assert with_gradients.features_BTH.requires_grad
    assert not without.features_BTH.requires_grad
    assert not without.state[0][0].requires_grad


def test_torch_lstm_module_agrees(model):
    """The same weights in torch.nn.LSTM give the same outputs: gate order and shapes are torch's own."""
    if model.options.layers != 1:
        pytest.skip("further layers are the same code")
    params = random_params(model)
    module = torch.nn.LSTM(6, 6, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.weight_ih_l0.copy_(params["lstm.0.input"])
        module.weight_hh_l0.copy_(params["lstm.0.recurrent"])
        module.bias_ih_l0.copy_(params["lstm.0.bias"])
        module.bias_hh_l0.zero_()
        expected, _ = module(torch.nn.functional.embedding(text(), params["embedding"]))
        found = model.forward(params, initial(model, params), text())
    torch.testing.assert_close(found.features_BTH, expected)


def test_segments_in_turn_equal_the_whole_text(model):
    params = random_params(model)
    tokens = text(steps=9)
    state = initial(model, params)
    whole = model.forward(params, state, tokens)
    parts = []
    for begin, end in ((0, 1), (1, 4), (4, 10)):
        part = model.forward(params, state, tokens[:, begin:end])
        parts.append(part.logits_BTV)
        state = part.state
    torch.testing.assert_close(torch.cat(parts, dim=1), whole.logits_BTV)
    torch.testing.assert_close(state, whole.state)


def test_the_loss_is_that_of_the_logits(model):
    params, tokens = random_params(model), text()
    state = initial(model, params)
    output = model.forward(params, state, tokens[:, :-1])
    weights_BT = torch.rand(3, 7, dtype=torch.float64)
    total, nats_BT, after = model.loss(params, state, tokens[:, :-1], tokens[:, 1:], weights_BT)
    torch.testing.assert_close(nats_BT, token_nats(output.logits_BTV, tokens[:, 1:]))
    torch.testing.assert_close(total, (nats_BT * weights_BT).sum())
    torch.testing.assert_close(after, output.state)


def test_penalties_count_for_the_weights_or_for_the_given_number_of_tokens(model):
    params, tokens = random_params(model), text()
    given = (params, initial(model, params), tokens[:, :-1], tokens[:, 1:], torch.full((3, 7), 0.5).double())
    penalised = model.regularised(Regularisers(RegularisationOptions(activation=0.5), torch.Generator()))
    plain, penalty = model.loss(*given)[0], penalised.features(*given[:3])[2]
    torch.testing.assert_close(penalised.loss(*given)[0], plain + penalty * 10.5)
    torch.testing.assert_close(penalised.loss(*given, penalty_tokens=4)[0], plain + penalty * 4)


def test_no_output_depends_on_a_later_token(model):
    params = random_params(model)
    tokens = text()
    before = model.forward(params, initial(model, params), tokens).logits_BTV
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 13
    after = model.forward(params, initial(model, params), changed).logits_BTV
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_lanes_are_independent(model):
    params = random_params(model)
    tokens = text()
    whole = model.forward(params, initial(model, params), tokens)
    alone = model.forward(params, initial(model, params, 1), tokens[1:2])
    torch.testing.assert_close(whole.logits_BTV[1:2], alone.logits_BTV)


def test_the_step_by_step_layer_has_second_derivatives():
    model = LSTMLanguageModel(SHAPES["tied"], 13).twice_differentiable()
    assert model.layer is naive_layer
    params, tokens = random_params(model), text(lanes=1, steps=3)

    def loss_of(bias):
        moved = {**params, "lstm.0.bias": bias}
        logits_BTV = model.forward(moved, initial(model, params, 1), tokens[:, :-1]).logits_BTV
        return token_nats(logits_BTV, tokens[:, 1:]).sum()

    assert torch.autograd.gradgradcheck(loss_of, params["lstm.0.bias"].requires_grad_())


@pytest.mark.parametrize("start", range(len(ORDER)))
def test_the_output_tensor_is_the_one_nearest_the_loss(start):
    model = LSTMLanguageModel(dataclasses.replace(SHAPES["untied"], layers=1), 13)
    assert model.output_tensor(reversed(ORDER[start:])) == ORDER[start]


def test_the_output_tensor_of_deep_models_is_in_the_last_layer():
    model = LSTMLanguageModel(SHAPES["deep"], 13)
    assert model.output_tensor([name for name in model.shapes() if name != "output.bias"]) == "lstm.2.recurrent"
    with pytest.raises(ValueError):
        model.output_tensor([])


def test_the_parameter_count_of_the_small_model():
    shapes = LSTMLanguageModel(LSTMOptions(256, 256, 1, True), 6000).shapes()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 2_067_312


def test_a_layer_runs_in_bfloat16_on_every_processor() -> None:
    """Where the kernel has no bfloat16 it is as exact as in float32."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((5, 2, 6), (16, 6), (16, 4), (16,))
    x_TBE, *weights = (torch.randn(shape, generator=generator) * 0.3 for shape in shapes)
    state = (torch.zeros(2, 4), torch.zeros(2, 4))
    wanted, _ = naive_layer(x_TBE, state, *weights)
    leaves = [weight.requires_grad_() for weight in weights]
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = fused_layer(x_TBE, state, *leaves)
    torch.testing.assert_close(found.float(), wanted, rtol=0.02, atol=0.02)
    found.float().sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in leaves)
