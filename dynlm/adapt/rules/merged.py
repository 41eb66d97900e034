"""Updates of matrices as products of factors; those of the softmax layer are held, and merged every few segments.

A segment's gradient of a matrix is a product of factors with one row for each token: u = left^T right. A step with it
writes and reads a gradient, the weights and the rule's constants, each as large as the matrix. Here a matrix's
precondition is taken as the nearest product of a row's and a column's factor (in logarithms): scaled factors are the
update itself, and a product adds it to the weights. Of the softmax layer those of K segments are held, the model
predicts with theta and their products (``models.displacement``), and one pass over the weights merges them:

    theta <- theta + (1 - (1 - beta)^K) (theta_0 - theta) + sum over segments of kept^(K - 1 - k) left_k^T right_k

with kept = 1 - (mean of beta). So the weights lack their decay since the last merge: of their distance from theta_0 a
share of 1 - (1 - beta)^(K - 1) at most, and held updates decay alike. Gradients of embedded tokens are steps of single
rows, taken at once.

Legend: B lanes, T tokens of a segment, M rows of held factors, V rows and H columns of the matrix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.base import RuleState, StepEvent
from dynlm.adapt.rules.holding import HoldingRule
from dynlm.models.displacement import LowRank, with_displacement
from dynlm.models.protocol import Factors
from dynlm.types import Params

# For each core in use: a part of the weights stays in its cache between decay and updates.
_PART_BYTES = 1 << 20


class PendingUpdates(NamedTuple):
    """The held updates of each lane: left^T right, of ``rows_B`` used rows and ``segments_B`` segments.

    Unused rows of ``left_BMV`` are zero.
    """

    left_BMV: Tensor
    right_BMH: Tensor
    rows_B: Tensor
    segments_B: Tensor


class MatrixConstants(NamedTuple):
    """What a matrix's factors are multiplied by (the learning rate is in the column's), and its decays.

    ``decay`` is each weight's between two additions to the matrix, ``kept`` what a segment leaves of held updates.
    """

    by_row_V: Tensor
    by_column_H: Tensor
    decay: Tensor | float
    kept: float


@dataclass(frozen=True)
class MergedRule(HoldingRule):
    """``rule`` with the updates of the matrix ``matrix`` merged every ``segments`` segments of ``tokens`` tokens."""

    segments: int
    tokens: int
    _constants: dict[str, MatrixConstants] = field(init=False)

    def __post_init__(self) -> None:
        made = {}
        for name, rates in self.rule.rates.items():
            precondition = None if self.rule.precondition is None else self.rule.precondition[name]
            beta = self.rule.beta[name]
            if precondition is None or precondition.dim() == 2:
                by_row, by_column = (torch.ones(()),) * 2 if precondition is None else nearest_product(precondition)
                decay, kept = _decay_of(beta, self.segments if name == self.matrix else 1), 1 - torch.as_tensor(beta)
                made[name] = MatrixConstants(by_row, by_column * -float(rates.lr), decay, float(kept.mean()))
        object.__setattr__(self, "_constants", made)

    def constants(self) -> Any:
        return {**self.rule.constants(), "merge_every": self.segments}

    def standing_still(self) -> MergedRule:
        return MergedRule(self.rule.standing_still(), self.matrix, self.segments, self.tokens)

    def init_lanes(self, lanes: int, like: Tensor) -> None:
        """Return None: the size of the state is that of the weights, see ``init_state``."""

    def init_state(self, params: Params) -> RuleState:
        theta_BVH, rows = params[self.matrix], self.segments * self.tokens
        lanes, height, width = theta_BVH.shape
        counts_B = torch.zeros(lanes, dtype=torch.int64, device=theta_BVH.device)
        held = theta_BVH.new_zeros(lanes, rows, height), theta_BVH.new_zeros(lanes, rows, width)
        return RuleState(PendingUpdates(*held, counts_B, counts_B.clone()))

    def reset_lanes_(self, lanes: PendingUpdates, lanes_B: Tensor) -> None:
        for held in (lanes.left_BMV, lanes.right_BMH):
            held.masked_fill_(lanes_B[:, None, None], 0)

    def with_pending(self, params: Params, lanes: PendingUpdates) -> Params:
        return with_displacement(params, self.matrix, _used(lanes))

    def prepare_(self, event: StepEvent) -> StepEvent:
        """Merge what is held where another segment's updates would be too many."""
        pending, factors = event.lane_state, event.gradient.factors
        if event.name != self.matrix or factors is None:
            return event
        if (
            int(pending.segments_B.amax()) >= self.segments
            or int(pending.rows_B.amax()) + factors.left_BTV.shape[1] > pending.left_BMV.shape[1]
        ):
            self._merge_(event)
        return event

    def reject_(self, event: StepEvent, allowed_B: Tensor) -> None:
        """Drop the updates that ``step_`` has just added to those held."""
        factors = event.gradient.factors
        if event.name == self.matrix and factors is not None:
            end = int(event.lane_state.rows_B.amax())
            added = slice(end - factors.left_BTV.shape[1], end)
            for held in event.lane_state[:2]:
                held[:, added].masked_fill_(~allowed_B[:, None, None], 0)

    def update_norms(self, event: StepEvent) -> Tensor:
        """See ``ElementwiseRule.update_norms``; of factors it takes their product."""
        if (factors := event.gradient.factors) is not None:
            event = event._replace(update=dense_gradient(factors))
        return self.rule.update_norms(event)

    def update_norm_bound(self, event: StepEvent) -> float:
        return self.rule.update_norm_bound(event)

    @torch.no_grad()
    def step_(self, event: StepEvent) -> None:
        """Take the step, by a product where the gradient comes as factors; hold those of the softmax layer."""
        if (factors := event.gradient.factors) is None:
            self.rule.step_(event)
            return
        by_row_V, by_column_H, decay, kept = self._constants[event.name]
        if event.name != self.matrix:
            left_BTV = factors.left_BTV * by_row_V
            if kept < 1:
                event.theta.lerp_(event.anchor.expand_as(event.theta), decay)
            event.theta.baddbmm_(left_BTV.transpose(1, 2), factors.right_BTH * by_column_H)
            return
        pending: PendingUpdates = event.lane_state
        begin = int(pending.rows_B.amax())
        added = slice(begin, begin + factors.left_BTV.shape[1])
        pending.right_BMH[:, :begin].mul_(kept)
        torch.mul(factors.left_BTV, by_row_V, out=pending.left_BMV[:, added])
        torch.mul(factors.right_BTH, by_column_H, out=pending.right_BMH[:, added])
        pending.rows_B.fill_(added.stop)
        pending.segments_B.add_(1)
        if factors.rows_BT is not None and factors.at_rows_BTH is not None:
            precondition, lr = self.rule.precondition, float(self.rule.rates[event.name].lr)
            for lane, (rows_T, u_TH) in enumerate(zip(factors.rows_BT, factors.at_rows_BTH, strict=True)):
                scale = 1.0 if precondition is None else precondition[event.name][rows_T]
                event.theta[lane].index_add_(0, rows_T, u_TH * scale, alpha=-lr)

    def _merge_(self, event: StepEvent) -> None:
        """Decay the weights by all segments since the last merge, and add the held updates."""
        pending: PendingUpdates = event.lane_state
        left_BMV, right_BMH = _used(pending)
        (lanes, height, width), decay = event.theta.shape, self._constants[self.matrix].decay
        if (segments := int(pending.segments_B.amax())) != self.segments:
            decay = _decay_of(self.rule.beta[self.matrix], segments)
        rows = max(1, _PART_BYTES * torch.get_num_threads() // (lanes * width * right_BMH.element_size()))
        for begin in range(0, height, rows):
            part = slice(begin, begin + rows)
            theta, anchor = event.theta[:, part], event.anchor[..., part, :]
            theta.lerp_(anchor.expand_as(theta), decay[part] if isinstance(decay, Tensor) else decay)
            theta.baddbmm_(left_BMV[..., part].transpose(1, 2), right_BMH)
        pending.left_BMV.zero_()
        pending.rows_B.zero_()
        pending.segments_B.zero_()


def _decay_of(beta: Tensor | float, segments: int) -> Tensor | float:
    """Return the decay of so many segments together."""
    return beta if segments == 1 else 1 - (1 - beta) ** segments


def nearest_product(positive_VH: Tensor) -> tuple[Tensor, Tensor]:
    """Return a factor of each row and one of each column whose products are nearest to a matrix, in logarithms."""
    log_VH = positive_VH.log()
    by_row_V = log_VH.mean(1)
    return by_row_V.exp(), (log_VH.mean(0) - by_row_V.mean()).exp()


def dense_gradient(factors: Factors) -> Tensor:
    """Return the gradient (B, V, H) that the factors stand for."""
    u_BVH = LowRank(factors.left_BTV, factors.right_BTH).dense()
    if factors.rows_BT is not None and factors.at_rows_BTH is not None:
        for u_VH, rows_T, at_rows_TH in zip(u_BVH, factors.rows_BT, factors.at_rows_BTH, strict=True):
            u_VH.index_add_(0, rows_T, at_rows_TH)
    return u_BVH


def _used(pending: PendingUpdates) -> LowRank:
    used = slice(int(pending.rows_B.amax()))
    return LowRank(pending.left_BMV[:, used], pending.right_BMH[:, used])
