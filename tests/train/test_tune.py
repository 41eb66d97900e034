"""Tuned rates: they improve on level 1, read as they were measured, and are found on the articles that are named."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dynlm.adapt.loop import mean_nats
from dynlm.adapt.rules.registry import RULES
from dynlm.data.articles import load_articles
from dynlm.data.token_store import tokenise
from dynlm.errors import UserError
from dynlm.evaluation.checks.protocol import check_every_rule
from dynlm.run.folder import load_model
from dynlm.run.opening import open_dynamic_model
from dynlm.run.sharing import share_run
from tests.tiny import Run, listing, opened, tiny_config, with_memory
from tests.trainings import train_gate, tune, tune_cache, tuning_stream


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


@pytest.mark.parametrize("rule", ["rms+reset", "rms+slow", "rms+online", "rms+replay", "rms-batch"])
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
