"""Curves: their families, ranges and seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dynlm.fewshot.tasks.regression import Cubic, Curves, Sinusoid
from dynlm.fewshot.tasks.source import EpisodeShape, seeded

SHAPE = EpisodeShape(1, 40, 80)
CUBIC, SINUSOID = Cubic(Cubic.Options()), Sinusoid(Sinusoid.Options())


def test_a_cubic_is_a_cubic_with_small_coefficients() -> None:
    episodes = CUBIC.sample("train", SHAPE, 50, seeded(0))
    assert episodes.support.inputs.shape == (50, 40, 1) and episodes.query.inputs.shape == (50, 80, 1)
    for task in range(50):
        x, y = (part[task, :, 0].double().numpy() for part in episodes.support)
        coefficients = np.polyfit(x, y, 3)
        assert np.abs(coefficients).max() <= 1 + 1e-4
        query_x, query_y = (part[task, :, 0].double().numpy() for part in episodes.query)
        np.testing.assert_allclose(np.polyval(coefficients, query_x), query_y, atol=1e-3)
    assert float(episodes.query.inputs.abs().max()) <= 2


def test_a_sinusoid_has_the_published_ranges() -> None:
    episodes = SINUSOID.sample("train", EpisodeShape(1, 10, 4000), 200, seeded(1))
    x, y = episodes.query.inputs[..., 0].double(), episodes.query.targets[..., 0].double()
    assert float(x.abs().max()) <= 5
    basis = torch.stack([x.sin(), x.cos()], -1)
    weights = torch.linalg.lstsq(basis, y[..., None]).solution
    torch.testing.assert_close((basis @ weights)[..., 0], y, atol=1e-4, rtol=0)
    amplitude = weights[:, :, 0].norm(dim=1)
    phase = torch.atan2(-weights[:, 1, 0], weights[:, 0, 0])
    assert 0.1 <= amplitude.min() < 0.6 and 4.5 < amplitude.max() <= 5.0001
    assert -1e-4 <= phase.min() < 0.2 and 2.9 < phase.max() <= torch.pi + 1e-4


@pytest.mark.parametrize("curves", [CUBIC, SINUSOID])
def test_sampling_depends_on_the_seed_alone(curves: Curves) -> None:
    one, same, other = (curves.sample("test", SHAPE, 3, seeded(seed)) for seed in (5, 5, 6))
    assert torch.equal(one.query.targets, same.query.targets)
    assert not torch.equal(one.query.targets, other.query.targets)
