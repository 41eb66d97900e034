"""The benchmarks work with today's modules, on a tiny model; `make bench` runs them."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest

import benchmarks
from benchmarks.kinds import KINDS, Setting, call_of, largest_difference
from benchmarks.training_rate import measure

MODULES = [module.name for module in pkgutil.iter_modules(benchmarks.__path__) if module.name != "__main__"]


@pytest.mark.parametrize("name", [*MODULES, "__main__"])
def test_benchmark_imports_and_says_how_it_is_run(name: str) -> None:
    module = importlib.import_module(f"benchmarks.{name}")
    assert module.__doc__
    assert not hasattr(module, "main") or "python -m benchmarks" in module.__doc__


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model: {embedding: 8, hidden: 8}\ntokenizer: {vocab_size: 300}\npretrain: {lanes: 2, segment: 4}\n"
    )
    return str(path)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "difference"])
def test_every_kind_of_reading_runs(kind: str, tiny: str) -> None:
    call, about = call_of(Setting(tiny), kind, 1, native=False)
    call()
    assert kind == "straightforward" or about["held_bytes"] > 0


def test_the_plain_loop_has_the_same_losses(tiny: str) -> None:
    assert largest_difference(Setting(tiny), native=False, segments=5) < 1e-5


def test_training_is_timed(tiny: str) -> None:
    assert measure(tiny, seconds=0.0)["tokens_a_second"] > 0
