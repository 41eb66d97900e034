"""What a model inherits from ``SequenceModel``, and the functions beside it."""

import pytest
import torch

from dynlm.errors import UserError
from dynlm.models.lstm.regularisers import Regularisers
from dynlm.models.options import ModelOptions, RegularisationOptions
from dynlm.models.protocol import Gradient, Output, SequenceModel, token_nats


class Bigrams(SequenceModel):
    """The logits are a row of a table."""

    def __init__(self, options: ModelOptions, vocab_size: int):
        self.options, self.vocab_size = options, vocab_size

    def shapes(self):
        return {"table": (self.vocab_size, self.vocab_size), "bias": (self.vocab_size,)}

    def init_params(self, generator, dtype=None):
        return {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in self.shapes().items()}

    def init_state(self, lanes, like):
        return {"last": like.new_zeros(lanes, 2)}

    def forward(self, params, state, inputs_BT):
        logits_BTV = params["table"][inputs_BT] + params["bias"]
        return Output(logits_BTV, logits_BTV, {"last": state["last"] + 1})


MODEL = Bigrams(ModelOptions(kind="bigrams"), 5)


def test_the_inherited_loss_is_the_weighted_sum_of_nats():
    params = MODEL.init_params(torch.Generator().manual_seed(0), torch.float64)
    inputs_BT, targets_BT = torch.randint(5, (2, 3, 4))
    weights_BT = torch.rand(3, 4, dtype=torch.float64)
    params["bias"].requires_grad_()
    total, nats_BT, state = MODEL.loss(params, MODEL.init_state(3, params["bias"]), inputs_BT, targets_BT, weights_BT)
    log_p_BTV = (params["table"][inputs_BT] + params["bias"]).log_softmax(2)
    expected_BT = -log_p_BTV.gather(2, targets_BT[..., None])[..., 0]
    torch.testing.assert_close(nats_BT, expected_BT.detach())
    torch.testing.assert_close(total, (expected_BT * weights_BT).sum())
    assert total.requires_grad and state["last"].eq(1).all()


def test_token_nats_are_finite_for_large_logits():
    logits_BTV = torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]])
    assert token_nats(logits_BTV, torch.zeros(1, 2, dtype=torch.int64)).tolist() == [[0.0, 1000.0]]


def test_a_model_without_regularisers_accepts_none():
    assert MODEL.regularised(Regularisers(RegularisationOptions(), torch.Generator())) is MODEL
    with pytest.raises(UserError, match="no regularisers"):
        MODEL.regularised(Regularisers(RegularisationOptions(input=0.1), torch.Generator()))


def test_defaults():
    assert MODEL.output_tensor(["bias", "table"]) == "bias"
    assert MODEL.output_tensor(["table"]) == "table"
    assert MODEL.twice_differentiable() is MODEL and not MODEL.supports_vmap


def test_reset_lanes_are_initial_and_others_unchanged():
    state = {"last": torch.tensor([[1.0, 2.0], [torch.nan, torch.inf], [3.0, 4.0]])}
    after = MODEL.reset_state(state, torch.tensor([False, True, False]), torch.zeros(1))
    assert after["last"].tolist() == [[1, 2], [0, 0], [3, 4]]


def test_one_lane_of_a_gradient():
    tensor, rows_BT = torch.arange(12.0).view(2, 3, 2), torch.tensor([[0, 1], [2, 2]])
    one = Gradient("table", tensor, slice(0, 3), rows_BT, ((1.0, tensor),)).select_lane(1)
    assert torch.equal(one.tensor, tensor[1:]) and torch.equal(one.rows_BT, rows_BT[1:])
    assert (one.name, one.part, one.norm_factors) == ("table", slice(0, 3), ())
