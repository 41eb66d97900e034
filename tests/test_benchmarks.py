"""The benchmarks work with today's modules, on a tiny model; `make bench` runs them."""

from __future__ import annotations

import importlib
import pkgutil
import time
from pathlib import Path

import pytest

import benchmarks
from benchmarks.bound import learning_cost
from benchmarks.kinds import KINDS, Setting, call_of, largest_difference
from benchmarks.parts import PartTimer, part_costs, part_seconds
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


def test_the_parts_of_a_segment_have_the_cost_of_the_whole(tiny: str) -> None:
    model = Setting(tiny).model
    costs, whole = part_costs(model, 20), learning_cost(model, 1, 20)
    assert sum(cost.operations for cost in costs.values()) == whole.operations
    moved = sum(cost.moved_bytes for part, cost in costs.items() if part != "softmax of the logits")
    biases = 2 * 4 * (model.vocab_size + 4 * 8)  # The passes of the products have none.
    assert moved == whole.moved_bytes - biases


def test_every_part_of_a_segment_is_timed(tiny: str) -> None:
    setting = Setting(tiny)
    found = part_seconds(setting, native=False, seconds=0.0)
    assert found.keys() == {*part_costs(setting.model, 20), "Python and the rest"}
    assert all(seconds > 0 for seconds in found.values())


def test_the_time_of_a_part_leaves_out_the_parts_inside_it() -> None:
    timer = PartTimer()
    inner = timer.timed(lambda: time.sleep(0.02), lambda: "inner")
    timer.timed(lambda: (inner(), inner()), lambda: "outer")()
    assert timer.seconds["inner"] >= 0.04
    assert timer.seconds["outer"] < timer.seconds["inner"]
