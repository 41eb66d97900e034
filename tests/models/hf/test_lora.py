"""Low-rank factors: the same logits as PEFT's own model, and the model itself where B is zero."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from peft import LoraConfig, get_peft_model

from dynlm.models.hf.lora import LoRA, add_lora, matrices
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from tests.models.hf.test_model import TOKENS_BT, read
from tests.models.hf.tiny import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("scaling", ["rank", "sqrt"])
def test_factors_give_the_logits_of_pefts_model(family: str, scaling: str) -> None:
    module = tiny(family)
    model = HFModel.of(module, HFOptions(kind="hf", context=64, stride=32))
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    modules = [name for name in matrices(model) if "head" not in name and "embed_out" not in name]
    lora = LoRA(4, 8.0, scaling)  # type: ignore[arg-type]
    with_lora, factors = add_lora(model, modules, lora, torch.Generator().manual_seed(0))
    assert list(with_lora.shapes()) == [name for name in with_lora.shapes() if name in {**params, **factors}]
    assert with_lora.shapes() == {name: tuple({**params, **factors}[name].shape) for name in with_lora.shapes()}
    assert torch.equal(read(with_lora, {**params, **factors}, TOKENS_BT, 20), read(model, params, TOKENS_BT, 20))

    generator = torch.Generator().manual_seed(1)
    factors = {name: torch.randn(tensor.shape, generator=generator) * 0.1 for name, tensor in factors.items()}
    found = read(with_lora, {**params, **factors}, TOKENS_BT, 60)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=modules, use_rslora=scaling == "sqrt")
    config.fan_in_fan_out = family == "gpt2"
    theirs = get_peft_model(module, config)
    loaded = theirs.load_state_dict(
        {f"base_model.model.{name.removesuffix('.weight')}.default.weight": t for name, t in factors.items()}, False
    )
    assert not loaded.unexpected_keys
    with torch.no_grad():
        torch.testing.assert_close(found, theirs(TOKENS_BT).logits, rtol=1e-5, atol=1e-5)
    assert (found - read(model, params, TOKENS_BT, 60)).abs().max() > 0.01


def test_a_starts_as_drawn_and_b_at_zero() -> None:
    model = HFModel.of(tiny("llama"), HFOptions(kind="hf"))
    drawn = [
        add_lora(model, ["model.layers.0.mlp.down_proj"], LoRA(4, 8.0), torch.Generator().manual_seed(seed))[1]
        for seed in (0, 0, 1)
    ]
    a, b = (f"model.layers.0.mlp.down_proj.lora_{factor}.weight" for factor in "AB")
    assert drawn[0].keys() == {a, b}
    assert torch.equal(drawn[0][a], drawn[1][a]) and not torch.equal(drawn[0][a], drawn[2][a])
    assert drawn[0][b].eq(0).all() and drawn[0][a].abs().max() <= 48**-0.5


def test_a_tied_output_layer_has_no_factors() -> None:
    tied, apart = (matrices(HFModel.of(tiny(family), HFOptions(kind="hf"))) for family in ("llama", "qwen2"))
    assert "lm_head" not in tied and "lm_head" in apart
    assert "model.layers.1.self_attn.q_proj" in tied
