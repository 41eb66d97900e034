"""The benchmarks work with today's modules, on a tiny model; `make bench` runs them."""

from __future__ import annotations

import importlib
import pkgutil
import time
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import example_training
from benchmarks.bound import learning_cost
from benchmarks.kinds import KINDS, Setting, call_of, largest_difference
from benchmarks.parts import PartTimer, part_costs, part_seconds
from benchmarks.training_rate import measure
from dynlm.cli.config_files import load_options
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.train.config import Config

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


def test_training_is_timed_beside_the_example_of_pytorch(tiny: str) -> None:
    found = example_training.measure(tiny, seconds=0.0)
    ratio = found["dynlm_tokens_a_second"] / found["example_tokens_a_second"]
    assert found["dynlm_times_the_example"] == pytest.approx(ratio)
    assert found["dynlm_bf16_tokens_a_second"] > 0


def test_the_example_has_the_losses_of_the_same_lstm(tiny: str) -> None:
    config = load_options(tiny, Config)
    example = example_training.ExampleModel(300, 8, layers=1).eval()
    model = LSTMLanguageModel(config.model, 300)
    of_lstm = dict(example.lstm.named_parameters())
    params = {
        "embedding": example.embedding.weight,
        "output.bias": example.output.bias,
        "lstm.0.input": of_lstm["weight_ih_l0"],
        "lstm.0.recurrent": of_lstm["weight_hh_l0"],
        "lstm.0.bias": of_lstm["bias_ih_l0"] + of_lstm["bias_hh_l0"],
    }
    tokens_BT = torch.randint(300, (2, 5), generator=torch.Generator().manual_seed(0))
    logits_BTV = model.forward(params, model.init_state(2, example.output.bias), tokens_BT).logits_BTV
    zeros = torch.zeros(1, 2, 8)
    found_NV, _ = example(tokens_BT.T, (zeros, zeros))
    wanted_NV = logits_BTV.log_softmax(2).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(found_NV, wanted_NV)


def test_the_example_learns(tiny: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda high, shape, generator: torch.arange(8).expand(2, 8).reshape(shape))
        step = example_training.example_step(load_options(tiny, Config))
        losses = [step() for _ in range(10)]
    assert losses[-1] < 0.7 * losses[0]


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
