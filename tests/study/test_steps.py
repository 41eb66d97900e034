"""Steps before a reading: done once, done again where their options changed, and refused where they would collide."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynlm.errors import UserError
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


def test_what_was_found_is_not_found_again_until_its_options_change(tmp_path: Path):
    slots = Slots()
    first, second = slots.step("R", 1.0, tokens=5), slots.step("rms", 0.1, tokens=7)
    prepared = prepare(run_in(tmp_path), [first, second], True, {})
    assert [each.held for each in prepared] == [{"rate": 1.0}, {"rate": 0.1}]
    said: list[str] = []
    assert prepare(run_in(tmp_path), [first, second], True, {}, said.append) == prepared
    assert said == ["reused: R", "reused: rms"]
    assert slots.filled == ["R", "rms"]
    prepare(run_in(tmp_path), [first, slots.step("rms", 0.1, tokens=8)], True, {})
    assert slots.filled == ["R", "rms", "rms"]


def test_what_rests_on_a_step_that_found_something_else_is_found_anew(tmp_path: Path):
    slots = Slots()
    prepare(run_in(tmp_path), [slots.step("rms", 0.1), slots.step("g", 0.5)], True, {})
    prepare(run_in(tmp_path), [slots.step("rms", 0.2, rounds=2), slots.step("g", 0.5)], True, {})
    assert slots.filled == ["rms", "g", "rms", "g"]


def test_what_another_command_put_into_a_slot_is_not_taken_for_the_studys_own(tmp_path: Path):
    slots = Slots()
    prepare(run_in(tmp_path), [slots.step("rms", 0.1)], True, {})
    slots.held["rms"] = {"rate": 9.0}
    (prepared,) = prepare(run_in(tmp_path), [slots.step("rms", 0.1)], True, {})
    assert prepared.held == {"rate": 0.1}


def test_a_slot_that_variants_share_is_seen_to_once(tmp_path: Path):
    slots, said, filled = Slots(), list[str](), dict[str, Prepared]()
    for _ in range(2):
        (prepared,) = prepare(run_in(tmp_path), [slots.step("rms", 0.1)], True, filled, said.append)
    assert (said, slots.filled, filled) == (["finding rms"], ["rms"], {"rms": prepared})


def test_without_finding_slots_are_taken_as_they_are(tmp_path: Path):
    slots = Slots()
    slots.held["rms"] = {"rate": 9.0}
    (prepared,) = prepare(run_in(tmp_path), [slots.step("rms", 0.1)], False, {})
    assert (prepared.held, prepared.budget) == ({"rate": 9.0}, Budget(3, 10))
    with pytest.raises(UserError, match="it holds no g under stream"):
        prepare(run_in(tmp_path), [slots.step("g under stream", 0.1)], False, {})
    assert not slots.filled
    assert not list(tmp_path.iterdir())


def slots_of(tmp_path: Path, variants: list[dict[str, Any]]) -> dict[str, list[Step]]:
    asked = StudyOptions(study=StudyConfig(arms=variants, baselines=[], pairs=[]))
    return {
        variant.name: steps_of(run_in(tmp_path), asked.run_options(), variant, "stream")
        for variant in variants_of(asked)
    }


def test_each_rule_names_what_it_needs_in_order(tmp_path: Path):
    variants = [{"name": rule, "memory": {"rule": rule}} for rule in ("none", "sgd", "rms", "meta")]
    variants.append({"name": "given", "memory": {"rule": "sgd", "rate": 0.1}})
    steps = slots_of(tmp_path, variants)
    statistics, rms = "gradient statistics R", "the rates of rms under stream"
    assert {name: [step.slot for step in each] for name, each in steps.items()} == {
        "none": [],
        "sgd": ["the rates of sgd under stream"],
        "rms": [statistics, rms],
        "meta": [statistics, rms, "g (meta) under stream"],
        "given": [],
    }
    check_slots(steps)
    assert json.dumps([step.options for step in steps["meta"]])


def test_variants_that_differ_in_more_than_their_weights_share_what_moves_them(tmp_path: Path):
    variants = [
        {"name": "a", "memory": {"rule": "meta"}},
        {"name": "b", "memory": {"rule": "meta", "g": "a", "track": True}},
    ]
    steps = slots_of(tmp_path, variants)
    check_slots(steps)
    assert steps["a"][-1].slot == steps["b"][-1].slot == "g (a) under stream"


def test_two_variants_may_not_fill_one_slot_with_different_things(tmp_path: Path):
    variants = [{"name": "a", "memory": {"rule": "rms"}}, {"name": "b", "memory": {"rule": "rms", "segment": 5}}]
    with pytest.raises(UserError, match="variants 'a' and 'b' need the rates of rms under stream"):
        check_slots(slots_of(tmp_path, variants))
