"""Gittins indices against all stopping rules, against a known arm, and against the best policy of two arms."""

from __future__ import annotations

import functools

import pytest
import torch

from dynlm.fewshot.control.gittins import gittins_indices


def mean_of(wins: int, losses: int) -> float:
    return (1 + wins) / (2 + wins + losses)


def stopped_ratios(wins: int, losses: int, left: int) -> set[tuple[float, float]]:
    """(E[rewards], E[pulls]) of every rule that says for each state whether to go on, after one pull at least."""

    @functools.cache
    def after(won: int, lost: int, left: int) -> frozenset[tuple[float, float]]:
        stopped = {(0.0, 0.0)}
        return frozenset(stopped | pulled(won, lost, left)) if left else frozenset(stopped)

    def pulled(won: int, lost: int, left: int) -> set[tuple[float, float]]:
        p = mean_of(won, lost)
        return {
            (p + p * up[0] + (1 - p) * down[0], 1 + p * up[1] + (1 - p) * down[1])
            for up in after(won + 1, lost, left - 1)
            for down in after(won, lost + 1, left - 1)
        }

    return pulled(wins, losses, left)


@pytest.mark.parametrize(
    "wins, losses, left", [(0, 0, 1), (0, 0, 2), (0, 0, 3), (0, 0, 4), (1, 0, 3), (0, 2, 3), (2, 1, 3)]
)
def test_the_index_is_the_best_ratio_of_all_stopping_rules(wins: int, losses: int, left: int) -> None:
    best = max(rewards / pulls for rewards, pulls in stopped_ratios(wins, losses, left))
    assert float(gittins_indices(wins + losses + left)[left, wins, losses]) == pytest.approx(best, abs=1e-12)


def test_known_indices() -> None:
    """With two pulls left of a fresh arm: stop after a failure, so (1/2 + 1/2 * 2/3) / (3/2) = 5/9."""
    table = gittins_indices(6)
    assert float(table[1, 0, 0]) == 0.5 and float(table[2, 0, 0]) == pytest.approx(5 / 9)
    assert table[1, 2, 3].isclose(table.new_tensor(3 / 7)) and table[6, 1, 0].isnan()
    assert all(table[left + 1, 0, 0] > table[left, 0, 0] for left in range(1, 6)), "more pulls are worth more"
    longer = gittins_indices(7)[:7, :7, :7]
    assert torch.equal(table[~table.isnan()], longer[~table.isnan()]), "an index depends on the pulls left alone"


@pytest.mark.parametrize("known", [0.3, 0.5, 0.55, 0.6, 0.7, 0.8])
def test_beside_a_known_arm_the_index_says_when_to_pull(known: float) -> None:
    """Bradt, Johnson & Karlin 1956: exactly optimal with one unknown arm."""
    pulls = 6
    table = gittins_indices(pulls)

    @functools.cache
    def best(wins: int, losses: int, left: int) -> float:
        return max(values(wins, losses, left)) if left else 0.0

    def values(wins: int, losses: int, left: int) -> tuple[float, float]:
        p = mean_of(wins, losses)
        unknown = p + p * best(wins + 1, losses, left - 1) + (1 - p) * best(wins, losses + 1, left - 1)
        return unknown, known + best(wins, losses, left - 1)

    for left in range(1, pulls + 1):
        for wins in range(pulls - left + 1):
            for losses in range(pulls - left - wins + 1):
                unknown, other = values(wins, losses, left)
                assert (float(table[left, wins, losses]) > known) == (unknown > other + 1e-12), (wins, losses, left)


@pytest.mark.parametrize("pulls", [2, 4, 6])
def test_with_two_unknown_arms_the_policy_is_nearly_the_best(pulls: int) -> None:
    table = gittins_indices(pulls)
    State = tuple[tuple[int, int], tuple[int, int]]

    def after(state: State, left: int, arm: int, value) -> float:  # type: ignore[no-untyped-def]
        wins, losses = state[arm]
        p, other = mean_of(wins, losses), state[1 - arm]
        results = [(other, one) if arm else (one, other) for one in ((wins + 1, losses), (wins, losses + 1))]
        return p + p * value(results[0], left - 1) + (1 - p) * value(results[1], left - 1)

    @functools.cache
    def best(state: State, left: int) -> float:
        return max(after(state, left, arm, best) for arm in (0, 1)) if left else 0.0

    @functools.cache
    def by_index(state: State, left: int) -> float:
        if not left:
            return 0.0
        arm = max((0, 1), key=lambda arm: float(table[left, state[arm][0], state[arm][1]]))
        return after(state, left, arm, by_index)

    fresh: State = ((0, 0), (0, 0))
    # By symmetry it does not matter which of two equal arms is pulled first.
    assert by_index(fresh, pulls) <= best(fresh, pulls) + 1e-12
    assert by_index(fresh, pulls) == pytest.approx(best(fresh, pulls), rel=2e-3)
