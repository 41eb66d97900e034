"""The benchmarks of few-shot learning: a MAML meta-step beside others' ways, and environment steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from benchmarks import environment_steps, maml_step
from benchmarks.maml_step import PACKAGES, installed, measure
from dynlm.fewshot.tasks.source import Episodes
from dynlm.types import Params

Step = Callable[[], tuple[float, list[Tensor]]]


def test_a_meta_step_is_measured_beside_what_is_installed() -> None:
    found = measure(0.0)
    assert found["dynlm_ms"] > 0 and found["meta_loss"] > 0
    assert {"dynlm", "vmap"} <= set(installed())
    for name in installed()[1:]:
        assert found[f"times_as_fast_as_{name}"] > 1


def test_a_package_that_is_missing_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maml_step.importlib.util, "find_spec", lambda name: None)
    found = measure(0.0)
    assert found["vmap_ms"] > 0
    assert not any(f"{name}_ms" in found for name in PACKAGES)


def test_another_meta_gradient_is_refused_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(episodes: Episodes, start: Params) -> Step:
        step = maml_step.dynlm_step(episodes, start)

        def call() -> tuple[float, list[Tensor]]:
            loss, gradients = step()
            return loss, [gradient / 2 for gradient in gradients]

        return call

    monkeypatch.setitem(maml_step.MAKERS, "vmap", halved)
    with pytest.raises(ValueError, match="vmap gives another meta-step"):
        measure(0.0)


def test_environment_steps_are_measured_with_their_shares() -> None:
    rows = environment_steps.measure(0.0, threads=1, scale=0.01)
    assert len(rows) == 6 and all(row["steps_a_second"] > 0 for row in rows.values())
    assert all(0 < row["environment_share"] + row["policy_share"] <= 1 for row in rows.values())
