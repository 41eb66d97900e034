"""Gradients of a segment: by dynlm's attention, and with checkpointed layers, those of the model's own source."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")

from dynlm.errors import UserError
from dynlm.models.autograd_engine import AutogradEngine
from dynlm.models.hf.attention import segment_attention
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.types import Params
from tests.models.hf.test_model import TOKENS_BT, model_of, read
from tests.models.hf.tiny import FAMILIES, tiny


def gradients_after_context(model: HFModel, params: Params) -> tuple[torch.Tensor, Params]:
    """Return a segment's losses after 20 tokens of context (in one lane of three: 10), and each lane's gradients."""
    engine, names = AutogradEngine(model), tuple(params)
    lanes = {name: tensor.expand(3, *tensor.shape).clone() for name, tensor in params.items()}
    state = model.init_state(3, next(iter(params.values())))
    for begin in (0, 10):
        if begin:
            starts_B = torch.tensor([False, True, False])
            state = model.reset_state(state, starts_B, next(iter(params.values())))
        part = slice(begin, begin + 10)
        state = engine.score(params, lanes, TOKENS_BT[:, part], TOKENS_BT[:, part], state, ()).state
    scored = engine.score(params, {}, TOKENS_BT[:, 20:28], TOKENS_BT[:, 21:29], state)
    share_BT = torch.full((3, 8), 1 / 8, dtype=torch.float64)
    return scored.nats_BT, {found.name: found.tensor.clone() for found in engine.gradients(scored, share_BT, names)}


@pytest.mark.parametrize(
    "options", [{"attention": "segment"}, {"attention": "sdpa", "checkpointing": True}], ids=["segment", "checkpointed"]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_models_source(family: str, options: dict[str, Any]) -> None:
    if options.get("checkpointing") is None:
        options = {**options, "checkpointing": family == "mistral"}
    expected = gradients_after_context(*model_of(family, attention="eager"))
    found = gradients_after_context(*model_of(family, **options))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-6, atol=1e-7)
    for name, tensor in expected[1].items():
        assert tensor.abs().max() > 0 or "bias" in name or "wpe" in name, name
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-4, atol=1e-7, msg=name)


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    """The backward passes of dynlm's attention and factors treat what they saved as constants."""
    model, params = model_of("llama")
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
    logits_BTV = model.forward(leaves, model.init_state(3, TOKENS_BT.double()), TOKENS_BT[:, :8]).logits_BTV
    query = leaves["model.layers.0.self_attn.q_proj.weight"]
    (first,) = torch.autograd.grad(logits_BTV.logsumexp(-1).sum(), query, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


def test_checkpointed_layers_keep_less_for_the_backward_pass() -> None:
    kept = {}
    for checkpointing in (False, True):
        model, params = model_of("llama", checkpointing=checkpointing)
        bytes_kept = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal bytes_kept
            bytes_kept += tensor.nbytes
            return tensor

        leaves = {name: tensor.clone().requires_grad_() for name, tensor in params.items()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.forward(leaves, model.init_state(3, TOKENS_BT.double()), TOKENS_BT[:, :40])
        kept[checkpointing] = bytes_kept
    assert kept[True] < 0.5 * kept[False]


@pytest.mark.parametrize(("family", "sizes"), [("gemma2", {"attn_logit_softcapping": 0.01}), ("gpt_oss", {})])
def test_soft_caps_and_sinks_are_those_of_the_models_source(family: str, sizes: dict[str, Any]) -> None:
    module = tiny(family, **sizes)
    model = HFModel.of(module, HFOptions(kind="hf", context=64, stride=32))
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    assert model.config._attn_implementation == "eager"
    with torch.no_grad():
        expected = module(TOKENS_BT).logits
    torch.testing.assert_close(read(model, params, TOKENS_BT, 20), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(
        UserError, match="model.attention is 'sdpa', which this model's attention is not; choose 'eager'"
    ):
        HFModel.of(module, HFOptions(kind="hf", context=64, stride=32, attention="sdpa"))


def test_dynlms_attention_refuses_what_it_does_not_compute() -> None:
    query = torch.zeros(1, 2, 3, 4)
    for option in ({"softcap": 50.0}, {"s_aux": query}, {"dropout": 0.1}):
        with pytest.raises(UserError, match="model.attention is 'segment'"):
            segment_attention(torch.nn.Module(), query, query, query, None, **option)
