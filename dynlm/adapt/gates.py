"""Gate features of a segment, and the multipliers of learning rate and decay computed from them.

Legend: B lanes, K dynamic tensors, J features.

Each feature is known by the time that a segment is learned from (``options.FEATURES`` has the names):

    doc_age_20, doc_age_100    exp(-k / 20) and exp(-k / 100), k the segments since the article began
    section_age                exp(-k / 10), k the segments since one that completed a heading's line
    loss_delta                 the segment's mean nats minus their running mean
    grad_rms                   log of the root mean square of the gradient nearest the loss, divided by its statistics
    weight_distance            |theta - theta_0| / |theta_0|, in tenths

With weights w and v of each tensor k (``Gates``) a segment's learning rate and decay are

    lr_kt = lr_k * exp(sum_j w_kj f_jt),    decay_kt = decay_k * exp(sum_j v_kj f_jt)

so that the memory can COPY (both near 0), UPDATE or FLUSH (the gate names of Chung et al. 2017); weights of zero leave
the rule as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.base import SegmentEvent
from dynlm.adapt.rules.online_rate import OnlineShift
from dynlm.models.scratch import Scratch
from dynlm.types import Params

_AGES = {
    "doc_age_20": ("segments_B", 20.0),
    "doc_age_100": ("segments_B", 100.0),
    "section_age": ("since_heading_B", 10.0),
}
_LONG_AGO = 1e6
# Weight of a segment in the running mean of losses.
_RUNNING = 0.05
_LARGEST_FEATURE = 3.0
_LARGEST_LOG_SCALE = 3.0


class SegmentStats(NamedTuple):
    """Of each lane (B,): segments since its article began, the running mean of its nats (NaN before the first), and
    segments since a heading was completed. For rules that have them, update steps since its weights were fresh, and the
    shifts of the slow rate and of the decay."""

    segments_B: Tensor
    running_nats_B: Tensor
    since_heading_B: Tensor
    steps_B: Tensor | None = None
    slow_shift: OnlineShift | None = None
    decay_shift: OnlineShift | None = None

    @classmethod
    def initial(
        cls,
        lanes: int,
        like: Tensor,
        counts_steps: bool = False,
        shifts_slow_rate: bool = False,
        shifts_decay: bool = False,
    ) -> SegmentStats:
        """Return the statistics before anything was read."""
        zeros_B = like.new_zeros(lanes)
        steps_B = zeros_B.clone() if counts_steps else None
        slow, decay = (OnlineShift.initial(lanes, like) if has else None for has in (shifts_slow_rate, shifts_decay))
        return cls(zeros_B, zeros_B + torch.nan, zeros_B + _LONG_AGO, steps_B, slow, decay)

    def start_articles(self, starts_B: Tensor, fresh: bool) -> SegmentStats:
        """Start articles in the lanes of ``starts_B``; unless they start ``fresh`` running mean and shifts go on."""
        running_B = self.running_nats_B.masked_fill(starts_B, torch.nan) if fresh else self.running_nats_B
        since_heading_B = self.since_heading_B.masked_fill(starts_B, _LONG_AGO)
        steps_B = self.steps_B if self.steps_B is None or not fresh else self.steps_B.masked_fill(starts_B, 0)
        decay = self.decay_shift.restart(starts_B) if fresh and self.decay_shift is not None else self.decay_shift
        return self._replace(
            segments_B=self.segments_B.masked_fill(starts_B, 0),
            running_nats_B=running_B,
            since_heading_B=since_heading_B,
            steps_B=steps_B,
            decay_shift=decay,
        )

    def restart_steps(self, fresh_B: Tensor) -> SegmentStats:
        """Note that the weights of the lanes ``fresh_B`` (bool) are fresh."""
        return self if self.steps_B is None else self._replace(steps_B=self.steps_B.masked_fill(fresh_B, 0))

    def complete_headings(self, headings_B: Tensor) -> SegmentStats:
        """Note that the segment that is read completes a heading in the lanes of ``headings_B``."""
        return self._replace(since_heading_B=self.since_heading_B.masked_fill(headings_B, 0))

    def end_segment(self, nats_B: Tensor, slow_step: float = 0.0, decay_step: float = 0.0) -> SegmentStats:
        """Count a segment of mean loss ``nats_B``; the steps are those of the two shifts."""
        running_B = torch.where(self.running_nats_B.isnan(), nats_B, self.running_nats_B.lerp(nats_B, _RUNNING))
        steps_B = None if self.steps_B is None else self.steps_B + 1
        slow = None if self.slow_shift is None else self.slow_shift.end_segment(slow_step)
        decay = None if self.decay_shift is None else self.decay_shift.end_segment(decay_step)
        return SegmentStats(self.segments_B + 1, running_B, self.since_heading_B + 1, steps_B, slow, decay)


class GateScales(NamedTuple):
    """A segment's features (B, J), each tensor's multipliers of learning rate and decay (B, K), and the shift of all
    decays' logarithms where reading finds it. ``replay_B`` is set where a segment is learned from again: the share of
    the learning rates that it gets; it takes no decay."""

    features_BJ: Tensor
    lr_BK: Tensor
    decay_BK: Tensor
    decay_shift_B: Tensor | None = None
    replay_B: Tensor | None = None

    def of_tensor(self, index: int) -> tuple[Tensor, Tensor]:
        """Return a tensor's multipliers of learning rate and decay (B,)."""
        lr_B, decay_B = self.lr_BK[:, index], self.decay_BK[:, index]
        if self.replay_B is not None:
            return lr_B * self.replay_B, torch.zeros_like(decay_B)
        return lr_B, decay_B if self.decay_shift_B is None else decay_B * self.decay_shift_B.exp()


@dataclass(frozen=True)
class Gates:
    """Weights of the features named ``features``, for each tensor: ``lr_KJ`` and ``decay_KJ``.

    ``gradient_scale`` divides the gradient that is measured, by its statistics; ``size`` is |theta_0|.
    """

    features: tuple[str, ...]
    lr_KJ: Tensor
    decay_KJ: Tensor
    gradient_scale: Tensor | None = None
    size: float = 1.0
    scales_decay: bool = True
    """Whether decays change at all: with weights of zero that pass is saved."""

    @property
    def measures_gradient(self) -> bool:
        """Whether a feature is of the gradient."""
        return "grad_rms" in self.features

    def features_of(self, event: SegmentEvent) -> Tensor:
        """Return the features (B, J) of a segment before its update.

        The gradient of ``event`` is that of ``SequenceModel.output_tensor``, as a whole.
        """
        stats: SegmentStats = event.lane_state
        values = []
        for feature in self.features:
            if feature in _AGES:
                count, horizon = _AGES[feature]
                values.append(torch.exp(-getattr(stats, count) / horizon))
            elif feature == "loss_delta":
                before_B = stats.running_nats_B
                values.append(torch.where(before_B.isnan(), 0.0, event.nats_B - before_B))
            elif feature == "grad_rms":
                gradient = event.gradient.tensor
                scaled = gradient if self.gradient_scale is None else gradient * self.gradient_scale
                values.append(scaled.square().flatten(1).mean(1).clamp(min=1e-30).log() / 2)
            elif feature == "weight_distance":
                values.append(displacement(event.theta, event.theta_0, event.scratch) / self.size * 10)
        return torch.stack(values, -1).clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)

    def scales(self, features_BJ: Tensor) -> GateScales:
        """Return each tensor's multipliers; differentiable."""
        logs = (features_BJ @ weights.T for weights in (self.lr_KJ, self.decay_KJ))
        return GateScales(features_BJ, *(log.clamp(-_LARGEST_LOG_SCALE, _LARGEST_LOG_SCALE).exp() for log in logs))


def at_bound(scale: float) -> bool:
    """Return whether a multiplier is as large or as small as one can be."""
    return abs(math.log(scale)) >= _LARGEST_LOG_SCALE * (1 - 1e-6)


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """Return the norm of all tensors as one vector."""
    return torch.sqrt(torch.as_tensor(sum(tensor.square().sum() for tensor in tensors)))


def displacement(theta: Params, theta_0: Params, scratch: Scratch | None = None) -> Tensor:
    """Return |theta_t - theta_0| of each lane (B,), all tensors as one vector; differentiable without ``scratch``."""
    squares_B: Tensor | int = 0
    for name, tensor in theta.items():
        if scratch is None:
            squares_B = squares_B + (tensor - theta_0[name]).square().flatten(1).sum(1)
        else:
            moved = torch.sub(tensor, theta_0[name], out=scratch.take("moved", tuple(tensor.shape), tensor))
            # One pass; a norm has no derivative at zero.
            squares_B = squares_B + torch.linalg.vector_norm(moved.flatten(1), dim=1).square()
    # The root has no derivative at zero either.
    return torch.as_tensor(squares_B).clamp(min=1e-30).sqrt()
