"""The model that a run's options open: with what was tuned or learned, or an error that says what is missing."""

from __future__ import annotations

import re

import pytest

from dynlm.adapt.options import LearnedStepOptions, MemoryOptions, StepOptions
from dynlm.adapt.partners.replay import Replay
from dynlm.adapt.rules.elementwise import LEVEL_1, Rates
from dynlm.adapt.rules.merged import MergedRule
from dynlm.adapt.rules.used_rows import UsedRowsRule
from dynlm.errors import UserError
from dynlm.run.folder import TrainedModel, load_model
from dynlm.run.memory_store import MemoryStore
from dynlm.run.opening import open_dynamic_model
from dynlm.runtime.validation import section_of
from tests.tiny import Run

NAMES = ("embedding", "lstm.0.input", "lstm.0.recurrent", "lstm.0.bias", "output.bias")


@pytest.fixture(scope="module")
def trained(trained_run: Run) -> TrainedModel:
    return load_model(trained_run.folder)


def test_options_go_before_tuned_rates(tuned_run: Run, trained: TrainedModel) -> None:
    tuned = MemoryStore(tuned_run.folder, trained).load_tuned("rms", "stream")
    assert tuned is not None
    as_tuned = open_dynamic_model(tuned_run.folder, trained, StepOptions())
    assert set(as_tuned.rule.rates.values()) == {Rates(tuned["lr"], tuned["decay"])}
    given = open_dynamic_model(tuned_run.folder, trained, StepOptions(lr=0.25))
    assert set(given.rule.rates.values()) == {Rates(0.25, tuned["decay"])}
    zero = open_dynamic_model(tuned_run.folder, trained, StepOptions(lr=0.0, decay=0.0))
    assert set(zero.rule.rates.values()) == {Rates(0.0, 0.0)}


def test_a_learned_rule_can_be_given_decays_that_move(tuned_run: Run, trained: TrainedModel) -> None:
    learned = open_dynamic_model(tuned_run.folder, trained, LearnedStepOptions(rule="meta")).rule
    moving = open_dynamic_model(tuned_run.folder, trained, LearnedStepOptions(rule="meta", decay_step=0.05)).rule
    assert (learned.decay_step, moving.decay_step, moving.rates) == (0.0, 0.05, learned.rates)
    assert "decay_sensitivity" in moving.slots


def test_a_learned_rule_can_be_given_replay(tuned_run: Run, trained: TrainedModel) -> None:
    plain, replaying = (
        open_dynamic_model(tuned_run.folder, trained, LearnedStepOptions(rule="meta", replay_rate=rate))
        for rate in (None, 0.4)
    )
    assert plain.replay is None and plain.rule.replay_rate == 0.0
    assert (replaying.rule.replay_rate, replaying.replay) == (0.4, Replay(0.4, StepOptions().segment))


def test_a_tuned_rate_is_not_used_beside_other_moments(tuned_copy: Run, trained: TrainedModel) -> None:
    store = MemoryStore(tuned_copy.folder, trained)
    store.save_tuned("adam", "stream", {"lr": 0.01, "beta1": 0.5, "beta2": 0.99, "decay": 0.0})
    default = MemoryOptions.select({"rule": "adam"})(rule="adam")
    with pytest.raises(UserError, match=r"memory\.lr was tuned with memory\.beta1 0\.5, and memory\.beta1 is 0\.9"):
        open_dynamic_model(tuned_copy.folder, trained, default)
    same = open_dynamic_model(tuned_copy.folder, trained, default.replace(beta1=0.5))
    assert set(same.rule.rates.values()) == {Rates(0.01, 0.0)}
    assert open_dynamic_model(tuned_copy.folder, trained, default.replace(lr=0.02)).rule.moments.beta1 == 0.9


def test_only_the_tensors_named_move(tuned_run: Run, trained: TrainedModel) -> None:
    for rule in ("sgd", "rms", "meta"):
        dynamic_model = open_dynamic_model(
            tuned_run.folder, trained, StepOptions().replace(rule=rule, targets=["lstm.*", "output.bias"])
        )
        assert tuple(dynamic_model.rule.rates) == NAMES[1:]
        assert tuple(dynamic_model.fresh_memory().params) == NAMES[1:]
    with pytest.raises(UserError, match=r"memory\.targets has 'decoder'"):
        open_dynamic_model(tuned_run.folder, trained, StepOptions(targets=["decoder"]))


def test_updates_are_merged_for_rules_and_models_that_can(tuned_run: Run, trained: TrainedModel) -> None:
    merged = open_dynamic_model(tuned_run.folder, trained, StepOptions(merge_every=3))
    assert isinstance(merged.rule, MergedRule)
    assert (merged.rule.matrix, merged.rule.segments) == ("embedding", 3)
    assert open_dynamic_model(tuned_run.folder, trained, StepOptions(rule="none", merge_every=3)).rule == LEVEL_1
    others = StepOptions(targets=["lstm.*"], merge_every=3)
    assert not isinstance(open_dynamic_model(tuned_run.folder, trained, others).rule, MergedRule)
    with pytest.raises(UserError, match=r"memory\.merge_every does not go with memory.precision"):
        open_dynamic_model(tuned_run.folder, trained, StepOptions(precision="bfloat16", merge_every=3))
    adam = MemoryOptions.select({"rule": "adam"})(rule="adam", lr=0.1, merge_every=3)
    with pytest.raises(UserError, match=r"memory\.merge_every does not go with memory.rule 'adam'"):
        open_dynamic_model(tuned_run.folder, trained, adam)


def test_used_rows_are_held_beside_the_matrix(tuned_run: Run, trained: TrainedModel) -> None:
    chosen = open_dynamic_model(tuned_run.folder, trained, StepOptions(used_rows=100))
    assert isinstance(chosen.rule, UsedRowsRule)
    assert (chosen.rule.matrix, chosen.rule.places) == ("embedding", 100)
    assert tuple(chosen.fresh_memory().params) == NAMES[1:]
    assert open_dynamic_model(tuned_run.folder, trained, StepOptions(rule="none", used_rows=100)).rule == LEVEL_1
    for options, what in (
        ({"merge_every": 4}, "memory.merge_every and memory.used_rows exclude each other"),
        ({"used_rows": 5}, "memory.used_rows is 5, and a segment's inputs and targets may be "),
        ({"targets": ["embedding"]}, "memory.used_rows needs another tensor that moves beside 'embedding'"),
        ({"precision": "bfloat16"}, "memory.used_rows does not go with memory.precision 'bfloat16'"),
    ):
        with pytest.raises(UserError, match=re.escape(what)):
            open_dynamic_model(tuned_run.folder, trained, StepOptions(**{"used_rows": 100, **options}))


def test_level_1_needs_nothing(trained_run: Run, trained: TrainedModel) -> None:
    assert open_dynamic_model(trained_run.folder, trained, StepOptions(rule="none")).rule == LEVEL_1


@pytest.mark.parametrize(
    "options, said",
    [
        ({"rule": "sgd"}, "sgd has no memory.lr and was not tuned"),
        ({"rule": "sgd", "lora_rank": 2}, "--memory.rule sgd --memory.reset stream --memory.lora_rank 2` first"),
        ({"rule": "sgd+decay", "lr": 0.1}, "has no memory.decay"),
        ({"rule": "rms", "lr": 0.1, "decay": 0.1}, "has no memory.epsilon"),
        ({"rule": "rms", "lr": 0.1, "decay": 0.1, "epsilon": 0.1}, "no gradient statistics R yet"),
        ({"rule": "meta"}, "no learned memory 'meta' for reset 'stream'"),
        ({"rule": "meta", "lr": 0.1}, "memory.lr does not go with memory.rule meta"),
    ],
)
def test_what_is_missing_is_said_with_the_way_to_it(
    options: dict[str, object], said: str, trained_run: Run, trained: TrainedModel
) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        open_dynamic_model(trained_run.folder, trained, section_of(MemoryOptions, options))


@pytest.mark.parametrize("name", ["statistics.safetensors", "tuned.json", "meta-stream.safetensors"])
def test_a_file_cut_short_is_named(name: str, tuned_copy: Run, trained: TrainedModel) -> None:
    path = tuned_copy.folder / "memory" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    rule = "meta" if name.startswith("meta") else "rms"
    with pytest.raises(UserError, match=re.escape(name)):
        open_dynamic_model(tuned_copy.folder, trained, StepOptions().replace(rule=rule))
