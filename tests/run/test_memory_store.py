"""What a run keeps of its memory: read back as written, and for its own model only."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynlm.adapt.options import LearnedRuleOptions, LearnedStepOptions, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.registry import SEGMENTS, StatisticsKind
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import meta_of
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
    meta = meta_of(G, START, trained, NAMES, lambda: statistics)
    phi = {key: torch.rand(t.shape, dtype=torch.float64) for key, t in meta.initial().items()}
    store.save_learned(LearnedStepOptions(rule="meta", reset="article"), meta, phi, {"start": START})
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


def test_what_is_tuned_for_some_tensors_stands_beside_what_is_tuned_for_all(
    tmp_path: Path, trained: TrainedModel
) -> None:
    """A memory that moves others is read with what was tuned for all tensors."""
    store, some = MemoryStore(tmp_path, trained), ["*.bias", "embedding"]
    cache = {"window": 10, "inverse_temperature": 1.0}
    for share, targets in ((0.1, ["*"]), (0.2, some)):
        memory = StepOptions(targets=targets, cache="fixed")
        store.save_tuned("rms", "stream", {"lr": share}, targets)
        store.save_fixed_cache(memory, {**cache, "share": share})
    for share, targets in ((0.1, ["*"]), (0.1, list(NAMES)), (0.2, some), (0.2, some[::-1]), (0.1, ["embedding"])):
        memory = StepOptions(targets=targets, cache="fixed")
        tuned, fixed = store.tuned_for("rms", memory), store.load_fixed_cache(memory)
        assert tuned is not None and fixed is not None
        assert tuned["lr"] == fixed["share"] == share, targets
        # What was found while other tensors moved is marked in score files.
        records = store.tuned_on(memory) or []
        assert [one["what"] for one in records] == ["rates", "cache"]
        assert all(("other_tensors" in one) == (targets == ["embedding"]) for one in records), targets
    assert store.load_tuned("rms", "stream", ["embedding"]) is None


def test_a_g_that_reads_with_fewer_tensors_than_it_learned_on_is_marked(tmp_path: Path, trained: TrainedModel) -> None:
    store, memory = MemoryStore(tmp_path, trained), LearnedStepOptions(rule="meta")
    meta = meta_of(G, START, trained, NAMES, lambda: statistics_of(trained))
    record = {"what": "g", "how": "learned", "corpus": "x", "split": "meta", "articles": "1-3"}
    store.save_learned(memory, meta, meta.initial(), {"start": START, "tuned_on": [record]})
    assert store.tuned_on(memory) == [record]
    assert store.tuned_on(memory.replace(targets=["embedding"])) == [{**record, "other_tensors": True}]


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


def test_statistics_of_several_kinds_stand_side_by_side(tmp_path: Path, trained: TrainedModel) -> None:
    store, own = MemoryStore(tmp_path, trained), statistics_of(trained)
    kinds = [StatisticsKind(100, 5), StatisticsKind(100, 20), StatisticsKind(7, 20), SEGMENTS]
    for number, kind in enumerate(kinds, start=1):
        scaled = Statistics({name: tensor * number for name, tensor in own.rms.items()})
        store.save_statistics(scaled, 1000 * number, kind)
    (tmp_path / "memory" / "statistics-1x5-stream.safetensors").touch()  # a learned rule of that name
    assert {*store.statistics_kinds()} == {*kinds}
    other = MemoryStore(tmp_path / "other", trained)
    store.copy_to(other)
    for held in (store, other):
        for number, kind in enumerate(kinds, start=1):
            loaded = held.load_statistics(kind)
            assert loaded is not None and loaded[1]["tokens"] == 1000 * number
            assert torch.equal(loaded[0].rms["embedding"], own.rms["embedding"] * number)
            batches = {} if kind is SEGMENTS else {"lanes": kind.lanes, "segment": kind.segment}
            assert {name: loaded[1][name] for name in ("lanes", "segment") if name in loaded[1]} == batches
    store.drop_statistics(kinds[1])
    assert {*store.statistics_kinds()} == {*kinds} - {kinds[1]}
    assert store.load_statistics(kinds[1]) is None and store.load_statistics() is not None


@pytest.mark.parametrize("name, value", [("boundary_reset", 1.5), ("slow_rate", -0.1), ("epsilon", 0.0)])
def test_tuned_constants_out_of_bounds_are_refused(
    name: str, value: float, tmp_path: Path, trained: TrainedModel
) -> None:
    store = MemoryStore(tmp_path, trained)
    tuned = {"lr": 0.1, "decay": 0.0, "epsilon": 1e-3, "boundary_reset": 1.0, "slow_rate": 0.0}
    store.save_tuned("rms+slow", "stream", tuned)
    assert store.load_tuned("rms+slow", "stream") == tuned
    store.save_tuned("rms+slow", "stream", {**tuned, name: value})
    with pytest.raises(UserError, match=f"its {name} is {value}"):
        store.load_tuned("rms+slow", "stream")


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
    meta = meta_of(G, START, stranger, NAMES, lambda: statistics_of(stranger))
    theirs.save_learned(LearnedStepOptions(rule="meta"), meta, meta.initial(), {})
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
