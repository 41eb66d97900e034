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

from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions
from dynlm.adapt.rules.elementwise import LEVEL_1, Rates
from dynlm.adapt.rules.statistics import Statistics
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.rule_store import (
    load_learned,
    load_statistics,
    load_tuned,
    meta_of,
    open_dynamic_model,
    save_learned,
    save_statistics,
    save_tuned,
)
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
    save_statistics(tmp_path, statistics, trained, 1000)
    read = load_statistics(tmp_path, trained)
    assert read is not None
    assert all(torch.equal(read.rms[name], tensor) for name, tensor in statistics.rms.items())
    meta = meta_of(G, START, statistics, trained)
    phi = {key: torch.rand(t.shape, dtype=torch.float64) for key, t in meta.initial().items()}
    save_learned(tmp_path, MemoryOptions(rule="meta", reset="article"), meta, phi, {"start": START}, trained)
    learned = load_learned(tmp_path, "meta", "article", trained)
    assert learned is not None
    assert learned[0].keys() == phi.keys()
    assert all(torch.equal(learned[0][key], tensor) for key, tensor in phi.items())
    assert learned[1]["start"] == START
    assert learned[1]["tensors"] == list(NAMES)
    told = json.loads((tmp_path / "memory" / "meta-article.json").read_text())["phi"]["embedding"]
    assert told["alpha"] == pytest.approx(0.1 * math.exp(float(phi["lr"][0])))
    assert told["lr.gates"]["loss_delta"] == float(phi["lr.gates"][0, 1])
    for name, reset in (("meta", "stream"), ("other", "article")):
        assert load_learned(tmp_path, name, reset, trained) is None


def test_tuned_rates_of_rules_and_policies_stand_side_by_side(tmp_path: Path, trained: TrainedModel) -> None:
    assert load_tuned(tmp_path, "sgd", "stream", trained) is None
    save_tuned(tmp_path, "sgd", "stream", {"lr": 1.0}, trained)
    save_tuned(tmp_path, "sgd", "article", {"lr": 2.0}, trained)
    save_tuned(tmp_path, "rms", "stream", {"lr": 3.0}, trained)
    save_tuned(tmp_path, "sgd", "stream", {"lr": 4.0}, trained)
    assert load_tuned(tmp_path, "sgd", "stream", trained) == {"lr": 4.0}
    assert load_tuned(tmp_path, "sgd", "article", trained) == {"lr": 2.0}
    assert load_tuned(tmp_path, "rms", "stream", trained) == {"lr": 3.0}
    assert load_tuned(tmp_path, "rms", "article", trained) is None


@pytest.mark.parametrize(
    "load, name",
    [
        (lambda folder, trained: load_statistics(folder, trained), "statistics.safetensors"),
        (lambda folder, trained: load_tuned(folder, "sgd", "stream", trained), "tuned.json"),
        (lambda folder, trained: load_learned(folder, "meta", "stream", trained), "meta-stream.safetensors"),
    ],
)
def test_another_models_files_are_refused_by_name(
    load: Callable[[Path, TrainedModel], object],
    name: str,
    tmp_path: Path,
    trained: TrainedModel,
    stranger: TrainedModel,
) -> None:
    save_statistics(tmp_path, statistics_of(trained), stranger, 1000)
    save_tuned(tmp_path, "sgd", "stream", {"lr": 1.0}, stranger)
    meta = meta_of(G, START, statistics_of(stranger), stranger)
    save_learned(tmp_path, MemoryOptions(rule="meta"), meta, meta.initial(), {}, stranger)
    assert load(tmp_path, stranger) is not None
    with pytest.raises(UserError, match=rf"{re.escape(name)}: this belongs to another model"):
        load(tmp_path, trained)


def test_tuning_another_model_forgets_the_first_ones_rates(
    tmp_path: Path, trained: TrainedModel, stranger: TrainedModel
) -> None:
    save_tuned(tmp_path, "sgd", "stream", {"lr": 1.0}, stranger)
    save_tuned(tmp_path, "rms", "stream", {"lr": 2.0}, trained)
    assert load_tuned(tmp_path, "sgd", "stream", trained) is None


def test_options_go_before_tuned_rates(tuned_run: Run, trained: TrainedModel) -> None:
    tuned = load_tuned(tuned_run.folder, "rms", "stream", trained)
    assert tuned is not None
    as_tuned = open_dynamic_model(tuned_run.folder, trained, MemoryOptions())
    assert set(as_tuned.rule.rates.values()) == {Rates(tuned["lr"], tuned["decay"])}
    given = open_dynamic_model(tuned_run.folder, trained, MemoryOptions(lr=0.25))
    assert set(given.rule.rates.values()) == {Rates(0.25, tuned["decay"])}
    zero = open_dynamic_model(tuned_run.folder, trained, MemoryOptions(lr=0.0, decay=0.0))
    assert set(zero.rule.rates.values()) == {Rates(0.0, 0.0)}


def test_only_the_tensors_named_move(tuned_run: Run, trained: TrainedModel) -> None:
    for rule in ("sgd", "rms", "meta"):
        dynamic_model = open_dynamic_model(
            tuned_run.folder, trained, MemoryOptions(rule=rule, dynamic=["lstm.*", "output.bias"])
        )
        assert tuple(dynamic_model.rule.rates) == NAMES[1:]
        assert tuple(dynamic_model.fresh_memory().params) == NAMES[1:]
    with pytest.raises(UserError, match=r"memory\.dynamic has 'decoder'"):
        open_dynamic_model(tuned_run.folder, trained, MemoryOptions(dynamic=["decoder"]))


def test_level_1_needs_nothing(trained_run: Run, trained: TrainedModel) -> None:
    assert open_dynamic_model(trained_run.folder, trained, MemoryOptions(rule="none")).rule == LEVEL_1


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
        open_dynamic_model(trained_run.folder, trained, MemoryOptions(**options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["statistics.safetensors", "tuned.json", "meta-stream.safetensors"])
def test_a_file_cut_short_is_named(name: str, tuned_copy: Run, trained: TrainedModel) -> None:
    path = tuned_copy.folder / "memory" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rule = "meta" if name.startswith("meta") else "rms"
    with pytest.raises(UserError, match=re.escape(name)):
        open_dynamic_model(tuned_copy.folder, trained, MemoryOptions(rule=rule))
