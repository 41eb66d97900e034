"""The LSTM: its fast kernel against the step-by-step one, and what its state promises."""

import dataclasses

import pytest
import torch

from dynlm.models.lstm.model import LSTMLanguageModel, detached, naive_layer, restarted
from dynlm.models.options import ModelOptions

SHAPES = {
    "tied": ModelOptions(embedding=6, hidden=9, layers=1, tied=True),
    "deep": ModelOptions(embedding=6, hidden=9, layers=3, tied=True),
    "untied": ModelOptions(embedding=6, hidden=9, layers=2, tied=False),
}


@pytest.fixture(params=SHAPES)
def model(request):
    return LSTMLanguageModel(SHAPES[request.param], vocabulary=13)


def text(lanes=3, steps=7, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(13, (lanes, steps + 1), generator=generator)


def random_params(model, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator, dtype=dtype) * 0.3 for name, shape in model.shapes().items()}


def test_the_fused_layer_is_the_naive_one_with_its_gradients(model):
    params = {name: tensor.requires_grad_() for name, tensor in random_params(model, torch.float32).items()}
    tokens = text()
    share = torch.rand(3, 7, generator=torch.Generator().manual_seed(2))
    hidden = tuple((h + 0.1, c - 0.2) for h, c in model.initial_hidden(3, params["embedding"].detach()))
    naive = dataclasses.replace(model, layer=naive_layer)
    results = []
    for run in (model.loss, naive.naive_loss):
        total, nats_BT, after = run(params, tokens[:, :-1], tokens[:, 1:], share, hidden)
        gradients = torch.autograd.grad(total, list(params.values()))
        results.append((total, nats_BT, after, gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_outputs_are_the_same_bits_with_and_without_gradients(model):
    params = random_params(model, torch.float32)
    hidden = model.initial_hidden(3, params["embedding"])
    with torch.no_grad():
        without, after, _ = model.features(params, text(), hidden)
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    with_gradients, _, _ = model.features(leaves, text(), hidden)
    assert torch.equal(without, with_gradients)
    assert with_gradients.requires_grad
    assert not without.requires_grad
    assert not after[0][0].requires_grad


def test_torch_lstm_module_agrees(model):
    """The same weights in torch.nn.LSTM give the same outputs: names, gate order and shapes are torch's own."""
    if model.config.layers != 1:
        pytest.skip("one layer tells all: the others are the same code")
    params = random_params(model)
    module = torch.nn.LSTM(6, 6, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        module.weight_ih_l0.copy_(params["lstm.0.input"])
        module.weight_hh_l0.copy_(params["lstm.0.recurrent"])
        module.bias_ih_l0.copy_(params["lstm.0.bias"])
        module.bias_hh_l0.zero_()
        tokens = text()
        wanted, _ = module(torch.nn.functional.embedding(tokens, params["embedding"]))
        features_TBH, _, _ = model.features(params, tokens, model.initial_hidden(3, params["embedding"]))
    torch.testing.assert_close(features_TBH.transpose(0, 1), wanted)


def test_pieces_give_what_the_whole_gives(model):
    params = random_params(model)
    tokens = text(steps=9)
    hidden = model.initial_hidden(3, params["embedding"])
    whole, last = model.logits(params, tokens, hidden)
    parts = []
    for begin, end in ((0, 1), (1, 4), (4, 10)):
        part, hidden = model.logits(params, tokens[:, begin:end], hidden)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
    torch.testing.assert_close(hidden, last)


def test_logits_and_losses_are_of_one_model(model):
    params = random_params(model)
    tokens = text()
    hidden = model.initial_hidden(3, params["embedding"])
    logits_BTV, _ = model.logits(params, tokens[:, :-1], hidden)
    _, nats_BT, _ = model.loss(params, tokens[:, :-1], tokens[:, 1:], torch.ones(3, 7).double(), hidden)
    wanted = -logits_BTV.log_softmax(-1).gather(2, tokens[:, 1:, None])[..., 0]
    torch.testing.assert_close(nats_BT, wanted)


def test_no_output_knows_a_later_token(model):
    params = random_params(model)
    tokens = text()
    hidden = model.initial_hidden(3, params["embedding"])
    before, _ = model.logits(params, tokens, hidden)
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 13
    after, _ = model.logits(params, changed, hidden)
    assert torch.equal(before[:, :4], after[:, :4])
    assert not torch.equal(before[:, 4], after[:, 4])


def test_lanes_do_not_mix(model):
    params = random_params(model)
    tokens = text()
    whole, _ = model.logits(params, tokens, model.initial_hidden(3, params["embedding"]))
    alone, _ = model.logits(params, tokens[1:2], model.initial_hidden(1, params["embedding"]))
    torch.testing.assert_close(whole[1:2], alone)


def test_the_naive_way_has_second_derivatives():
    model = LSTMLanguageModel(SHAPES["tied"], 13, layer=naive_layer)
    params = random_params(model)
    tokens = text(lanes=1, steps=3)

    def loss_of(bias):
        total, _, _ = model.naive_loss(
            {**params, "lstm.0.bias": bias},
            tokens[:, :-1],
            tokens[:, 1:],
            torch.ones(1, 3).double(),
            model.initial_hidden(1, params["embedding"]),
        )
        return total

    assert torch.autograd.gradgradcheck(loss_of, params["lstm.0.bias"].requires_grad_())


def test_restarted_lanes_are_at_zero_and_others_as_they_were():
    hidden = ((torch.ones(3, 2), torch.full((3, 2), 2.0)),)
    ((h, c),) = restarted(hidden, torch.tensor([False, True, False]))
    assert h.tolist() == [[1, 1], [0, 0], [1, 1]]
    assert c.tolist() == [[2, 2], [0, 0], [2, 2]]


def test_detached_state_keeps_no_graph():
    h = torch.ones(1, 2, requires_grad=True) * 2
    ((cut, _),) = detached(((h, h),))
    assert not cut.requires_grad


def test_the_parameter_count_of_the_small_model():
    shapes = LSTMLanguageModel(ModelOptions(256, 256, 1, True), 6000).shapes()
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 2_067_312
