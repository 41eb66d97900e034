"""Low-rank approximations of weights that moved as a whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers", reason="the extra dynlm[hf] is not installed")
pytest.importorskip("peft", reason="the extra dynlm[hf] is not installed")

from dynlm.models.hf.model import HFModel
from dynlm.models.hf.options import HFOptions
from dynlm.models.hf.truncation import low_rank, truncate
from dynlm.types import Params
from tests.models.hf.tiny import tiny


def change_of(shape: tuple[int, int], power: float) -> Tensor:
    """Return a matrix whose k-th singular value is k ** -power."""
    generator, side = torch.Generator().manual_seed(0), min(shape)
    left, right = (torch.linalg.qr(torch.randn(size, side, generator=generator))[0] for size in shape)
    return (left * torch.arange(1.0, side + 1) ** -power) @ right.T


@pytest.mark.parametrize("shape", [(120, 300), (300, 120), (80, 80)])
@pytest.mark.parametrize("exact", [2048, 0])
@pytest.mark.parametrize("power", [0.0, 0.5, 2.0])
def test_the_error_is_that_of_the_best_approximation(shape: tuple[int, int], exact: int, power: float) -> None:
    change = change_of(shape, power)
    a, b = low_rank(change, 6, exact)
    assert a.shape == (6, shape[1]) and b.shape == (shape[0], 6) and a.dtype == b.dtype == torch.float32
    best = torch.linalg.svdvals(change.double())[6:].norm()
    torch.testing.assert_close((change - b @ a).double().norm(), best, rtol=1e-4 if exact else 1e-3, atol=1e-6)
    # Neither factor is much larger than the other.
    torch.testing.assert_close(a.norm(), b.norm(), rtol=1e-3, atol=1e-6)
    assert torch.equal(low_rank(change, 6, exact).a, a)


def test_a_rank_above_the_sides_ends_with_zeros() -> None:
    change = change_of((5, 9), 1.0)
    a, b = low_rank(change, 8)
    torch.testing.assert_close(b @ a, change, rtol=1e-5, atol=1e-6)
    assert not a[5:].any() and not b[:, 5:].any()
    assert not low_rank(torch.zeros(4, 6), 2).a.any() and not low_rank(torch.zeros(4, 6), 2).b.any()


def moved(family: str, names: list[str]) -> tuple[HFModel, Params, Params]:
    module, generator = tiny(family), torch.Generator().manual_seed(2)
    model = HFModel.of(module, HFOptions(kind="hf", context=64, stride=32))
    static = {name: tensor.detach() for name, tensor in module.named_parameters()}
    found = {name: static[name] + 0.01 * torch.randn(static[name].shape, generator=generator) for name in names}
    return model, static, found


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_errors_are_measured_and_merging_gives_the_approximation(family: str) -> None:
    prefix = {"llama": "model.layers.0.mlp.down_proj", "gpt2": "transformer.h.0.mlp.c_proj"}[family]
    model, static, weights = moved(family, [f"{prefix}.weight"])
    (name,) = weights
    full = truncate(model, static, weights, 32)
    assert full.error < 1e-6 and full.dropped == {}
    torch.testing.assert_close(full.adapter.merged(static)[name], weights[name], rtol=1e-5, atol=1e-6)
    found = truncate(model, static, weights, 4)
    change = (weights[name] - static[name]).double()
    best = float(torch.linalg.svdvals(change)[4:].norm() / change.norm())
    assert found.errors == {name: pytest.approx(best, rel=1e-5)} and found.error == pytest.approx(best, rel=1e-5)
    difference = (found.adapter.merged(static)[name] - weights[name]).norm()
    assert float(difference / change.norm()) == pytest.approx(best, rel=1e-4)


def test_what_is_no_linear_layer_is_dropped_and_counted() -> None:
    names = ["model.layers.0.mlp.down_proj.weight", "model.norm.weight", "model.embed_tokens.weight"]
    model, static, weights = moved("llama", [*names, "model.layers.1.mlp.down_proj.weight"])
    weights["model.layers.1.mlp.down_proj.weight"] = static["model.layers.1.mlp.down_proj.weight"]
    weights["model.layers.0.input_layernorm.weight"] = static["model.layers.0.input_layernorm.weight"]
    found = truncate(model, static, weights, 32)
    sizes = {name: float((weights[name] - static[name]).norm()) for name in names}
    assert found.dropped == {name: pytest.approx(sizes[name]) for name in names[1:]}
    assert found.errors["model.layers.1.mlp.down_proj.weight"] == 0.0
    total, lost = sum(size**2 for size in sizes.values()), sum(sizes[name] ** 2 for name in names[1:])
    assert found.error == pytest.approx((lost / total) ** 0.5, rel=1e-5)
    with pytest.raises(ValueError, match="no linear layer"):
        truncate(model, static, {"model.norm.weight": weights["model.norm.weight"]}, 4)
    assert "lm_head.weight" in truncate(*moved("qwen2", ["lm_head.weight", *names[:1]]), 4).dropped
