"""The search for rates: it finds known minima, measures nothing twice, and improves on level 1."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.rules.registry import RULES, Search, tuned_rules
from dynlm.data.articles import load_articles
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.evaluation.checks.protocol import check_every_rule
from dynlm.run.folder import load_model
from dynlm.run.opening import open_dynamic_model
from dynlm.run.sharing import share_run
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.train.tune import Found, coordinate_search
from tests.tiny import Run, listing, opened, tiny_config, with_memory
from tests.trainings import train_gate, tune, tune_cache, tuning_stream

FACTOR = {"lr": 1.6, "decay": 3.0, "epsilon": 4.0}


def searched(**start: float) -> dict[str, Search]:
    return {name: Search(value, FACTOR[name]) for name, value in start.items()}


@given(rate=st.floats(1e-4, 10), pull=st.floats(1e-5, 0.5), epsilon=st.floats(1e-5, 0.1))
@settings(max_examples=50, deadline=None)
def test_search_finds_the_minimum_of_a_bowl(rate: float, pull: float, epsilon: float) -> None:
    """Where the options do not interact, one round ends within one step of the lowest point of each."""
    bottom = {"lr": rate, "decay": pull, "epsilon": epsilon}
    measured: list[tuple[float, ...]] = []

    def bowl(setting: dict[str, float]) -> float:
        measured.append(tuple(setting.values()))
        return 2.0 + sum(math.log(setting[name] / bottom[name]) ** 2 for name in bottom)

    best, value, count, _ = coordinate_search(bowl, searched(lr=0.1, decay=1e-3, epsilon=1e-3), rounds=1)
    for name in bottom:
        assert abs(math.log(best[name] / bottom[name])) <= 0.52 * math.log(FACTOR[name])
    assert value == bowl(best)
    assert len(set(measured)) == count == len(measured) - 1


@given(bottom=st.floats(0.01, 3), start=st.floats(0.01, 1), low=st.floats(0, 0.01), factor=st.floats(1.2, 4.0))
@settings(max_examples=100, deadline=None)
def test_search_stays_within_its_bounds(bottom: float, start: float, low: float, factor: float) -> None:
    """Where the lowest point is beyond a bound it ends at the bound, else within a step of it."""
    measured: list[float] = []

    def bowl(setting: dict[str, float]) -> float:
        measured.append(setting["share"])
        return abs(math.log(setting["share"] / bottom))

    found = coordinate_search(bowl, {"share": Search(start, factor, low, 1.0)}, rounds=1)
    assert all(low <= share <= 1 for share in measured)
    share = found.constants["share"]
    assert share > 0.999 if bottom >= 1 else abs(math.log(share / bottom)) <= 0.52 * math.log(factor) + 1e-3


@pytest.mark.parametrize(
    "lowest, found, measured",
    [(5.0, 1.0, [0.5, 0.75, 1.0]), (0.2, 0.2222, [0.5, 0.75, 0.3333, 0.2222, 0.1481])],
    ids=["beyond a bound", "within"],
)
def test_search_tries_the_bound_and_no_more(lowest: float, found: float, measured: list[float]) -> None:
    tried: list[float] = []

    def value(setting: dict[str, float]) -> float:
        tried.append(setting["share"])
        return abs(setting["share"] - lowest)

    best = coordinate_search(value, {"share": Search(0.5, 1.5, 0.0, 1.0)}, rounds=2).constants
    assert (best["share"], tried[: len(measured)]) == (found, measured)
    assert len(tried) == len(set(tried)) and max(tried) <= 1


def test_what_is_searched_starts_and_stays_within_the_bounds_of_its_option() -> None:
    for rule in tuned_rules():
        options = {item.name: item for item in dataclasses.fields(RULES[rule].options)}
        for name, search in RULES[rule].searches().items():
            assert (search.low, search.high) == options[name].metadata["bounds"], (rule, name)
            assert search.low < search.start < search.high and search.start > 0 and search.factor > 1
    shares = RULES["rms+slow"].searches()
    assert [shares[name][2:] for name in ("boundary_reset", "slow_rate")] == [(0, 1), (0, 1)]


def test_search_without_rounds_stays_at_the_start() -> None:
    found = coordinate_search(lambda setting: setting["lr"], searched(lr=0.3), rounds=0)
    assert found[:3] == ({"lr": 0.3}, 0.3, 1)


def test_search_counts_the_seconds_of_all_its_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that was being measured when the search was killed counts where it is measured again."""
    now, search, checkpoints = 0.0, {"lr": Search(1.0, 2.0)}, Checkpoints(tmp_path, "tune")
    monkeypatch.setattr("dynlm.train.tune.time.monotonic", lambda: now)

    def measure(setting: dict[str, float], killed_at: float) -> float:
        nonlocal now
        now += setting["lr"]
        if setting["lr"] == killed_at:
            raise KeyboardInterrupt
        return (setting["lr"] - 2) ** 2

    with pytest.raises(KeyboardInterrupt):
        coordinate_search(lambda setting: measure(setting, killed_at=4.0), search, 1, checkpoints)
    now += 100.0  # Between two sittings.
    found = coordinate_search(lambda setting: measure(setting, killed_at=0.0), search, 1, checkpoints)
    assert found == Found({"lr": 2.0}, 0.0, settings=3, seconds=7.0)


def test_search_ignores_small_differences() -> None:
    start = {"lr": 0.3, "decay": 1e-3}
    assert coordinate_search(lambda setting: 1e-5 * setting["lr"], searched(**start), rounds=2).constants == start


def test_search_turns_round_at_non_finite_values() -> None:
    """Too large a rate diverges; the search then turns round."""
    found = coordinate_search(lambda s: math.nan if s["lr"] > 0.4 else s["lr"], searched(lr=0.3), rounds=1)
    assert found.constants["lr"] < 0.3


def test_a_non_finite_start_is_left_or_refused() -> None:
    found = coordinate_search(lambda s: math.nan if s["lr"] > 0.25 else s["lr"], searched(lr=0.3), rounds=1)
    assert found.constants["lr"] < 0.25 and math.isfinite(found.value)
    with pytest.raises(UserError, match="no setting near lr 0.3 gives finite losses"):
        coordinate_search(lambda s: math.nan, searched(lr=0.3), rounds=1)


@pytest.mark.parametrize("rule", ["sgd", "rms"])
@pytest.mark.parametrize("reset", ["stream", "article"])
def test_tuned_rates_gain_over_level_1(tuned_run: Run, rule: str, reset: str) -> None:
    tuned = json.loads((tuned_run.folder / "memory" / "tuned.json").read_text())[rule][reset]
    assert tuned["nats_per_token"] < tuned["level_1_nats_per_token"] - 0.02
    config = with_memory(tuned_run.config, rule=rule, reset=reset)
    trained = load_model(tuned_run.folder)
    stream = tuning_stream(tuned_run.folder, config, config.tune.tokens)
    assert tuned["articles"] == [index + 1 for index in stream.order]
    for name, memory in (
        ("nats_per_token", config.memory),
        ("level_1_nats_per_token", with_memory(config, rule="none").memory),
    ):
        assert mean_nats(open_dynamic_model(tuned_run.folder, trained, memory), stream) == pytest.approx(
            tuned[name], abs=1e-6
        )


@pytest.mark.parametrize("rule", ["rms+reset", "rms+slow", "rms-batch"])
def test_rules_made_of_rms_are_tuned_and_read_as_tuned(tuned_run: Run, tmp_path: Path, rule: str) -> None:
    shutil.copytree(tuned_run.folder, folder := tmp_path / "tiny")
    before = listing(folder / "memory")
    own = {"statistics_lanes": 7, "segment": 10} if rule == "rms-batch" else {}
    config = with_memory(tuned_run.config, rule=rule, **own)
    tuned = tune(folder, config)
    assert tuned["nats_per_token"] < tuned["level_1_nats_per_token"] - 0.02
    assert tuned["seconds"] > 0 and tuned["settings"] > tuned["parameters"] == len(RULES[rule].searched)
    assert all(tuned[name] == value for name, value in own.items())
    stream = tuning_stream(folder, config, config.tune.tokens)
    nats = mean_nats(open_dynamic_model(folder, load_model(folder), config.memory), stream)
    assert nats == pytest.approx(tuned["nats_per_token"], abs=1e-6)
    # Of what was there only the file of tuned constants changed.
    files = listing(folder / "memory")
    added = {"statistics-7x10.safetensors"} if rule == "rms-batch" else set()
    assert files.keys() - before.keys() == added
    assert {name for name in before if before[name] != files[name]} == {"tuned.json"}


def test_statistics_of_batches_belong_to_a_segment(run_copy: Run) -> None:
    config = with_memory(run_copy.config, rule="rms-batch", statistics_lanes=7, segment=10)
    tune(run_copy.folder, dataclasses.replace(config, tune=dataclasses.replace(config.tune, rounds=0)))
    trained = load_model(run_copy.folder)
    options = with_memory(config, segment=20).memory
    with pytest.raises(UserError, match=r"no .* of batches of 7 x 20 tokens yet; choose --memory\.segment 10, which"):
        open_dynamic_model(run_copy.folder, trained, options)
    checks = check_every_rule(opened(run_copy.folder, run_copy.config), "test", places=4, tokens=30)
    assert any(check.promise.startswith("rms-batch") for check in checks) and all(check.kept for check in checks)
    share_run(run_copy.folder, shared := run_copy.folder.parent / "shared")
    stream = tuning_stream(run_copy.folder, config, 100)
    models = [open_dynamic_model(folder, trained, config.memory) for folder in (shared, run_copy.folder)]
    assert len({mean_nats(model, stream) for model in models}) == 1


def test_too_little_text_for_a_batch_is_refused(run_copy: Run) -> None:
    before = listing(run_copy.folder)
    with pytest.raises(UserError, match=r"fewer than a batch of memory\.statistics_lanes 1000 sequences"):
        tune(run_copy.folder, with_memory(run_copy.config, rule="rms-batch", statistics_lanes=1000))
    assert listing(run_copy.folder) == before


def test_tuning_starts_at_given_constants(run_copy: Run) -> None:
    config = with_memory(run_copy.config, rule="sgd+decay", lr=0.05, decay=0.25)
    config.tune.rounds = 0
    try:
        tuned = tune(run_copy.folder, config)
    finally:
        config.tune.rounds = 1
    assert (tuned["lr"], tuned["decay"], tuned["settings"]) == (0.05, 0.25, 1)
    assert json.loads((run_copy.folder / "memory" / "tuned.json").read_text())["sgd+decay"]["stream"]["decay"] == 0.25


@pytest.mark.parametrize("rule", ["none", "meta"])
def test_rules_without_tuned_constants_are_refused(trained_run: Run, rule: str) -> None:
    with pytest.raises(UserError, match=f"'{rule}' is not tuned by hand; choose .*sgd"):
        tune(trained_run.folder, with_memory(trained_run.config, rule=rule))


def test_tuning_reads_the_named_articles(trained_run: Run) -> None:
    trained = load_model(trained_run.folder)
    valid = tokenise(load_articles(trained_run.config.corpus, "valid"), trained.tokenizer)
    total = len(valid.ids_N)

    def order(articles: str, tokens: int) -> list[int]:
        config = tiny_config(trained_run.corpus, trained_run.folder, tune={"articles": articles})
        return list(tuning_stream(trained_run.folder, config, tokens).order)

    assert order("2-4", 0) == [1, 2, 3]
    assert order("all", total) == [0, 1, 2, 3, 4, 5]
    assert order("all", total // 2) == [0, 2, 4]
    assert order("3-6", 1) == [2]
    with pytest.raises(UserError, match=r"tune\.articles is '5-7' but there are 6"):
        order("5-7", 0)


def test_too_few_tokens_to_tune_on_are_refused(trained_run: Run, run_copy: Run) -> None:
    def tokens(**options: Any) -> int:
        config = tiny_config(run_copy.corpus, run_copy.folder.parent, tune={"rounds": 0, **options})
        return int(tune(run_copy.folder, with_memory(config, rule="sgd"))["tokens"])

    few = tokens(tokens=100, fewest_tokens=50)
    # Widened to all that are named.
    assert tokens(tokens=100, fewest_tokens=few + 1) == tokens(tokens=0) > few
    before = listing(run_copy.folder)
    with pytest.raises(UserError, match=r"the tuning articles have [\d,]+ tokens, .*tune\.fewest_tokens"):
        tokens(fewest_tokens=2000)
    config = tiny_config(run_copy.corpus, run_copy.folder.parent, tune={"fewest_tokens": 2000})
    for cache in ("fixed", "learned"):
        with pytest.raises(UserError, match=r"the tuning articles have [\d,]+ tokens, .*tune\.fewest_tokens"):
            verb = tune_cache if cache == "fixed" else train_gate
            verb(run_copy.folder, with_memory(config, rule="none", cache=cache))
    assert listing(run_copy.folder) == before
