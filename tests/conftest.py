"""Fixtures of all tests: a cache folder of their own, and one tiny run that is trained once."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tiny import Run, tiny_config, with_memory, write_corpus

# A second thread does not help with tensors as small as these; set before torch is imported, and for child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of this session, or of this worker of pytest-xdist: no test reads or writes the user's."""
    folder = tmp_path_factory.mktemp("cache")
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Compiled once for all workers: torch locks the folder that it builds in.
        native = tmp_path_factory.getbasetemp().parent / "native"
        native.mkdir(exist_ok=True)
        (folder / "native").symlink_to(native)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNLM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small corpus in the WikiText format."""
    return write_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="session")
def trained_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of level 1, trained once. Tests that write into a run take ``run_copy``."""
    from dynlm.train.pretrain import pretrain

    runs = tmp_path_factory.mktemp("runs")
    config = tiny_config(tiny_corpus, runs)
    pretrain(config, quiet=True)
    return Run(runs / "tiny", config, tiny_corpus)


@pytest.fixture(scope="session")
def tuned_run(trained_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the trained run with sgd and rms tuned, and meta learned, under both reset policies."""
    from tests.trainings import metatrain, tune

    run = _copied(trained_run, tmp_path_factory.mktemp("tuned"))
    for reset in ("stream", "article"):
        for rule in ("sgd", "rms"):
            tune(run.folder, with_memory(run.config, rule=rule, reset=reset))
        metatrain(run.folder, with_memory(run.config, rule="meta", reset=reset))
    return run


@pytest.fixture
def run_copy(trained_run: Run, tmp_path: Path) -> Run:
    """A copy of the trained run to be written to or damaged."""
    return _copied(trained_run, tmp_path / "copied")


@pytest.fixture
def tuned_copy(tuned_run: Run, tmp_path: Path) -> Run:
    """A copy of the tuned run to be written to or damaged."""
    return _copied(tuned_run, tmp_path / "copied")


def _copied(run: Run, runs: Path) -> Run:
    shutil.copytree(run.folder, runs / run.folder.name)
    return Run(runs / run.folder.name, run.config, run.corpus)
