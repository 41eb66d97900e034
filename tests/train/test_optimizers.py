"""The optimisers: the rates they are given, what averaging means, and that a saved one goes on as if never saved."""

from __future__ import annotations

import math

import pytest
import torch

from dynlm.models.lstm.model import Params
from dynlm.runtime.checkpoints import State
from dynlm.train.optimizers import Optimiser, lr_at
from dynlm.train.options import PretrainOptions


def some_params() -> Params:
    generator = torch.Generator().manual_seed(3)
    return {
        "matrix": torch.randn(4, 3, generator=generator).requires_grad_(),
        "bias": torch.randn(3, generator=generator).requires_grad_(),
    }


def step_once(optimiser: Optimiser, rate: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for param in optimiser.params.values():
        param.grad = torch.randn(param.shape, generator=generator)
    optimiser.step(rate)


def test_rate_warms_up_then_follows_half_a_cosine() -> None:
    config = PretrainOptions(lr=0.5, warmup_steps=4, final_lr=0.1)
    rates = [lr_at(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.5 / 4, rel=1e-6)
    assert rates[1] == pytest.approx(0.5 * 2 / 4, rel=1e-3)
    assert rates[50] == pytest.approx(0.5 * (0.1 + 0.9 / 2))
    assert rates[25] == pytest.approx(0.5 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert rates[100] == pytest.approx(0.05)
    assert max(rates) == rates[3]
    assert lr_at(120, 100, config) == pytest.approx(0.05)


def test_the_learning_rate_of_nt_asgd_is_constant() -> None:
    config = PretrainOptions(optimizer="nt-asgd", lr=30, warmup_steps=3)
    assert [lr_at(step, 10, config) for step in range(5)] == pytest.approx([10, 20, 30, 30, 30])


def test_adamw_is_torchs_with_decay_on_matrices_alone() -> None:
    config = PretrainOptions(weight_decay=0.5)
    optimiser = Optimiser(some_params(), config)
    reference = some_params()
    plain = torch.optim.AdamW(
        [
            {"params": [reference["matrix"]], "weight_decay": 0.5},
            {"params": [reference["bias"]], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.99),
        fused=False,
        foreach=False,
    )
    for step, rate in enumerate((0.1, 0.02, 0.3)):
        step_once(optimiser, rate, step)
        generator = torch.Generator().manual_seed(step)
        for group in plain.param_groups:
            group["lr"] = rate
        for param in reference.values():
            param.grad = torch.randn(param.shape, generator=generator)
        plain.step()
    for name, param in optimiser.params.items():
        torch.testing.assert_close(param, reference[name], rtol=1e-5, atol=1e-6)


def test_averaging_begins_once_validation_is_no_better_than_long_ago() -> None:
    """Merity et al. 2018, algorithm 1: worse than the best of all but the last ``patience`` validations."""
    optimiser = Optimiser(some_params(), PretrainOptions(optimizer="nt-asgd", patience=2))
    assert [optimiser.after_validation(nats) for nats in (5.0, 4.0, 4.5, 4.2)] == [False] * 4
    assert optimiser.after_validation(4.1)
    assert not optimiser.after_validation(9.0)


def test_adamw_never_averages() -> None:
    optimiser = Optimiser(some_params(), PretrainOptions(patience=1))
    assert not any(optimiser.after_validation(nats) for nats in (1.0, 2.0, 3.0, 4.0))


def test_average_is_the_mean_of_the_weights_since_it_began() -> None:
    optimiser = Optimiser(some_params(), PretrainOptions(optimizer="nt-asgd", patience=1))
    step_once(optimiser, 0.1, 0)
    assert not optimiser.after_validation(1.0)
    assert not optimiser.after_validation(1.5)
    assert torch.equal(optimiser.current()["matrix"], optimiser.params["matrix"])
    assert optimiser.after_validation(2.0)
    seen = [optimiser.params["matrix"].detach().clone()]
    for step in range(1, 5):
        step_once(optimiser, 0.1, step)
        seen.append(optimiser.params["matrix"].detach().clone())
    torch.testing.assert_close(optimiser.current()["matrix"], torch.stack(seen).mean(0))
    assert torch.equal(optimiser.params["matrix"], seen[-1])


@pytest.mark.parametrize("name", ["adamw", "nt-asgd"])
def test_a_saved_optimiser_resumes_bit_for_bit(name: str) -> None:
    config = PretrainOptions(optimizer=name, patience=1)
    whole = Optimiser(some_params(), config)
    for step in range(3):
        step_once(whole, 0.1, step)
        whole.after_validation(1.0 + step)
    state = whole.state_dict()
    resumed = Optimiser({n: p.detach().clone().requires_grad_() for n, p in whole.params.items()}, config)
    resumed.load_state_dict(State({n: tensor.clone() for n, tensor in state.tensors.items()}, state.values))
    for optimiser in (whole, resumed):
        for step in range(3, 6):
            step_once(optimiser, 0.05, step)
            optimiser.after_validation(0.5)
    for key, param in whole.params.items():
        assert torch.equal(param, resumed.params[key])
        assert torch.equal(whole.current()[key], resumed.current()[key])
    assert whole.state_dict().values == resumed.state_dict().values
