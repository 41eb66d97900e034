"""The cache's constants: searched on a trace that is the reading itself, learned where evidence tells, kept by name."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.adapt.partners.cache import Cache, mixture
from dynlm.adapt.partners.cache_gate import Gate, initial_gate, log_shares
from dynlm.data.articles import source_name
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_cache, open_dynamic_model
from dynlm.train.gate import GateData, GateTraining, collect, stopped_improving
from dynlm.types import Params
from tests.tiny import Run, with_memory
from tests.trainings import train_gate, tune_cache, tuning_stream


@pytest.fixture(scope="module")
def cached_run(tuned_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the tuned run with caches tuned and learned beside rms and beside nothing."""
    runs = tmp_path_factory.mktemp("cached")
    shutil.copytree(tuned_run.folder, runs / "tiny")
    run = Run(runs / "tiny", tuned_run.config, tuned_run.corpus)
    for rule in ("none", "rms"):
        tune_cache(run.folder, with_memory(run.config, rule=rule, cache="fixed"))
        train_gate(run.folder, with_memory(run.config, rule=rule, cache="learned"))
    return run


def tuning_nats(run: Run, memory: MemoryOptions, tokens: int) -> float:
    return mean_nats(
        open_dynamic_model(run.folder, load_model(run.folder), memory), tuning_stream(run.folder, run.config, tokens)
    )


@pytest.mark.parametrize("rule", ["none", "rms"])
def test_the_loss_on_a_trace_is_that_of_reading_with_the_cache(cached_run: Run, rule: str) -> None:
    """The nats found by search are those of a reading with the cache in the loop, and so are the gate's."""
    memory = with_memory(cached_run.config, rule=rule, cache="fixed").memory
    tuned = MemoryStore(cached_run.folder, load_model(cached_run.folder)).load_fixed_cache(memory)
    assert tuned is not None
    tokens = cached_run.config.tune.tokens
    assert tuning_nats(cached_run, memory, tokens) == pytest.approx(tuned["nats_per_token"], abs=1e-5)
    without = memory.replace(cache="none")
    assert tuning_nats(cached_run, without, tokens) == pytest.approx(tuned["without_cache_nats_per_token"], abs=1e-5)
    assert tuned["nats_per_token"] < tuned["without_cache_nats_per_token"]
    gated = memory.replace(cache="learned")
    about = json.loads((cached_run.folder / "memory" / f"gated-cache-{rule}-stream.json").read_text())
    nats = about["tuning_nats_per_token"]
    tokens = cached_run.config.metatrain.pick_tokens
    assert tuning_nats(cached_run, gated, tokens) == pytest.approx(nats["learned"], abs=1e-5)
    assert nats["learned"] <= nats["start"] < nats["none"]
    assert about["kept"] == ("learned" if nats["learned"] < nats["start"] else "start")


def test_under_reset_article_the_cache_is_emptied(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="none", reset="article", cache="fixed")
    tuned = tune_cache(tuned_copy.folder, config)
    found = tuning_nats(tuned_copy, config.memory, config.tune.tokens)
    assert found == pytest.approx(tuned["nats_per_token"], abs=1e-5)
    # Who reports figures of these articles has to be refused: what it was tuned on is told in full.
    assert (tuned["corpus"], tuned["split"]) == (source_name(config.corpus), config.tune.split)


def test_the_search_starts_at_given_constants(tuned_copy: Run) -> None:
    config = with_memory(
        tuned_copy.config,
        rule="none",
        cache="fixed",
        cache_window=33,
        cache_inverse_temperature=[0.25],
        cache_share=0.125,
    )
    still = dataclasses.replace(config, tune=dataclasses.replace(config.tune, rounds=0))
    tuned = tune_cache(tuned_copy.folder, still)
    assert (tuned["window"], tuned["inverse_temperature"], tuned["share"], tuned["settings"]) == (33, 0.25, 0.125, 1)
    assert tuning_nats(tuned_copy, config.memory, config.tune.tokens) == pytest.approx(
        tuned["nats_per_token"], abs=1e-5
    )


def test_several_lanes_collect_the_same_features(cached_run: Run) -> None:
    config = with_memory(cached_run.config, rule="rms", reset="article")
    trained = load_model(cached_run.folder)
    dynamic_model = open_dynamic_model(cached_run.folder, trained, config.memory)
    looking = Cache(50, (0.5, 1.0), 0.0)
    found = []
    for lanes in (1, 3):
        wide = with_memory(config, lanes=lanes)
        told = collect(dynamic_model, looking, tuning_stream(cached_run.folder, wide, 0), 0)
        found.append([tensor[told.nats_N.argsort()] for tensor in told])
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, rtol=1e-3, atol=1e-3)


def made_up(count: int, seed: int) -> GateData:
    """Tokens of which the first piece of evidence tells whether the cache or the model knows them."""
    generator = torch.Generator().manual_seed(seed)
    evidence = torch.randn(count, 9, generator=generator)
    cache_knows = evidence[:, 0] > 0
    log_p = torch.where(cache_knows, -0.1, -torch.inf)[:, None]
    return GateData(evidence, log_p, torch.full((count,), 5), torch.where(cache_knows, 5.0, 0.5))


def trained_gate(start: Params, learning: GateData, picking: GateData) -> GateTraining:
    training = GateTraining(start, learning, picking, torch.Generator().manual_seed(0))
    training.run()
    return training


def test_a_gate_learns_when_the_cache_knows_best() -> None:
    learning, picking = made_up(2000, 0), made_up(1000, 1)
    start = initial_gate([0.8, 0.2], learning.features_NK, 8, torch.Generator().manual_seed(0))
    trained = trained_gate(start, learning, picking)
    best, nats, passes = trained.best, trained.nats, trained.passes
    best_fixed = min(
        float(mixture(torch.tensor([1 - s, s]).log(), *picking[1:]).mean()) for s in torch.linspace(0.05, 0.95, 19)
    )
    assert nats[passes] == min(nats) < best_fixed - 0.3
    shares = log_shares(best, picking.features_NK).exp()
    assert shares[picking.features_NK[:, 0] > 0.5, 1].mean() > 0.9
    assert shares[picking.features_NK[:, 0] < -0.5, 1].mean() < 0.1
    assert trained.seconds > 0 and trained.parameters == (9 * 8 + 8) + (2 * 8 + 2)


def test_a_gate_is_trained_until_it_no_longer_improves(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow it is: it takes hundreds of passes here, and with fewer allowed it is said to be unfinished."""
    learning, picking = made_up(400, 0), made_up(400, 1)
    start = initial_gate([0.8, 0.2], learning.features_NK, 8, torch.Generator().manual_seed(0))
    trained = trained_gate(start, learning, picking)
    nats, passes = trained.nats, trained.passes
    again = trained_gate(start, learning, picking)
    assert again.nats == nats and all(torch.equal(again.best[name], tensor) for name, tensor in trained.best.items())
    assert passes > 100 and stopped_improving(nats) and nats[passes] == min(nats) < nats[40] - 0.3
    assert not stopped_improving(nats[:-1])
    monkeypatch.setattr("dynlm.train.gate._MOST_PASSES", 40)
    short = trained_gate(start, learning, picking).nats
    assert not stopped_improving(short) and short == nats[:41]


@pytest.mark.parametrize("inverse_temperature", [1.0001e4, 1e300, float("nan"), 1e-7])
def test_a_flatness_that_no_loss_can_be_told_by_is_refused_wherever_it_comes_from(
    inverse_temperature: float, tmp_path: Path, trained: TrainedModel
) -> None:
    with pytest.raises(UserError, match=r"memory\.cache_inverse_temperature is"):
        StepOptions(rule="none", cache_inverse_temperature=[inverse_temperature])
    memory = StepOptions(rule="none")
    store = MemoryStore(tmp_path, trained)
    store.save_fixed_cache(memory, {"window": 7, "inverse_temperature": inverse_temperature, "share": 0.25})
    store.save_gated_cache(memory, Cache(77, (0.25, inverse_temperature), gate()), {})
    for kind in ("fixed", "learned"):
        with pytest.raises(UserError, match="inverse_temperature"):
            open_cache(store, memory.replace(cache=kind))


@pytest.mark.parametrize("inverse_temperature", [1e-6, 1e4])
def test_with_the_least_and_the_largest_flatness_losses_are_numbers(
    inverse_temperature: float, trained_run: Run
) -> None:
    options = {
        "cache": "fixed",
        "cache_window": 50,
        "cache_inverse_temperature": [inverse_temperature],
        "cache_share": 0.2,
    }
    memory = with_memory(trained_run.config, rule="none", **options).memory
    assert math.isfinite(tuning_nats(trained_run, memory, 400))


def test_a_gate_beside_the_largest_flatness_can_be_opened_again(tuned_copy: Run) -> None:
    config = with_memory(tuned_copy.config, rule="none", cache="learned")
    fixed = {"window": 50, "inverse_temperature": 1e4, "share": 0.2}
    trained = load_model(tuned_copy.folder)
    MemoryStore(tuned_copy.folder, trained).save_fixed_cache(config.memory, fixed)
    done = train_gate(tuned_copy.folder, config)
    assert done["inverse_temperature"] == [5e3, 1e4, 1e4] and done["passes"] <= done["passes_made"]
    assert done["still_improving"] is False
    assert open_cache(MemoryStore(tuned_copy.folder, trained), config.memory) is not None


def test_an_overfitted_gate_is_not_kept() -> None:
    """Where the tuning articles say the contrary, the start is kept."""
    learning, picking = made_up(2000, 0), made_up(500, 1)
    contrary = picking._replace(features_NK=-picking.features_NK)
    start = initial_gate([0.6, 0.4], learning.features_NK, 8, torch.Generator().manual_seed(0))
    trained = trained_gate(start, learning, contrary)
    assert trained.passes == 0 and min(trained.nats) == trained.nats[0]
    assert all(torch.equal(trained.best[name], start[name]) for name in start)


@pytest.fixture(scope="module")
def trained(trained_run: Run) -> TrainedModel:
    return load_model(trained_run.folder)


def gate() -> Gate:
    evidence = torch.randn(30, 13, generator=torch.Generator().manual_seed(0))
    return Gate(initial_gate([0.8, 0.1, 0.1], evidence, 4, torch.Generator().manual_seed(0)))


def test_caches_are_loaded_exactly_by_rule_and_reset(tmp_path: Path, trained: TrainedModel) -> None:
    memory, cache = StepOptions(rule="sgd+decay", reset="article"), Cache(77, (0.25, 0.5), gate())
    store = MemoryStore(tmp_path, trained)
    store.save_fixed_cache(memory, {"window": 7, "inverse_temperature": 0.5, "share": 0.25})
    store.save_gated_cache(memory, cache, {"kept": "learned"})
    assert {path.name for path in (tmp_path / "memory").iterdir()} == {
        "cache-sgd-decay-article.json",
        "gated-cache-sgd-decay-article.json",
        "gated-cache-sgd-decay-article.safetensors",
    }
    fixed = open_cache(store, memory.replace(cache="fixed"))
    assert fixed == Cache(7, (0.5,), 0.25)
    gated = open_cache(store, memory.replace(cache="learned"))
    assert gated is not None and isinstance(gated.gate, Gate)
    assert (gated.window, gated.inverse_temperatures) == (77, (0.25, 0.5))
    assert all(torch.equal(tensor, gate().params[name]) for name, tensor in gated.gate.params.items())
    for other in (StepOptions(rule="sgd+decay"), StepOptions(rule="sgd", reset="article")):
        assert store.load_fixed_cache(other) is None
        assert store.load_gated_cache(other) is None


def test_options_override_tuned_constants(tmp_path: Path, trained: TrainedModel) -> None:
    memory = StepOptions(rule="none", cache="fixed", cache_share=0.5, cache_inverse_temperature=[2.0])
    store = MemoryStore(tmp_path, trained)
    store.save_fixed_cache(memory, {"window": 7, "inverse_temperature": 0.5, "share": 0.25})
    assert open_cache(store, memory) == Cache(7, (2.0,), 0.5)


@pytest.mark.parametrize("name", ["cache-rms-stream.json", "gated-cache-rms-stream.safetensors"])
def test_files_of_another_model_are_refused_by_name(name: str, tmp_path: Path, trained: TrainedModel) -> None:
    stranger = dataclasses.replace(trained, card={**trained.card, "fingerprint": "0" * 16})
    memory = StepOptions(cache="learned" if name.startswith("gated") else "fixed")
    theirs = MemoryStore(tmp_path, stranger)
    theirs.save_fixed_cache(memory, {"window": 7, "inverse_temperature": 0.5, "share": 0.25})
    theirs.save_gated_cache(memory, Cache(77, (0.25, 0.5), gate()), {})
    assert open_cache(theirs, memory) is not None
    with pytest.raises(UserError, match=rf"{re.escape(name)}: this belongs to another model"):
        open_cache(MemoryStore(tmp_path, trained), memory)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"cache": "fixed"}, "no memory.cache_window, and no cache tuned for rule 'none' and reset 'stream'"),
        (
            {"cache": "fixed", "cache_window": 5, "cache_inverse_temperature": [1.0]},
            "--memory.cache_share or run `dynlm tune",
        ),
        ({"cache": "learned"}, "--memory.rule none --memory.reset stream --memory.cache learned` first"),
        ({"cache": "learned", "cache_window": 5}, "memory.cache_window does not go with memory.cache learned"),
    ],
)
def test_a_missing_cache_is_reported_with_the_command_that_makes_it(
    options: dict[str, object], said: str, trained_run: Run, trained: TrainedModel
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        open_cache(MemoryStore(trained_run.folder, trained), StepOptions(rule="none", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options, said",
    [
        ({"cache": "big"}, "memory.cache is 'big'"),
        (
            {"cache": "fixed", "cache_inverse_temperature": [0.5, 1.0]},
            "cache_inverse_temperature has several numbers",
        ),
        ({"cache": "fixed", "cache_inverse_temperature": []}, "memory.cache_inverse_temperature is empty"),
        ({"cache_window": 0}, "memory.cache_window is 0"),
        ({"cache_share": 1.0}, "memory.cache_share is 1"),
        ({"rule": "none", "cache": "fixed", "lanes": 2}, "memory.lanes is 2"),
    ],
)
def test_invalid_cache_options_are_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        StepOptions(**options)  # type: ignore[arg-type]


def test_each_kind_of_cache_has_its_command(trained_run: Run) -> None:
    with pytest.raises(UserError, match=r"not tuned by hand; run `dynlm metatrain .*--memory\.cache learned`"):
        tune_cache(trained_run.folder, with_memory(trained_run.config, rule="none", cache="learned"))
    with pytest.raises(UserError, match=r"nothing to meta-train; run `dynlm tune .*--memory\.cache fixed`"):
        train_gate(trained_run.folder, with_memory(trained_run.config, rule="none", cache="fixed"))
