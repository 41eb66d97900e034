"""Finite-horizon planning in tabular Markov decision processes of many tasks at once.

Legend: T tasks, E copies of each, S states, A actions, H steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dynlm.fewshot.control.policies import Seen


def plan(transitions_TSAS: Tensor, rewards_TSA: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Return (action values (H, T, S, A) with H, H - 1, ..., 1 steps to go, optimal values of the first step (T, S)).

    Value iteration backward from the end, undiscounted (Puterman 1994, section 4.5):

        Q_h(s, a) = r(s, a) + sum over s' of P(s' | s, a) max over a' of Q_{h-1}(s', a'),    Q_0 = 0
    """
    values_TS = rewards_TSA.new_zeros(rewards_TSA.shape[:2])
    found = []
    rows_TNS = transitions_TSAS.flatten(1, 2)
    for _ in range(horizon):
        next_TSA = torch.bmm(rows_TNS, values_TS[..., None]).view(rewards_TSA.shape)
        found.append(rewards_TSA + next_TSA)
        values_TS = found[-1].amax(-1)
    return torch.stack(found[::-1]), values_TS


def action_values(values_TESA: Tensor, state_TE: Tensor) -> Tensor:
    """Return the values of the actions in a state of each copy (T, E, A)."""
    index_TE1A = state_TE[..., None, None].expand(-1, -1, 1, values_TESA.shape[-1])
    return values_TESA.gather(2, index_TE1A)[:, :, 0]


def greedy_actions(values_TSA: Tensor, seen: Seen) -> Tensor:
    """Return the actions (T, E) of the largest value in the states that are observed (one-hot)."""
    return values_TSA.argmax(-1).gather(1, seen.observations.argmax(-1))
