"""Adapter folders: PEFT loads them with equal logits, and they hold what servers take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from peft import PeftModel
from safetensors import safe_open

from dynlm.errors import UserError
from dynlm.models.hf.adapter import Adapter, Base, adapter_of, save_adapter
from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.models.options import Targets
from dynlm.types import Params
from tests.models.hf.test_model import TOKENS_BT, read
from tests.models.hf.tiny import tiny

BASE = Base("0123456789abcdef", name="somebody/tiny", revision="abc")


def moved(family: str, targets: Targets) -> tuple[HFModel, Params]:
    """Return a model with factors that moved: B, and A where it moves."""
    module = tiny(family)
    model = HFModel.of(module, HFOptions(kind="hf", context=64, stride=32))
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    model, params = model.with_targets(params, targets)
    generator = torch.Generator().manual_seed(1)
    for name in model.dynamic_tensors(targets.patterns):
        params[name] = params[name] + 0.1 * torch.randn(params[name].shape, generator=generator)
    return model, params


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("scaling", ["rank", "sqrt"])
@pytest.mark.parametrize("factors", ["B", "AB"])
@pytest.mark.parametrize("rank", [5, 8])
def test_peft_loads_an_adapter_with_equal_logits(
    family: str, scaling: Any, factors: Any, rank: int, tmp_path: Path
) -> None:
    model, params = moved(family, Targets(rank=rank, alpha=3.0, scaling=scaling, factors=factors))
    save_adapter(tmp_path / "me", adapter_of(model, params).padded(), BASE)
    loaded = PeftModel.from_pretrained(tiny(family), str(tmp_path / "me")).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS_BT).logits, read(model, params, TOKENS_BT, 60), rtol=1e-5, atol=1e-5)
    still = {name: tensor for name, tensor in params.items() if ".lora_" not in name}
    plain = HFModel.of(tiny(family), model.options)
    assert (read(plain, still, TOKENS_BT, 60) - read(model, params, TOKENS_BT, 60)).abs().max() > 0.01


@pytest.mark.parametrize(
    ("family", "patterns", "selected"),
    [
        ("llama", ("*",), "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"),
        ("llama", ("mlp.down_proj",), "down_proj"),
        ("llama", ("layers.0.mlp.down_proj",), "model.layers.0.mlp.down_proj"),
        ("gpt2", ("mlp.c_proj",), "transformer.h.0.mlp.c_proj transformer.h.1.mlp.c_proj"),
    ],
)
def test_a_config_selects_just_the_layers_that_moved(
    family: str, patterns: tuple[str, ...], selected: str, tmp_path: Path
) -> None:
    model, params = moved(family, Targets(patterns, 4))
    adapter = adapter_of(model, params)
    save_adapter(tmp_path / "me", adapter, BASE)
    config = json.loads((tmp_path / "me" / "adapter_config.json").read_text())
    assert config["target_modules"] == selected.split()
    assert config["fan_in_fan_out"] == (family == "gpt2")
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 32, False)
    assert (config["bias"], config["modules_to_save"], config["use_dora"]) == ("none", None, False)
    assert (config["base_model_name_or_path"], config["revision"]) == ("somebody/tiny", "abc")
    loaded = PeftModel.from_pretrained(tiny(family), str(tmp_path / "me"))
    theirs = {name for name, _ in loaded.named_parameters() if ".lora_" in name}
    with safe_open(tmp_path / "me" / "adapter_model.safetensors", "pt") as file:
        assert theirs == {name.replace(".weight", ".default.weight") for name in file.keys()}  # noqa: SIM118
        assert file.metadata() == {"format": "pt"}


def test_transformers_loads_an_adapter_itself(tmp_path: Path) -> None:
    model, params = moved("llama", Targets(rank=8))
    save_adapter(tmp_path / "me", adapter_of(model, params), BASE)
    module: Any = tiny("llama")
    module.load_adapter(str(tmp_path / "me"))
    with torch.no_grad():
        torch.testing.assert_close(module(TOKENS_BT).logits, read(model, params, TOKENS_BT, 60), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rank", "padded"), [(1, 8), (8, 8), (9, 16), (257, 320), (600, 600)])
def test_padding_keeps_the_product_and_merging_gives_it(rank: int, padded: int) -> None:
    model, params = moved("gpt2", Targets(("attn.c_proj",), rank))
    adapter = adapter_of(model, params)
    more = adapter.padded()
    assert (adapter.rank, more.rank, more.scale) == (rank, padded, adapter.scale)
    merged = more.merged(params)
    for name, weight in adapter.merged(params).items():
        torch.testing.assert_close(merged[name], weight, rtol=1e-6, atol=1e-6)
        assert not torch.equal(weight, params[name])
    still = {name: torch.zeros_like(tensor) if ".lora_B." in name else tensor for name, tensor in params.items()}
    found, expected = (read(model, each, TOKENS_BT, 60) for each in (still | merged, params))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_fingerprint_follows_what_is_predicted() -> None:
    model, params = moved("llama", Targets(("mlp.down_proj",), 4))
    adapter = adapter_of(model, params)
    other = {name: tensor.clone() for name, tensor in params.items()}
    assert adapter_of(model, other).fingerprint == adapter.fingerprint
    other["model.layers.1.mlp.down_proj.lora_B.weight"][0, 0] += 1
    assert adapter_of(model, other).fingerprint != adapter.fingerprint
    assert Adapter(adapter.layers, 1.0, adapter.target_modules).fingerprint != adapter.fingerprint


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    model, params = moved("llama", Targets(("mlp.down_proj",), 4))
    adapter, folder = adapter_of(model, params), tmp_path / "me"

    def fail(staged: Path) -> None:
        assert sorted(path.name for path in staged.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        save_adapter(folder, adapter, BASE, fail)
    infinite = {**params, "model.layers.1.mlp.down_proj.lora_B.weight": torch.full((32, 4), torch.inf)}
    with pytest.raises(UserError, match="not finite"):
        save_adapter(folder, adapter_of(model, infinite), BASE)
    assert list(tmp_path.iterdir()) == []
    save_adapter(folder, adapter, BASE)
    assert (folder / "adapter_model.safetensors").stat().st_mode & 0o077 == 0
    before = (folder / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UserError, match="there is something already"):
        save_adapter(folder, adapter, BASE)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["me"]


def test_a_model_without_factors_has_no_adapter() -> None:
    module = tiny("llama")
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    with pytest.raises(ValueError, match="without low-rank factors"):
        adapter_of(HFModel.of(module, HFOptions(kind="hf")), params)
