"""The benchmarks of few-shot learning: a MAML meta-step beside two packages, and environment steps."""

from __future__ import annotations

import importlib.util

import pytest

from benchmarks import environment_steps
from benchmarks.maml_step import MAKERS, measure

INSTALLED = tuple(name for name in MAKERS if name == "dynlm" or importlib.util.find_spec(name))


def test_a_meta_step_is_measured_beside_what_is_installed() -> None:
    told = measure(0.0, names=INSTALLED)
    assert told["dynlm_ms"] > 0 and told["meta_loss"] > 0
    for name in INSTALLED[1:]:
        assert told[f"times_as_fast_as_{name}"] > 1


@pytest.mark.skipif(len(INSTALLED) == len(MAKERS), reason="all are installed")
def test_what_is_missing_is_said_by_name() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"higher|torchopt"):
        measure(0.0)


def test_environment_steps_are_measured_with_their_shares() -> None:
    rows = environment_steps.measure(0.0, threads=1, scale=0.01)
    assert len(rows) == 6 and all(row["steps_a_second"] > 0 for row in rows.values())
    assert all(0 < row["environment_share"] + row["policy_share"] <= 1 for row in rows.values())
