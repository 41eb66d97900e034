"""The search for rates: it finds known minima, measures nothing twice, and improves on level 1."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.rules.registry import Search
from dynlm.data.articles import load_articles
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.run.folder import load_model
from dynlm.run.opening import open_dynamic_model
from dynlm.train.tune import coordinate_search
from tests.tiny import Run, listing, tiny_config, with_memory
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

    best, value, count = coordinate_search(bowl, searched(lr=0.1, decay=1e-3, epsilon=1e-3), rounds=1)
    for name in bottom:
        assert abs(math.log(best[name] / bottom[name])) <= 0.52 * math.log(FACTOR[name])
    assert value == bowl(best)
    assert len(set(measured)) == count == len(measured) - 1


def test_search_without_rounds_stays_at_the_start() -> None:
    assert coordinate_search(lambda setting: setting["lr"], searched(lr=0.3), rounds=0) == ({"lr": 0.3}, 0.3, 1)


def test_search_ignores_small_differences() -> None:
    start = {"lr": 0.3, "decay": 1e-3}
    assert coordinate_search(lambda setting: 1e-5 * setting["lr"], searched(**start), rounds=2)[0] == start


def test_search_turns_round_at_non_finite_values() -> None:
    """Too large a rate diverges; the search then turns round."""
    best, _, _ = coordinate_search(lambda s: math.nan if s["lr"] > 0.4 else s["lr"], searched(lr=0.3), rounds=1)
    assert best["lr"] < 0.3


def test_a_non_finite_start_is_left_or_refused() -> None:
    best, value, _ = coordinate_search(lambda s: math.nan if s["lr"] > 0.25 else s["lr"], searched(lr=0.3), rounds=1)
    assert best["lr"] < 0.25 and math.isfinite(value)
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
