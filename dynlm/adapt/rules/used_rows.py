"""Updates of the softmax layer's matrix in the rows of tokens that the text has used, held beside the shared matrix.

A lane that learns in a few hundred rows of many thousand needs no copy of the matrix: it holds those rows' displacement
d = theta - theta_0 from the static ones, which all lanes share (``models.displacement.RowSparse``). A row is used from
the first segment on in which its token occurs, as an input or as a target; the rows of other tokens, whose gradients
are their small probabilities, stay the static ones. The step in a used row is that of ``rule``:

    d <- (1 - beta) d - lr * precondition * u

Where more rows are used than a lane has places, those whose tokens occurred longest ago go back to the static ones,
after the segment was scored.

Legend: B lanes, T tokens of a segment, K places of a lane, N <= K places in use, V rows and H columns of the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.base import RuleState, StepEvent
from dynlm.adapt.rules.holding import HoldingRule
from dynlm.models.displacement import RowSparse, columns, with_displacement
from dynlm.models.protocol import Factors
from dynlm.types import Params


class UsedRows(NamedTuple):
    """Each lane's displaced rows: ``values_BKH`` of the rows ``rows_BK`` in the first ``counts_B`` places, else zero.

    ``slots_BV``: each row's place, -1 without one. ``last_BK``: the segment, of ``segments_B`` so far, in which a
    place's token occurred last.
    """

    values_BKH: Tensor
    rows_BK: Tensor
    slots_BV: Tensor
    last_BK: Tensor
    counts_B: Tensor
    segments_B: Tensor

    def displacement(self) -> RowSparse:
        """Return the places in use by any lane, as views."""
        used = slice(int(self.counts_B.amax()))
        return RowSparse(self.rows_BK[:, used], self.values_BKH[:, used], self.slots_BV)

    def clear_(self, lanes_B: Tensor) -> None:
        """Empty the lanes ``lanes_B`` (bool)."""
        for tensor in self:
            tensor[lanes_B] = 0
        self.slots_BV[lanes_B] = -1

    def use_(self, lane: int, tokens_N: Tensor) -> None:
        """Give the rows of these tokens places in a lane; no more tokens than places."""
        slots_V, last_K, rows_K = self.slots_BV[lane], self.last_BK[lane], self.rows_BK[lane]
        self.segments_B[lane] += 1
        now, count, places = self.segments_B[lane], int(self.counts_B[lane]), len(rows_K)
        held_N = slots_V[tokens_N]
        last_K[held_N[held_N >= 0].long()] = now
        new_N = tokens_N[held_N < 0].unique()
        free_N = torch.arange(count, min(count + len(new_N), places), device=new_N.device)
        if (lacking := len(new_N) - len(free_N)) > 0:
            oldest_N = last_K[:count].argsort(stable=True)[:lacking]
            slots_V[rows_K[oldest_N]] = -1
            self.values_BKH[lane, oldest_N] = 0
            free_N = torch.cat([free_N, oldest_N])
        rows_K[free_N], last_K[free_N] = new_N, now
        slots_V[new_N] = free_N.to(slots_V.dtype)
        self.counts_B[lane] = min(count + len(new_N), places)


@dataclass(frozen=True)
class UsedRowsRule(HoldingRule):
    """``rule`` with the matrix ``matrix``, of ``shape`` (V, H), moving in the rows of the last ``places`` tokens."""

    shape: tuple[int, int]
    places: int

    @property
    def held(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.matrix,)

    def constants(self) -> Any:
        return {**self.rule.constants(), "used_rows": self.places}

    def standing_still(self) -> UsedRowsRule:
        return UsedRowsRule(self.rule.standing_still(), self.matrix, self.shape, self.places)

    def init_state(self, params: Params) -> RuleState:
        like = next(iter(params.values()))
        (height, width), lanes = self.shape, len(like)

        def whole(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.zeros(lanes, *size, dtype=dtype, device=like.device)

        used = UsedRows(
            like.new_zeros(lanes, self.places, width),
            whole(self.places),
            whole(height, dtype=torch.int16) - 1,
            whole(self.places, dtype=torch.int32),
            whole(),
            whole(dtype=torch.int32),
        )
        return RuleState(used)

    def reset_lanes_(self, lanes: UsedRows, lanes_B: Tensor) -> None:
        lanes.clear_(lanes_B)

    def with_pending(self, params: Params, lanes: UsedRows) -> Params:
        return with_displacement(params, self.matrix, lanes.displacement())

    def held_displacement(self, lanes: UsedRows) -> Tensor:
        return torch.linalg.vector_norm(lanes.values_BKH.flatten(1), dim=1)

    def prepare_(self, event: StepEvent) -> StepEvent:
        """Give the segment's tokens places, and return the event with the used rows' displacement and gradient."""
        factors = event.gradient.factors
        if factors is None:
            return event
        used: UsedRows = event.lane_state
        assert factors.targets_BT is not None
        # Tokens that are not scored have no gradient, and take no place.
        learned_BT = factors.left_BTV.gather(2, factors.targets_BT[..., None])[..., 0] != 0
        tokens_BN, learned_BN = factors.targets_BT, learned_BT
        if factors.rows_BT is not None and factors.at_rows_BTH is not None:
            tokens_BN = torch.cat([tokens_BN, factors.rows_BT], 1)
            learned_BN = torch.cat([learned_BN, factors.at_rows_BTH.any(2)], 1)
        for lane, (tokens_N, learned_N) in enumerate(zip(tokens_BN, learned_BN, strict=True)):
            used.use_(lane, tokens_N[learned_N])
        rows_BN, values_BNH, _ = used.displacement()
        shape = (*rows_BN.shape, values_BNH.shape[2])
        u_BNH = event.scratch.take("rows", shape, values_BNH)
        torch.bmm(columns(factors.left_BTV, rows_BN).transpose(1, 2), factors.right_BTH, out=u_BNH)
        _add_embedded_(u_BNH, used, factors)
        if int(used.counts_B.amin()) < shape[1]:  # Places that a lane does not use stay zero.
            places_N = torch.arange(shape[1], device=rows_BN.device)
            u_BNH.masked_fill_((places_N >= used.counts_B[:, None])[..., None], 0)
        return event._replace(update=u_BNH, theta=values_BNH)

    def update_norms(self, event: StepEvent) -> Tensor:
        """See ``ElementwiseRule.update_norms``; the norm of the used rows' update."""
        if event.gradient.factors is None:
            return self.rule.update_norms(event)
        step_BNH, name = event.update, event.name
        if self.rule.precondition is not None:
            step_BNH = step_BNH * self.rule.precondition[name][self._rows(event)]
        norm_B = torch.linalg.vector_norm(step_BNH.flatten(1), dim=1) * self.rule.rates[name].lr
        return norm_B + 0 * self.rule.largest_beta[name]

    def update_norm_bound(self, event: StepEvent) -> float:
        """See ``ElementwiseRule.update_norm_bound``: the whole matrix's bound is one of its rows."""
        return self.rule.update_norm_bound(event._replace(update=event.gradient.tensor))

    @torch.no_grad()
    def step_(self, event: StepEvent) -> None:
        """Take the step: of ``matrix`` in the used rows of every lane."""
        if event.gradient.factors is None:
            self.rule.step_(event)
            return
        rule, name, values_BNH, u_BNH = self.rule, event.name, event.theta, event.update
        rows_BN, of_rows = self._rows(event), event.scratch.take("of rows", tuple(u_BNH.shape), u_BNH)
        if rule.precondition is not None:
            u_BNH.mul_(_take_rows(rule.precondition[name], rows_BN, of_rows))
        beta = rule.beta[name]
        if isinstance(beta, Tensor) and beta.dim():
            values_BNH.addcmul_(values_BNH, _take_rows(beta, rows_BN, of_rows), value=-1)
        elif float(beta):
            values_BNH.mul_(1 - beta)
        values_BNH.sub_(u_BNH, alpha=float(rule.rates[name].lr))

    def _rows(self, event: StepEvent) -> Tensor:
        """Return the rows (B, N) of the event's update."""
        rows_BN: Tensor = event.lane_state.rows_BK[:, : event.update.shape[1]]
        return rows_BN


def _add_embedded_(u_BNH: Tensor, used: UsedRows, factors: Factors) -> None:
    """Add the gradients of embedded tokens, which have places where they are not zero."""
    if factors.rows_BT is None or factors.at_rows_BTH is None:
        return
    slots_BT = used.slots_BV.gather(1, factors.rows_BT).long().clamp(min=0)
    u_BNH.scatter_add_(1, slots_BT[..., None].expand_as(factors.at_rows_BTH), factors.at_rows_BTH)


def _take_rows(matrix_VH: Tensor, rows_BN: Tensor, out_BNH: Tensor) -> Tensor:
    """Return the rows of a matrix that the lanes share, written over ``out_BNH``."""
    torch.index_select(matrix_VH, 0, rows_BN.flatten(), out=out_BNH.view(-1, out_BNH.shape[2]))
    return out_BNH
