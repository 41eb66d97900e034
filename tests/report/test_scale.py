"""The colour scale: readable in every step, symmetric, distinguishable without colour."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dynlm.report.scale import STEPS, all_steps, limit_of, step_of


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2)."""

    def luminance(colour: str) -> float:
        channels = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
        return sum(weight * channel for weight, channel in zip((0.2126, 0.7152, 0.0722), channels, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_letters_are_readable_on_every_step_in_light_and_dark():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
    for step in all_steps():
        assert contrast(*step.light) >= 4.5
        assert contrast(*step.dark) >= 4.5


def test_better_is_blue_and_worse_is_red():
    for step in all_steps():
        for background, _ in (step.light, step.dark):
            red, blue = int(background[1:3], 16), int(background[5:7], 16)
            if step.index:
                assert (blue > red) == (step.index > 0)


def test_steps_are_symmetric_and_clipped():
    for gain in (0.0, 0.1, 0.5, 2.0, 50.0):
        assert step_of(gain, 2.0).index == -step_of(-gain, 2.0).index
    assert step_of(2.0, 2.0).index == step_of(9.0, 2.0).index == STEPS
    assert step_of(0.05, 2.0).index == 0


def test_lines_grow_with_the_strength():
    strengths = [step.thickness for step in all_steps() if step.index >= 0]
    assert strengths == sorted(strengths) and strengths[0] == 0 and strengths[-1] == 3
    assert len({step.css_class for step in all_steps()}) == 2 * STEPS + 1


def test_the_limit_covers_nearly_all_gains():
    gains = np.random.default_rng(0).normal(0, 0.8, 500)
    limit = limit_of(gains)
    assert (np.abs(gains) <= limit).mean() >= 0.98
    assert limit in (1.5, 2.0)
    assert limit_of(np.zeros(0)) > 0 and limit_of(np.zeros(5)) > 0 and limit_of(np.full(5, 77.3)) == 78
