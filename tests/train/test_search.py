"""The search for constants: it finds known minima, reads nothing twice, and stops what is clearly worse early."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.adapt.rules.registry import RULES, Search, tuned_rules
from dynlm.errors import UserError
from dynlm.runtime.checkpoints import Checkpoints, State
from dynlm.train.search import Found, Method, Part, Race, Tried, coordinate_search, is_better, part_tokens

FACTOR = {"lr": 1.6, "decay": 3.0, "epsilon": 4.0}
PARTS, TOKENS = 20, 100
Measure = Callable[[Mapping[str, float]], float]


class Curve:
    """A made-up reading: part ``k`` of a setting costs ``nats(setting, k)`` per token; its state is a tensor."""

    def __init__(
        self, setting: Mapping[str, float], nats: Callable[[Mapping[str, float], int], float], read: list[str]
    ):
        self.setting, self.nats, self.read, self.part = dict(setting), nats, read, torch.zeros(1)

    def read_part(self) -> Part:
        index = int(self.part)
        nats = self.nats(self.setting, index)
        self.part += 1
        self.read.append(f"{self.setting}:{index}")
        return Part(TOKENS * nats, TOKENS)

    def state_dict(self) -> State:
        return State({"part": self.part.clone()}, {"part": int(self.part)})

    def load_state_dict(self, state: State) -> None:
        self.part = state.tensors["part"].clone()
        assert int(self.part) == state.values["part"]


def searched(**start: float) -> dict[str, Search]:
    return {name: Search(value, FACTOR[name]) for name, value in start.items()}


def minimise(measure: Measure, searches: Mapping[str, Search], rounds: int) -> Found:
    """Search on a text of one part."""
    race = Race(lambda setting: Curve(setting, lambda own, _: measure(own), []), TOKENS)
    return coordinate_search(race, searches, rounds)


@given(rate=st.floats(1e-4, 10), pull=st.floats(1e-5, 0.5), epsilon=st.floats(1e-5, 0.1))
@settings(max_examples=50, deadline=None)
def test_search_finds_the_minimum_of_a_bowl(rate: float, pull: float, epsilon: float) -> None:
    """Where the options do not interact, one round ends within one step of the lowest point of each."""
    bottom = {"lr": rate, "decay": pull, "epsilon": epsilon}

    def bowl(setting: Mapping[str, float]) -> float:
        return 2.0 + sum(math.log(setting[name] / bottom[name]) ** 2 for name in bottom)

    found = minimise(bowl, searched(lr=0.1, decay=1e-3, epsilon=1e-3), rounds=1)
    for name in bottom:
        assert abs(math.log(found.constants[name] / bottom[name])) <= 0.52 * math.log(FACTOR[name])
    assert found.value == pytest.approx(bowl(found.constants))
    settings_tried = [tuple(each.constants.values()) for each in found.tried]
    assert len(set(settings_tried)) == len(settings_tried) and found.tokens == TOKENS * len(settings_tried)


@given(bottom=st.floats(0.01, 3), start=st.floats(0.01, 1), low=st.floats(0, 0.01), factor=st.floats(1.2, 4.0))
@settings(max_examples=100, deadline=None)
def test_search_stays_within_its_bounds(bottom: float, start: float, low: float, factor: float) -> None:
    """Where the lowest point is beyond a bound it ends at the bound, else within a step of it."""
    measured: list[float] = []

    def bowl(setting: Mapping[str, float]) -> float:
        measured.append(setting["share"])
        return abs(math.log(setting["share"] / bottom))

    found = minimise(bowl, {"share": Search(start, factor, low, 1.0)}, rounds=1)
    assert all(low <= share <= 1 for share in measured)
    share = found.constants["share"]
    assert share > 0.999 if bottom >= 1 else abs(math.log(share / bottom)) <= 0.52 * math.log(factor) + 1e-3


@pytest.mark.parametrize(
    "lowest, found, measured",
    [(5.0, 1.0, [0.5, 0.75, 1.0]), (0.2, 0.2222, [0.5, 0.75, 0.3333, 0.2222, 0.1481])],
    ids=["beyond a bound", "within"],
)
def test_search_tries_the_bound_and_no_more(lowest: float, found: float, measured: list[float]) -> None:
    best = minimise(lambda setting: abs(setting["share"] - lowest), {"share": Search(0.5, 1.5, 0.0, 1.0)}, rounds=2)
    tried = [each.constants["share"] for each in best.tried]
    assert (best.constants["share"], tried[: len(measured)]) == (found, measured)
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
    found = minimise(lambda setting: setting["lr"], searched(lr=0.3), rounds=0)
    assert found[:3] == ({"lr": 0.3}, 0.3, [Tried({"lr": 0.3}, TOKENS, 0.3)])


def test_search_counts_the_seconds_of_all_its_sittings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part that was being read when the search was killed counts where it is read again."""
    now, checkpoints = 0.0, Checkpoints(tmp_path, "tune")
    monkeypatch.setattr("dynlm.train.search.time.monotonic", lambda: now)

    def search(killed_at: float) -> Found:
        def measure(setting: Mapping[str, float], _: int) -> float:
            nonlocal now
            now += setting["lr"]
            if setting["lr"] == killed_at:
                raise KeyboardInterrupt
            return (setting["lr"] - 2) ** 2

        race = Race(lambda setting: Curve(setting, measure, []), TOKENS)
        return coordinate_search(race, {"lr": Search(1.0, 2.0)}, 1, checkpoints)

    with pytest.raises(KeyboardInterrupt):
        search(killed_at=4.0)
    now += 100.0  # Between two sittings.
    found = search(killed_at=0.0)
    assert (found.constants, found.value, len(found.tried), found.seconds) == ({"lr": 2.0}, 0.0, 3, 7.0)


def test_search_ignores_small_differences() -> None:
    start = {"lr": 0.3, "decay": 1e-3}
    assert minimise(lambda setting: 1e-5 * setting["lr"], searched(**start), rounds=2).constants == start


def test_search_turns_round_at_non_finite_values() -> None:
    """Too large a rate diverges; the search then turns round."""
    found = minimise(lambda s: math.nan if s["lr"] > 0.4 else s["lr"], searched(lr=0.3), rounds=1)
    assert found.constants["lr"] < 0.3
    assert {"lr": 0.48, "tokens": TOKENS, "nats_per_token": None} in [each.to_dict() for each in found.tried]


def test_a_non_finite_start_is_left_or_refused() -> None:
    found = minimise(lambda s: math.nan if s["lr"] > 0.25 else s["lr"], searched(lr=0.3), rounds=1)
    assert found.constants["lr"] < 0.25 and math.isfinite(found.value)
    with pytest.raises(UserError, match="no setting near lr 0.3 gives finite losses"):
        minimise(lambda s: math.nan, searched(lr=0.3), rounds=1)


def noisy(setting: Mapping[str, float], part: int) -> float:
    """A bowl in the learning rate, with noise that all settings share and a little that is each one's own."""
    own = np.random.default_rng([part, round(1e6 * setting["lr"])]).normal(0, 0.004)
    return 3 + 0.1 * math.log(setting["lr"] / 0.5) ** 2 + float(np.random.default_rng(part).normal(0, 0.5)) + own


def race_of(method: Method, nats: Callable[[Mapping[str, float], int], float] = noisy) -> tuple[Race, list[str]]:
    read: list[str] = []
    return Race(lambda setting: Curve(setting, nats, read), PARTS * TOKENS, method), read


def test_a_race_finds_what_the_full_search_finds_in_half_the_tokens() -> None:
    (race, read), (whole, all_read) = race_of("race"), race_of("full")
    fast, full = (coordinate_search(each, searched(lr=0.1), 2) for each in (race, whole))
    assert fast.constants == full.constants and fast.value == full.value
    assert [each.constants for each in fast.tried] == [each.constants for each in full.tried]
    assert full.tokens == len(full.tried) * PARTS * TOKENS == TOKENS * len(all_read)
    assert fast.tokens == TOKENS * len(read) < 0.5 * full.tokens
    assert len(set(read)) == len(read)  # Nothing is read twice.
    best = next(each for each in fast.tried if each.constants == fast.constants)
    assert best.tokens == PARTS * TOKENS and min(each.tokens for each in fast.tried) == 3 * TOKENS


def test_a_gain_that_comes_late_is_waited_for() -> None:
    """Under ``stream`` a rate may gain first and lose later: where parts differ that much, a race goes on."""
    trend = {0.3: lambda part: 3.0, 0.48: lambda part: 3.0 + (0.02 if part % 4 == 0 or part < 2 else -0.02)}

    def nats(setting: Mapping[str, float], part: int) -> float:
        return trend[setting["lr"]](part) if setting["lr"] in trend else 9.0

    assert coordinate_search(race_of("race", nats)[0], searched(lr=0.3), 1).constants == {"lr": 0.48}


def test_equal_settings_stop_at_once_and_diverging_ones_too() -> None:
    same = coordinate_search(race_of("race", lambda *_: 3.0)[0], searched(lr=0.3), 1)
    assert same.constants == {"lr": 0.3} and [each.tokens for each in same.tried] == [2000, 300, 300]

    def diverges(setting: Mapping[str, float], part: int) -> float:
        return math.nan if setting["lr"] > 0.2 else 3.0

    found = coordinate_search(race_of("race", diverges)[0], searched(lr=0.3), 1)
    assert found.constants["lr"] < 0.2 and math.isfinite(found.value)


@given(
    differences=st.lists(st.floats(-0.1, 0.1), min_size=1, max_size=30),
    level=st.floats(1, 9),
)
@settings(max_examples=200, deadline=None)
def test_a_verdict_has_no_side(differences: list[float], level: float) -> None:
    """Of two settings at most one is better, whichever is the new one; the whole text always decides."""
    ours = [Part(TOKENS * (level + each), TOKENS) for each in differences]
    theirs = [Part(TOKENS * level, TOKENS) for _ in differences]
    for whole in (True, False):
        verdicts = [is_better(*pair, whole, "race") for pair in ((ours, theirs), (theirs, ours))]
        assert verdicts.count(True) <= 1
        assert not whole or None not in verdicts
        assert whole or len(differences) >= 3 or verdicts == [None, None]
    assert whole or is_better(ours, theirs, False, "full") is None


def killed_after(parts: int) -> Callable[[Mapping[str, float], int], float]:
    """Return ``noisy``, with a kill while the next part is read."""
    left = iter(range(parts))

    def nats(setting: Mapping[str, float], part: int) -> float:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return noisy(setting, part)

    return nats


@pytest.mark.parametrize("method", ["race", "full"])
def test_a_search_killed_after_any_part_ends_as_if_it_had_not_been(method: Method, tmp_path: Path) -> None:
    race, parts = race_of(method)
    whole = coordinate_search(race, searched(lr=0.3), 1)
    for kill in range(1, len(parts), 3):
        checkpoints = Checkpoints(tmp_path / str(kill), "tune")
        race, first = race_of(method, killed_after(kill))
        with pytest.raises(KeyboardInterrupt):
            coordinate_search(race, searched(lr=0.3), 1, checkpoints)
        race, second = race_of(method)
        found = coordinate_search(race, searched(lr=0.3), 1, checkpoints)
        assert found[:3] == whole[:3]
        # What was read before the kill is not read again.
        assert [*first, *second] == parts and len(first) == kill


def test_a_search_that_saves_seldom_ends_the_same(tmp_path: Path) -> None:
    """After a kill the parts since the last comparison are read again."""
    checkpoints = Checkpoints(tmp_path, "tune")
    with pytest.raises(KeyboardInterrupt):
        coordinate_search(race_of("race", killed_after(17))[0], searched(lr=0.3), 1, checkpoints, seconds=1e6)
    race, read = race_of("race")
    found = coordinate_search(race, searched(lr=0.3), 1, checkpoints, seconds=1e6)
    assert found[:3] == coordinate_search(race_of("race")[0], searched(lr=0.3), 1)[:3]
    assert TOKENS * len(read) < found.tokens


def test_a_part_has_a_thousand_tokens_at_least() -> None:
    assert part_tokens(350) == part_tokens(2000) == 1000 and part_tokens(27_199) == 1134
    assert part_tokens(240_000) == 10_000
