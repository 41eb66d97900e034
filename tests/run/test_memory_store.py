"""What a run keeps of its memory: read back as written, for its own model only, with options going first."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynlm.adapt.options import LearnedRuleOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1, Rates
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import meta_of, open_dynamic_model
from tests.tiny import Run

NAMES = ("embedding", "lstm.0.input", "lstm.0.recurrent", "lstm.0.bias", "output.bias")


@pytest.fixture(scope="module")
def trained(trained_run: Run) -> TrainedModel:
    return load_model(trained_run.folder)


@pytest.fixture(scope="module")
def stranger(trained: TrainedModel) -> TrainedModel:
    """Another model of the same shape."""
    return dataclasses.replace(trained, card={**trained.card, "fingerprint": "0" * 16})


def statistics_of(trained: TrainedModel) -> Statistics:
    generator = torch.Generator().manual_seed(0)
    return Statistics({name: torch.rand(p.shape, generator=generator) for name, p in trained.params.items()})


START = {"lr": 0.1, "decay": 1e-3, "epsilon": 0.25}
G = LearnedRuleOptions(features=["doc_age_20", "loss_delta"], importance=True, boundary_reset=True)


def test_all_comes_back_exactly(tmp_path: Path, trained: TrainedModel) -> None:
    statistics = statistics_of(trained)
    store = MemoryStore(tmp_path, trained)
    store.save_statistics(statistics, 1000)
    read = store.load_statistics()
    assert read is not None
    assert all(torch.equal(read[0].rms[name], tensor) for name, tensor in statistics.rms.items())
    meta = meta_of(G, START, statistics, trained)
    phi = {key: torch.rand(t.shape, dtype=torch.float64) for key, t in meta.initial().items()}
    store.save_learned(StepOptions(rule="meta", reset="article"), meta, phi, {"start": START})
    learned = store.load_learned("meta", "article")
    assert learned is not None
    assert learned[0].keys() == phi.keys()
    assert all(torch.equal(learned[0][key], tensor) for key, tensor in phi.items())
    assert learned[1]["start"] == START
    assert learned[1]["tensors"] == list(NAMES)
    told = json.loads((tmp_path / "memory" / "meta-article.json").read_text())["phi"]["embedding"]
    assert told["alpha"] == pytest.approx(0.1 * math.exp(float(phi["lr"][0])))
    assert told["lr.gates"]["loss_delta"] == float(phi["lr.gates"][0, 1])
    for name, reset in (("meta", "stream"), ("other", "article")):
        assert store.load_learned(name, reset) is None


def test_tuned_rates_of_rules_and_policies_stand_side_by_side(tmp_path: Path, trained: TrainedModel) -> None:
    store = MemoryStore(tmp_path, trained)
    assert store.load_tuned("sgd", "stream") is None
    store.save_tuned("sgd", "stream", {"lr": 1.0})
    store.save_tuned("sgd", "article", {"lr": 2.0})
    store.save_tuned("rms", "stream", {"lr": 3.0})
    store.save_tuned("sgd", "stream", {"lr": 4.0})
    assert store.load_tuned("sgd", "stream") == {"lr": 4.0}
    assert store.load_tuned("sgd", "article") == {"lr": 2.0}
    assert store.load_tuned("rms", "stream") == {"lr": 3.0}
    assert store.load_tuned("rms", "article") is None


@pytest.mark.parametrize(
    "load, name",
    [
        (lambda store: store.load_statistics(), "statistics.safetensors"),
        (lambda store: store.load_tuned("sgd", "stream"), "tuned.json"),
        (lambda store: store.load_learned("meta", "stream"), "meta-stream.safetensors"),
    ],
)
def test_another_models_files_are_refused_by_name(
    load: Callable[[MemoryStore], object],
    name: str,
    tmp_path: Path,
    trained: TrainedModel,
    stranger: TrainedModel,
) -> None:
    theirs = MemoryStore(tmp_path, stranger)
    theirs.save_statistics(statistics_of(trained), 1000)
    theirs.save_tuned("sgd", "stream", {"lr": 1.0})
    meta = meta_of(G, START, statistics_of(stranger), stranger)
    theirs.save_learned(StepOptions(rule="meta"), meta, meta.initial(), {})
    assert load(MemoryStore(tmp_path, stranger)) is not None
    with pytest.raises(UserError, match=rf"{re.escape(name)}: this belongs to another model"):
        load(MemoryStore(tmp_path, trained))


def test_tuning_another_model_forgets_the_first_ones_rates(
    tmp_path: Path, trained: TrainedModel, stranger: TrainedModel
) -> None:
    MemoryStore(tmp_path, stranger).save_tuned("sgd", "stream", {"lr": 1.0})
    store = MemoryStore(tmp_path, trained)
    store.save_tuned("rms", "stream", {"lr": 2.0})
    assert store.load_tuned("sgd", "stream") is None


def test_options_go_before_tuned_rates(tuned_run: Run, trained: TrainedModel) -> None:
    tuned = MemoryStore(tuned_run.folder, trained).load_tuned("rms", "stream")
    assert tuned is not None
    as_tuned = open_dynamic_model(tuned_run.folder, trained, StepOptions())
    assert set(as_tuned.rule.rates.values()) == {Rates(tuned["lr"], tuned["decay"])}
    given = open_dynamic_model(tuned_run.folder, trained, StepOptions(lr=0.25))
    assert set(given.rule.rates.values()) == {Rates(0.25, tuned["decay"])}
    zero = open_dynamic_model(tuned_run.folder, trained, StepOptions(lr=0.0, decay=0.0))
    assert set(zero.rule.rates.values()) == {Rates(0.0, 0.0)}


def test_only_the_tensors_named_move(tuned_run: Run, trained: TrainedModel) -> None:
    for rule in ("sgd", "rms", "meta"):
        dynamic_model = open_dynamic_model(
            tuned_run.folder, trained, StepOptions(rule=rule, dynamic=["lstm.*", "output.bias"])
        )
        assert tuple(dynamic_model.rule.rates) == NAMES[1:]
        assert tuple(dynamic_model.fresh_memory().params) == NAMES[1:]
    with pytest.raises(UserError, match=r"memory\.dynamic has 'decoder'"):
        open_dynamic_model(tuned_run.folder, trained, StepOptions(dynamic=["decoder"]))


def test_level_1_needs_nothing(trained_run: Run, trained: TrainedModel) -> None:
    assert open_dynamic_model(trained_run.folder, trained, StepOptions(rule="none")).rule == LEVEL_1


@pytest.mark.parametrize(
    "options, said",
    [
        ({"rule": "sgd"}, "sgd has no memory.lr and was not tuned"),
        ({"rule": "sgd+decay", "lr": 0.1}, "has no memory.decay"),
        ({"rule": "rms", "lr": 0.1, "decay": 0.1}, "has no memory.epsilon"),
        ({"rule": "rms", "lr": 0.1, "decay": 0.1, "epsilon": 0.1}, "no gradient statistics yet"),
        ({"rule": "meta"}, "no learned memory 'meta' for reset 'stream'"),
        ({"rule": "meta", "lr": 0.1}, "memory.lr does not go with memory.rule meta"),
    ],
)
def test_what_is_missing_is_said_with_the_way_to_it(
    options: dict[str, object], said: str, trained_run: Run, trained: TrainedModel
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        open_dynamic_model(trained_run.folder, trained, StepOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["statistics.safetensors", "tuned.json", "meta-stream.safetensors"])
def test_a_file_cut_short_is_named(name: str, tuned_copy: Run, trained: TrainedModel) -> None:
    path = tuned_copy.folder / "memory" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rule = "meta" if name.startswith("meta") else "rms"
    with pytest.raises(UserError, match=re.escape(name)):
        open_dynamic_model(tuned_copy.folder, trained, StepOptions(rule=rule))
