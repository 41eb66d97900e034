"""A rule of another package is a variant of a study: it is tuned, read and compared, with no file of dynlm edited."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import tests.plugins.adamax
from dynlm.adapt.rules.registry import RULES
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.run import study
from dynlm.study.steps import steps_of
from dynlm.study.variants import variants_of
from tests.plugins.adamax import AdamaxOptions
from tests.tiny import Run, opened

assert "adamax" in RULES.names(), tests.plugins.adamax
VARIANTS: list[dict[str, Any]] = [
    {"name": "level 1", "memory": {"rule": "none"}},
    {"name": "adamax", "memory": {"rule": "adamax", "beta2": 0.95, "reset": "article"}},
    {"name": "given", "memory": {"rule": "adamax", "lr": 1e-3, "reset": "article"}},
]


def options(made: Run, **changes: Any) -> StudyOptions:
    chosen = StudyConfig(variants=VARIANTS, articles="4-6", resamples=20, baselines=["level 1"], pairs=[])
    return StudyOptions(**{**vars(made.config), "study": chosen, **changes})


def test_its_options_are_checked_and_kept(trained_run: Run) -> None:
    variants = variants_of(options(trained_run))
    assert [type(each.memory) is AdamaxOptions for each in variants] == [False, True, True]
    assert isinstance(variants[1].memory, AdamaxOptions) and variants[1].memory.beta2 == 0.95
    back = options(trained_run, memory=AdamaxOptions(rule="adamax", segment=15))
    assert variants_of(back)[0].memory.segment == 15


def test_it_is_tuned_with_the_constants_that_the_variant_gives(trained_run: Run) -> None:
    chosen = options(trained_run)
    run = opened(trained_run.folder, trained_run.config)
    given, tuned = (steps_of(run, variants_of(chosen)[n], "article") for n in (2, 1))
    assert given == [] and tuned[0].options["memory.beta2"] == 0.95


@pytest.mark.filterwarnings("ignore")
def test_it_is_tuned_and_read_as_any_other(run_copy: Run) -> None:
    folder = dataclasses.replace(run_copy.config.run, folder=str(run_copy.folder.parent), name=run_copy.folder.name)
    results, written = study(options(run_copy, run=folder), quiet=True)
    rows = {row.done.reading.label: row for row in results.rows}
    assert list(rows) == ["level 1", "adamax, article", "given, article"]
    assert [each.slot for each in rows["adamax, article"].done.prepared] == ["the rates of adamax under article"]
    assert rows["given, article"].done.prepared == []
    assert rows["adamax, article"].done.nats < rows["level 1"].done.nats
    assert all(path.exists() for path in written)
