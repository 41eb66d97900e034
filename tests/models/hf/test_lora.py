"""Low-rank factors: the same logits as PEFT's own model, and the model itself where B is zero."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from peft import LoraConfig, get_peft_model

from dynlm.errors import UserError
from dynlm.models.hf.lora import add_lora, matrices
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.models.options import Targets
from tests.models.hf.test_model import TOKENS_BT, read
from tests.models.hf.tiny import tiny


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("scaling", ["rank", "sqrt"])
def test_factors_give_the_logits_of_pefts_model(family: str, scaling: str) -> None:
    module = tiny(family)
    model = HFModel.of(module, HFOptions(kind="hf", context=64, stride=32))
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    with_lora, factors = add_lora(model, Targets(rank=4, alpha=8.0, scaling=scaling))  # type: ignore[arg-type]
    assert list(with_lora.shapes()) == [name for name in with_lora.shapes() if name in {**params, **factors}]
    assert with_lora.shapes() == {name: tuple({**params, **factors}[name].shape) for name in with_lora.shapes()}
    assert torch.equal(read(with_lora, {**params, **factors}, TOKENS_BT, 20), read(model, params, TOKENS_BT, 20))

    generator = torch.Generator().manual_seed(1)
    factors = {name: torch.randn(tensor.shape, generator=generator) * 0.1 for name, tensor in factors.items()}
    found = read(with_lora, {**params, **factors}, TOKENS_BT, 60)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=matrices(model), use_rslora=scaling == "sqrt")
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
    drawn = [add_lora(model, Targets(("layers.0.mlp.down_proj",), 4, seed=seed))[1] for seed in (0, 0, 1)]
    a, b = (f"model.layers.0.mlp.down_proj.lora_{factor}.weight" for factor in "AB")
    assert drawn[0].keys() == {a, b}
    assert torch.equal(drawn[0][a], drawn[1][a]) and not torch.equal(drawn[0][a], drawn[2][a])
    assert drawn[0][b].eq(0).all() and drawn[0][a].abs().max() <= 48**-0.5


def test_targets_name_what_moves() -> None:
    module = tiny("llama")
    model = HFModel.of(module, HFOptions(kind="hf"))
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    assert model.dynamic_tensors(["mlp.down_proj"]) == tuple(f"model.layers.{n}.mlp.down_proj.weight" for n in (0, 1))
    assert model.dynamic_tensors(["*"]) == tuple(params) and model.label == ""
    for factors, count in (("B", 4), ("AB", 8)):
        targets = Targets(("q_proj", "mlp.down_proj"), 2, factors=factors)  # type: ignore[arg-type]
        moving, more = model.with_targets(params, targets)
        assert len(moving.dynamic_tensors(targets.patterns)) == count and more.keys() > params.keys()
        assert moving.label.startswith("lora2-")
    with pytest.raises(UserError, match="memory.targets has 'gru', which fits no tensor"):
        model.with_targets(params, Targets(("gru",), 2))
    assert "lm_head" not in matrices(model) and "lm_head" not in matrices(HFModel.of(tiny("qwen2"), model.options))
