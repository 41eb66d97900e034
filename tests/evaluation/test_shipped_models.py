"""Golden figures: the models in data/models open, and read WikiText-2 as well as when they were packed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dynlm.data.options import CorpusOptions
from dynlm.evaluation.checks.packed import check_packed
from dynlm.fewshot.packing import check_packed_learner, is_learner
from dynlm.run.locate import packed_models
from dynlm.run.run import Run

ROOT = Path(__file__).resolve().parents[2]
DATA = os.environ.get("DYNLM_DATA")
SHIPPED = [path for path in packed_models().values() if path.is_relative_to(ROOT)]
MODELS = [path for path in SHIPPED if not is_learner(path)]
LEARNERS = [path for path in SHIPPED if is_learner(path)]
LARGEST = {"wikitext-2-small": 10e6, "wikitext-2-strong": 30e6}


@pytest.mark.slow
@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_model_reads_as_it_did(folder: Path) -> None:
    """Level 1, rms, level 3 and the gated cache, to 1e-3 nats per token."""
    corpus = None
    if DATA is not None and (named := Path(DATA) / Run.open(folder).section(CorpusOptions).source).is_dir():
        corpus = str(named)
    done = check_packed(folder, corpus)
    assert done.holds, done.to_text()
    if corpus is None:
        pytest.skip("opens and reads; figures need DYNLM_DATA, the folder of real data")
    assert done.figures >= 4


@pytest.mark.parametrize("folder", MODELS, ids=lambda path: path.name)
def test_a_model_is_small(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= LARGEST.get(folder.name, 10e6)


@pytest.mark.parametrize("folder", LEARNERS, ids=lambda path: path.name)
def test_a_learner_opens(folder: Path) -> None:
    done = check_packed_learner(folder)
    assert done.holds, done.to_text()
