"""Finite-horizon Gittins indices of Bernoulli arms with a uniform prior.

Legend: M pulls left, K pulls in all, S an arm's states (successes, failures), J successes of further pulls.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

LARGEST_PULLS = 100
"""Most pulls for which indices are computed: their cost grows with the fifth power, to seconds here."""


@functools.cache
def gittins_indices(pulls: int) -> Tensor:
    """Return the index of an arm (K + 1, K + 1, K + 1) by pulls left, its successes and its failures, in float64.

    The undiscounted index of an arm with M pulls left is the best reward for each pull that stopping allows,

        index = max over stopping times tau in {1, ..., M} of E[rewards of the first tau pulls] / E[tau]

    (Bradt, Johnson & Karlin 1956; Nino-Mora 2011, "Computing a Classic Index for Finite-Horizon Bandits"), with
    Beta(1 + successes, 1 + failures) for the arm's probability. The arm is worth pulling beside one of known
    probability p exactly as long as its index is at least p. With several unknown arms the policy of the largest index
    is not optimal, but close. Impossible states, of more results than pulls made, have index NaN.

    The maximum of the ratio is found exactly by Dinkelbach's iteration (1967): with a charge lambda for each pull, the
    best stopping time follows by dynamic programming, and its ratio is the next lambda, until it no longer grows.
    """
    table = torch.full((pulls + 1,) * 3, torch.nan, dtype=torch.float64)
    for left in range(1, pulls + 1):
        wins_S, losses_S = _states(pulls - left)
        index_S = (1 + wins_S.double()) / (2 + wins_S + losses_S)
        while True:
            ratio_S = _stopped_ratio(index_S, wins_S, losses_S, left)
            grown_S = ratio_S > index_S * (1 + 1e-13)
            index_S = torch.maximum(index_S, ratio_S)
            if not grown_S.any():
                break
        table[left, wins_S, losses_S] = index_S
    return table


def _states(most: int) -> tuple[Tensor, Tensor]:
    """Return all numbers of successes and failures with at most ``most`` pulls (S,)."""
    pairs = torch.cartesian_prod(torch.arange(most + 1), torch.arange(most + 1))
    wins_S, losses_S = pairs[pairs.sum(1) <= most].unbind(1)
    return wins_S, losses_S


def _stopped_ratio(charge_S: Tensor, wins_S: Tensor, losses_S: Tensor, left: int) -> Tensor:
    """Return E[rewards] / E[pulls] under the best stopping with a charge for each pull, the first of which is made."""
    rewards_SJ = counts_SJ = charge_S.new_zeros(len(charge_S), left + 1)
    for made in range(left - 1, -1, -1):
        further_J = torch.arange(made + 1)
        mean_SJ = (1 + wins_S.double()[:, None] + further_J) / (2.0 + wins_S + losses_S + made)[:, None]
        rewards_SJ = mean_SJ * (1 + rewards_SJ[:, 1:]) + (1 - mean_SJ) * rewards_SJ[:, :-1]
        counts_SJ = 1 + mean_SJ * counts_SJ[:, 1:] + (1 - mean_SJ) * counts_SJ[:, :-1]
        if made:
            goes_on_SJ = rewards_SJ > charge_S[:, None] * counts_SJ
            rewards_SJ, counts_SJ = rewards_SJ * goes_on_SJ, counts_SJ * goes_on_SJ
    return (rewards_SJ / counts_SJ)[:, 0]
