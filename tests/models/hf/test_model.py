"""Transformers as functions of their parameters: the same losses as their modules give, in segments and lanes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")

from dynlm.errors import UserError
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.models.hf.window import Window
from dynlm.models.registry import EngineSettings, engine_for
from dynlm.runtime.tree import select_lanes
from dynlm.types import Params
from tests.models.hf.tiny import FAMILIES, VOCABULARY, tiny

TOKENS_BT = torch.randint(VOCABULARY, (3, 60), generator=torch.Generator().manual_seed(3))


def model_of(family: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[HFModel, Params]:
    module = tiny(family, dtype)
    model = HFModel.of(module, HFOptions(kind="hf", **{"context": 64, "stride": 32, **options}))
    return model, {name: tensor.detach() for name, tensor in module.named_parameters()}


def read(model: HFModel, params: Params, tokens_BT: Tensor, segment: int, state: Window | None = None) -> Tensor:
    """Return the logits of a text that is read segment by segment."""
    state = model.init_state(len(tokens_BT), params[next(iter(params))]) if state is None else state
    parts = []
    with torch.no_grad():
        for inputs_BT in tokens_BT.split(segment, 1):
            output = model.forward(params, state, inputs_BT)
            parts.append(output.logits_BTV)
            state = output.state
    return torch.cat(parts, 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_segments_give_the_logits_of_the_whole_text(family: str) -> None:
    model, params = model_of(family)
    with torch.no_grad():
        expected = tiny(family, torch.float64)(TOKENS_BT).logits
    for segment in (60, 20, 7):
        torch.testing.assert_close(read(model, params, TOKENS_BT, segment), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_full_context_is_cut_and_read_anew(family: str) -> None:
    """With 24 tokens and stride 16, 8 earlier tokens are read again, at positions from 0, before the next segment."""
    model, params = model_of(family, context=24, stride=16)
    found, module = read(model, params, TOKENS_BT, 8), tiny(family, torch.float64)
    for begin in range(0, 60, 8):
        start = 0 if begin < 24 else begin - 8 - 8 * ((begin - 24) // 8 % 2)
        with torch.no_grad():
            expected = module(TOKENS_BT[:, start : begin + 8]).logits[:, begin - start :]
        torch.testing.assert_close(found[:, begin : begin + 8], expected, rtol=1e-5, atol=1e-6)


def test_as_large_a_stride_as_the_context_makes_disjoint_windows() -> None:
    model, params = model_of("llama", context=20, stride=20)
    found, module = read(model, params, TOKENS_BT, 10), tiny("llama", torch.float64)
    with torch.no_grad():
        expected = torch.cat([module(window).logits for window in TOKENS_BT.split(20, 1)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("refresh", [0, 20])
def test_old_keys_and_values_are_computed_anew_by_the_weights_of_now(refresh: int) -> None:
    model, params = model_of("llama", refresh=refresh)
    moved = {name: tensor * 1.1 for name, tensor in params.items()}
    with torch.no_grad():
        state = model.forward(params, model.init_state(3, params["model.norm.weight"]), TOKENS_BT[:, :20]).state
    found, fresh = read(model, moved, TOKENS_BT[:, 20:30], 10, state), read(model, moved, TOKENS_BT[:, :30], 30)
    assert torch.allclose(found, fresh[:, 20:], rtol=1e-6) == (refresh > 0)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_lanes_of_different_lengths_equal_one_lane(family: str) -> None:
    model, params = model_of(family, context=32, stride=16)
    state = model.init_state(3, next(iter(params.values())))
    with torch.no_grad():
        for begin in range(0, 60, 10):
            # Lane 1 starts an article at token 10, lane 2 at token 30.
            starts_B = torch.tensor([begin == 0, begin == 10, begin == 30])
            state = model.reset_state(state, starts_B, next(iter(params.values())))
            output = model.forward(params, state, TOKENS_BT[:, begin : begin + 10])
            for lane, first in enumerate((0, 10, 30)):
                if begin >= first:
                    alone = read(model, params, TOKENS_BT[lane : lane + 1, first : begin + 10], 10)[:, -10:]
                    torch.testing.assert_close(output.logits_BTV[lane : lane + 1], alone, rtol=1e-5, atol=1e-6)
            state = output.state
    assert select_lanes(state, slice(0, 1)).valid_B.tolist() == [int(state.valid_B[0])]


@pytest.mark.parametrize("family", ["mistral", "gemma3_text"])
def test_padding_longer_than_a_sliding_window_leaves_no_trace(family: str) -> None:
    """A segment of 20 tokens, of which 15 are padding; the window has 16."""
    model, params = model_of(family)
    whole = read(model, params, TOKENS_BT, 30)[:, 25:30]
    state = model.init_state(3, next(iter(params.values())))
    with torch.no_grad():
        for part in (TOKENS_BT[:, :20], torch.cat([TOKENS_BT[:, 20:25], TOKENS_BT[:, 40:55]], 1)):
            state = model.forward(params, state, part).state
        state = model.without_last(state, 15)
        found = model.forward(params, state, TOKENS_BT[:, 25:30]).logits_BTV
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_a_context_of_more_tokens_than_positions_is_refused() -> None:
    with pytest.raises(UserError, match="model.context is 65, and the model has 64 positions"):
        model_of("gpt2", context=65)
    assert model_of("gpt2", context=64)[0].options.context == 64


def test_no_graph_of_kernels_is_recorded() -> None:
    """How full the context is decides what a segment computes."""
    model, _ = model_of("llama")
    engine: Any = engine_for(model, EngineSettings(captures=True))
    assert not engine.captures


def test_the_users_model_is_left_as_it_is() -> None:
    module = tiny("llama").train()
    before = {name: (id(tensor), tensor.detach().clone()) for name, tensor in module.named_parameters()}
    model = HFModel.of(module, HFOptions(kind="hf"))
    assert module.training and not model.module.training
    assert all(tensor.is_meta for tensor in model.module.parameters())
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    read(model, {name: tensor + 1 for name, tensor in params.items()}, TOKENS_BT, 20)
    for name, tensor in module.named_parameters():
        assert id(tensor) == before[name][0] and torch.equal(tensor, before[name][1])


def test_a_half_precision_model_is_read_with_weights_in_float32() -> None:
    """What moves is float32: an update too small for bfloat16 is not lost, and losses are float32."""
    model, params = model_of("llama", torch.bfloat16)
    moving = {name: tensor.float() for name, tensor in params.items()}
    state = model.init_state(3, params["model.norm.weight"])
    assert state.keys[0].dtype == torch.bfloat16
    leaf = moving["model.norm.weight"].requires_grad_()
    output = model.forward(moving, state, TOKENS_BT[:, :20])
    assert output.logits_BTV.dtype == torch.float32 and output.state.keys[0].dtype == torch.bfloat16
    (gradient,) = torch.autograd.grad(output.logits_BTV.logsumexp(-1).sum(), leaf)
    assert gradient.dtype == torch.float32 and gradient.abs().max() > 0
    with torch.no_grad():
        torch.testing.assert_close(output.logits_BTV, model.forward(params, state, TOKENS_BT[:, :20]).logits_BTV)


def test_a_segment_longer_than_the_context_is_refused() -> None:
    model, params = model_of("llama", context=16, stride=8)
    with pytest.raises(UserError, match="memory.segment is 17, more than model.context 16"):
        read(model, params, TOKENS_BT, 17)
    with pytest.raises(UserError, match="model.stride is 20, more than model.context 16"):
        HFOptions(kind="hf", context=16, stride=20)


@pytest.mark.parametrize(
    ("family", "kinds", "outside"),
    [
        ("llama", {"self_attn.q_proj", "mlp.down_proj", "input_layernorm"}, {"embed_tokens", "norm"}),
        ("qwen2", {"self_attn.k_proj", "self_attn.k_proj.bias"}, {"embed_tokens", "norm", "lm_head"}),
        ("gpt2", {"attn.c_attn", "attn.c_attn.bias", "ln_1", "ln_1.bias"}, {"wte", "wpe", "ln_f", "ln_f.bias"}),
        ("gpt_neox", {"attention.query_key_value", "mlp.dense_4h_to_h.bias"}, {"embed_in", "lm_head"}),
    ],
)
def test_kinds_of_tensors_are_those_of_every_layer(family: str, kinds: set[str], outside: set[str]) -> None:
    model, _ = model_of(family)
    found = model.tensor_kinds(model.shapes())
    depths: dict[str, list[float]] = {}
    for kind, depth in found.values():
        depths.setdefault(kind, []).append(depth)
    assert found.keys() == model.shapes().keys() and kinds | outside <= depths.keys()
    assert all(sorted(depths[kind]) == [-1, 1] for kind in kinds)
    assert all(depths[kind] == [0] for kind in outside)


def test_kinds_of_tensors_do_not_depend_on_the_size() -> None:
    kinds = [
        model.tensor_kinds(model.shapes())
        for model in (sized(tiny("llama")), sized(tiny("llama", num_hidden_layers=5, hidden_size=64)))
    ]
    small, large = ({kind.name for kind in each.values()} for each in kinds)
    assert small == large
    depths = [kinds[1][f"model.layers.{layer}.mlp.up_proj.weight"].depth for layer in range(5)]
    assert depths == [-1, -0.5, 0, 0.5, 1]


def test_the_only_layer_is_in_the_middle() -> None:
    model = sized(tiny("llama", num_hidden_layers=1))
    assert {kind.depth for kind in model.tensor_kinds(model.shapes()).values()} == {0}


def sized(module: Any) -> HFModel:
    return HFModel.of(module, HFOptions(kind="hf"))
