"""Steps before a reading are done once, and repeated where options changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.study.budget import Budget
from dynlm.study.prepare import Prepared, Step, prepare


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


def test_seconds_of_a_step_decide_nothing(tmp_path: Path):
    slots = Slots()
    steps = [slots.step("rms", 0.1), slots.step("g", 0.5)]
    prepare(run_in(tmp_path), steps, True, {})
    slots.held["rms"]["seconds"] = 7.0
    first, _ = prepare(run_in(tmp_path), steps, True, {})
    assert (slots.filled, first.held) == (["rms", "g"], {"rate": 0.1, "seconds": 7.0})
