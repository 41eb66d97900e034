"""``Run``: options by section, a model and splits that are loaded once, and errors that name the option."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.data.options import CorpusOptions
from dynlm.errors import UserError
from dynlm.run.run import Run
from tests.tiny import Run as TrainedRun


def test_sections_are_the_runs_own_or_those_given(trained_run: TrainedRun) -> None:
    run, memory = Run.open(trained_run.folder), StepOptions(rule="none", segment=7)
    assert run.section(MemoryOptions) == trained_run.config.memory
    assert run.section(CorpusOptions) == trained_run.config.corpus
    other = Run.open(trained_run.folder, memory)
    assert other.section(MemoryOptions) is memory and other.dynamic_model().rule.learns is False
    assert run.with_sections(memory).section(MemoryOptions) is memory
    assert run.section(MemoryOptions) == trained_run.config.memory


def test_model_and_splits_are_loaded_once(trained_run: TrainedRun) -> None:
    run = Run.open(trained_run.folder, device="cpu")
    other = run.with_sections(StepOptions(rule="none"))
    assert run.trained is other.trained and run.split("valid") is other.split("valid")
    assert run.split("valid").articles == 6 and run.split("test").articles == 4
    shorter = run.with_sections(dataclasses.replace(run.section(CorpusOptions), limit=2))
    assert shorter.split("valid").articles == 2 and run.split("valid").articles == 6


def test_records_name_the_articles_from_one(trained_run: TrainedRun) -> None:
    run = Run.open(trained_run.folder)
    record = run.record("rates", "tuned", "valid", [0, 1, 4])
    assert record["articles"] == "1-2,5" and record["split_text"] == run.split("valid").fingerprint


def test_an_unreadable_option_is_named_with_its_file(run_copy: TrainedRun) -> None:
    path = run_copy.folder / "config.yaml"
    path.write_text(path.read_text().replace("segment: 20", "segment: many"))
    run = Run.open(run_copy.folder)
    with pytest.raises(UserError, match=r"config.yaml: not a config .*memory.segment is 'many'"):
        run.section(MemoryOptions)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such run"):
        Run.open(tmp_path / "none")
    (tmp_path / "config.yaml").write_text("---\n- 3\n...\n")
    with pytest.raises(UserError, match="no sections"):
        Run.open(tmp_path)
