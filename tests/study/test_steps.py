"""Steps before a reading: done once, repeated where options changed, refused where they conflict."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.run.run import Run
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.steps import Budget, Prepared, Step, check_slots, prepare, steps_of
from dynlm.study.variants import variants_of


def run_in(folder: Path) -> Any:
    return SimpleNamespace(path=folder, fingerprint="model", trained=None)


class Slots:
    """Slots of a run that steps fill, and the order in which they were."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.filled: list[str] = []

    def step(self, slot: str, value: float, **options: Any) -> Step:
        def find(quiet: bool) -> None:
            self.held[slot] = {"rate": value}
            self.filled.append(slot)

        return Step(slot, options, find, lambda: self.held.get(slot), lambda held: Budget(3, 10))


def test_a_slot_is_filled_again_only_if_its_options_changed(tmp_path: Path):
    slots = Slots()
    first, second = slots.step("R", 1.0, tokens=5), slots.step("rms", 0.1, tokens=7)
    prepared = prepare(run_in(tmp_path), [first, second], True, {})
    assert [each.held for each in prepared] == [{"rate": 1.0}, {"rate": 0.1}]
    message: list[str] = []
    assert prepare(run_in(tmp_path), [first, second], True, {}, message.append) == prepared
    assert message == ["reused: R", "reused: rms"]
    assert slots.filled == ["R", "rms"]
    prepare(run_in(tmp_path), [first, slots.step("rms", 0.1, tokens=8)], True, {})
    assert slots.filled == ["R", "rms", "rms"]


def test_a_changed_slot_invalidates_the_later_ones(tmp_path: Path):
    slots = Slots()
    prepare(run_in(tmp_path), [slots.step("rms", 0.1), slots.step("g", 0.5)], True, {})
    prepare(run_in(tmp_path), [slots.step("rms", 0.2, rounds=2), slots.step("g", 0.5)], True, {})
    assert slots.filled == ["rms", "g", "rms", "g"]


def test_a_slot_filled_by_another_command_is_filled_again(tmp_path: Path):
    slots = Slots()
    prepare(run_in(tmp_path), [slots.step("rms", 0.1)], True, {})
    slots.held["rms"] = {"rate": 9.0}
    (prepared,) = prepare(run_in(tmp_path), [slots.step("rms", 0.1)], True, {})
    assert prepared.held == {"rate": 0.1}


def test_a_shared_slot_is_filled_once(tmp_path: Path):
    slots, message, filled = Slots(), list[str](), dict[str, Prepared]()
    for _ in range(2):
        (prepared,) = prepare(run_in(tmp_path), [slots.step("rms", 0.1)], True, filled, message.append)
    assert (message, slots.filled, filled) == (["finding rms"], ["rms"], {"rms": prepared})


def test_without_find_slots_are_used_as_they_are(tmp_path: Path):
    slots = Slots()
    slots.held["rms"] = {"rate": 9.0}
    (prepared,) = prepare(run_in(tmp_path), [slots.step("rms", 0.1)], False, {})
    assert (prepared.held, prepared.budget) == ({"rate": 9.0}, Budget(3, 10))
    with pytest.raises(UserError, match="it holds no g under stream"):
        prepare(run_in(tmp_path), [slots.step("g under stream", 0.1)], False, {})
    assert not slots.filled
    assert not list(tmp_path.iterdir())


def slots_of(tmp_path: Path, variants: list[dict[str, Any]]) -> dict[str, list[Step]]:
    asked = StudyOptions(study=StudyConfig(variants=variants, baselines=[], pairs=[]))
    run = Run(tmp_path, {}).with_sections(*vars(asked.run_options()).values())
    return {variant.name: steps_of(run, variant, "stream") for variant in variants_of(asked)}


def test_each_rule_names_what_it_needs_in_order(tmp_path: Path):
    variants = [{"name": rule, "memory": {"rule": rule}} for rule in ("none", "sgd", "rms", "meta")]
    variants.append({"name": "given", "memory": {"rule": "sgd", "lr": 0.1}})
    variants.append({"name": "adam-g", "memory": {"rule": "meta"}, "g": {"base": "adam"}})
    steps = slots_of(tmp_path, variants)
    statistics, rms = "gradient statistics R", "the rates of rms under stream"
    assert {name: [step.slot for step in each] for name, each in steps.items()} == {
        "none": [],
        "sgd": ["the rates of sgd under stream"],
        "rms": [statistics, rms],
        "meta": [statistics, rms, "g (meta) under stream"],
        "given": [],
        "adam-g": ["the rates of adam under stream", "g (adam-g) under stream"],
    }
    check_slots(steps)
    assert json.dumps([step.options for step in steps["meta"]])


def test_each_kind_of_statistics_has_a_slot_of_its_own(tmp_path: Path):
    rules = ("rms", "rms+reset", "rms+slow", "rms+online", "rms-batch")
    variants = [{"name": rule, "memory": {"rule": rule}} for rule in rules]
    variants.append({"name": "published", "memory": {"rule": "rms-batch", "segment": 5, "lr": 1.0, "decay": 0.0}})
    variants[-1]["memory"]["epsilon"] = 2e-5
    steps = slots_of(tmp_path, variants)
    shared, batches = "gradient statistics R", "gradient statistics R of batches of 100 x {} tokens"
    assert {name: [step.slot for step in each] for name, each in steps.items()} == {
        **{rule: [shared, f"the rates of {rule} under stream"] for rule in rules[:4]},
        "rms-batch": [batches.format(20), "the rates of rms-batch under stream"],
        "published": [batches.format(5)],
    }
    check_slots(steps)
    assert [steps[name][0].options["segment"] for name in ("rms", "rms-batch", "published")] == [20, 20, 5]
    assert steps["rms-batch"][1].options["memory.statistics_lanes"] == 100


def test_seconds_of_a_step_decide_nothing(tmp_path: Path):
    slots = Slots()
    steps = [slots.step("rms", 0.1), slots.step("g", 0.5)]
    prepare(run_in(tmp_path), steps, True, {})
    slots.held["rms"]["seconds"] = 7.0
    first, _ = prepare(run_in(tmp_path), steps, True, {})
    assert (slots.filled, first.held) == (["rms", "g"], {"rate": 0.1, "seconds": 7.0})


def test_variants_with_the_same_rule_share_its_slots(tmp_path: Path):
    variants = [
        {"name": "a", "memory": {"rule": "meta"}},
        {"name": "b", "memory": {"rule": "meta", "g": "a", "track": True}},
    ]
    steps = slots_of(tmp_path, variants)
    check_slots(steps)
    assert steps["a"][-1].slot == steps["b"][-1].slot == "g (a) under stream"


def test_a_variant_that_reads_articles_as_one_text_has_slots_of_its_own(tmp_path: Path):
    joined = {"article_boundaries": False}
    variants = [
        {"name": "rms", "memory": {"rule": "rms", "cache": "learned"}},
        {"name": "joined", "memory": {"rule": "rms", "cache": "learned", **joined}},
        {"name": "joined g", "memory": {"rule": "meta", **joined}},
    ]
    steps = slots_of(tmp_path, variants)
    check_slots(steps)
    statistics = "gradient statistics R"
    assert [step.slot for step in steps["joined"]] == [
        statistics,
        "the rates of rms under stream-joined",
        "the cache beside rms under stream-joined",
        "the gate of the cache beside rms under stream-joined",
    ]
    assert [step.slot for step in steps["joined g"]] == [
        statistics,
        "the rates of rms under stream-joined",
        "g (joined-g) under stream",
    ]
    (learned,) = (step for step in steps["joined g"] if step.slot.startswith("g "))
    assert learned.options["memory.article_boundaries"] is False
    assert "memory.article_boundaries" not in steps["rms"][1].options


def test_two_variants_with_different_options_for_one_slot_are_refused(tmp_path: Path):
    variants = [{"name": "a", "memory": {"rule": "rms"}}, {"name": "b", "memory": {"rule": "rms", "segment": 5}}]
    with pytest.raises(UserError) as error:
        check_slots(slots_of(tmp_path, variants))
    message = "variants 'a' and 'b' need the rates of rms under stream found with different memory.segment; give one of"
    assert (
        str(error.value)
        == f"{message} them its constants (memory: {{lr: ..., decay: ..., epsilon: ...}}), or use two runs"
    )
    # What the message says helps.
    given = {"rule": "rms", "segment": 5, "lr": 1e-3, "decay": 1e-3, "epsilon": 1e-3}
    check_slots(slots_of(tmp_path, [variants[0], {"name": "b", "memory": given}]))


@pytest.mark.parametrize("option, memory", [("g", {"rule": "meta"}), ("gate", {"rule": "none", "cache": "learned"})])
def test_what_is_learned_is_told_apart_by_a_name(tmp_path: Path, option: str, memory: dict[str, Any]):
    first: dict[str, Any] = {"name": "a", "memory": {**memory, "g": "one"}}
    second = {"name": "b", "memory": {**memory, "g": "one"}, "metatrain": {"tokens": 7}}
    with pytest.raises(UserError, match=rf"different metatrain.tokens; .*\(memory: \{{{option}: NAME\}}\)"):
        check_slots(slots_of(tmp_path, [first, second]))
    second["memory"][option] = "two"
    check_slots(slots_of(tmp_path, [first, second]))
