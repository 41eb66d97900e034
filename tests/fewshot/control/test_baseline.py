"""The fitted baseline beside torch's least squares."""

from __future__ import annotations

import torch

from dynlm.fewshot.control.baseline import fit_baseline
from dynlm.fewshot.tasks.source import seeded


def test_the_baseline_is_the_least_squares_fit_of_each_task() -> None:
    observations = 0.3 * torch.randn(2, 6, 8, 2, generator=seeded(0))
    returns = torch.randn(2, 6, 8, generator=seeded(1))
    valid = torch.ones_like(returns).bool()
    valid[0, 0, 5:] = False
    found = fit_baseline(observations, returns, valid)
    for task in range(2):
        rows = valid[task].flatten()
        x = observations[task].flatten(0, 1).double()
        time = (torch.arange(8) / 8).repeat(6).double()
        features = torch.stack([*x.T, *x.square().T, time**0, time, time**2, time**3], 1)
        wanted = returns[task].flatten().double()
        solution = torch.linalg.lstsq(features[rows], wanted[rows][:, None]).solution[:, 0]
        torch.testing.assert_close(
            found[task].flatten()[rows].double(), features[rows] @ solution, rtol=1e-2, atol=2e-3
        )
    assert found[0, 0, 5:].eq(0).all()
