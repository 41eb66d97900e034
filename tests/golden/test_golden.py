"""Readings by a run folder of an earlier version give the figures that were given then.

``python -m tests.golden.make`` compares bit for bit, trainings too; here figures agree within rounding, which differs
from processor to processor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from dynlm.evaluation.score_file import read_scores
from tests.golden.commands import FOLDER, ROOT, SCORES, STUDY, Golden, copied, figures_of
from tests.golden.make import TEXT, written

NATS = load_file(FOLDER / "nats.safetensors")
CHAOTIC = "sgd wild"
"""Which of its steps are taken is decided by rounding."""


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    return copied(tmp_path_factory.mktemp("golden"))


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def close(now: Any, then: Any, tolerance: float = 1e-4) -> None:
    """Numbers at the same places, the same within ``tolerance``."""
    if isinstance(then, dict):
        assert now.keys() == then.keys()
        for key in then:
            close(now[key], then[key], tolerance)
    elif isinstance(then, list):
        assert len(now) == len(then)
        for one, other in zip(now, then, strict=True):
            close(one, other, tolerance)
    else:
        assert now == pytest.approx(then, rel=tolerance, abs=tolerance)


def test_every_reading_has_its_figures() -> None:
    assert NATS.keys() == SCORES.keys()


@pytest.mark.parametrize("name", [name for name in SCORES if name != CHAOTIC])
def test_a_reading_costs_what_it_cost(name: str, golden: Golden) -> None:
    tolerance = 0.05 if "bfloat16" in name else 1e-3
    np.testing.assert_allclose(golden.nats(SCORES[name]), NATS[name], rtol=0, atol=tolerance)


def test_a_wild_reading_stays_a_number(golden: Golden) -> None:
    now, then = golden.nats(SCORES[CHAOTIC]), NATS[CHAOTIC]
    assert now.shape == then.shape and np.isfinite(now).all()


def test_a_score_file_is_read_and_verified(golden: Golden) -> None:
    path = golden.runs / "golden" / "scores" / "kept.parquet"
    np.testing.assert_array_equal(read_scores(path).nats, NATS["rms"])
    assert golden.answer(f"verify {path} --path CORPUS")["holds"] is True


def test_a_memory_is_gone_on_with(golden: Golden, tmp_path: Path) -> None:
    then, memory = written("reading")["read"], tmp_path / "me.safetensors"
    memory.write_bytes((FOLDER / "me.safetensors").read_bytes())
    (tmp_path / "book.txt").write_text(TEXT, encoding="utf-8")
    again = figures_of(golden.answer(f"read RUN --memory {memory} --again {tmp_path / 'book.txt'}"))
    close(again, then["again"])


def test_a_study_has_its_figures(golden: Golden) -> None:
    close(figures_of(golden.answer(STUDY)), written("reading")["study"], 1e-3)


def test_learners_of_curves_have_their_figures(golden: Golden) -> None:
    close(golden.fewshot(), written("fewshot"), 0.02)
