"""How a reading goes: what g's gates look at, and what they make of it.

Legend: B lanes, K dynamic tensors, J features.

Each feature is a number that any reader has by the time it learns from a segment (``config.FEATURES`` has the names):

    fresh, settling    exp(-k / 20) and exp(-k / 100), k the segments read since the article began
    heading            exp(-k / 10), k the segments read since one in which a heading's line was completed
    surprise           the segment's mean nats above their running mean
    steepness          log of the first gradient's root mean square (the softmax bias', if that moves) by its statistics
    distance           |theta - theta_0| / |theta_0|, in tenths

With weights w and v of each tensor k (``Gates``) a segment's rate and pull are

    alpha_kt = alpha_k * exp(sum_j w_kj f_jt),    lambda_kt = lambda_k * exp(sum_j v_kj f_jt)

so that the memory can COPY (both near 0), UPDATE or FLUSH (the gate names of Chung et al. 2017): weights of zero leave
the rule as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.models.lstm.model import Params
from dynlm.models.scratch import Scratch

_HORIZONS = (20.0, 100.0)
_SECTION = 10.0
_LONG_AGO = 1e6
# Of the running mean of a segment's nats.
_RUNNING = 0.05
# Features and factors stay moderate whatever is read.
_LARGEST_FEATURE = 3.0
_LARGEST_LOG_FACTOR = 3.0


class SegmentStats(NamedTuple):
    """Of each lane (B,): segments since its article began, its running mean nats (nan before the first), and segments
    since a heading was completed."""

    since_B: Tensor
    running_B: Tensor
    heading_B: Tensor


class GateScales(NamedTuple):
    """What the gates make of a segment: its features (B, J) and each tensor's factors of rate and pull (B, K)."""

    features_BJ: Tensor
    rate_BK: Tensor
    pull_BK: Tensor


@dataclass(frozen=True)
class Gates:
    """Weights of the features named ``features``, for each tensor: ``rate_KJ`` and ``pull_KJ``.

    ``scale``: what the first tensor's gradient is measured by (steepness); ``size``: |theta_0| (distance).
    """

    features: tuple[str, ...]
    rate_KJ: Tensor
    pull_KJ: Tensor
    scale: Tensor | None = None
    size: float = 1.0
    moves_pulls: bool = True
    """Whether pulls change at all: with weights of zero that pass is saved."""

    def to(self, device: str) -> Gates:
        """The same on another device."""
        scale = None if self.scale is None else self.scale.to(device)
        return replace(self, rate_KJ=self.rate_KJ.to(device), pull_KJ=self.pull_KJ.to(device), scale=scale)

    def told(
        self,
        pace: SegmentStats,
        nats_B: Tensor,
        gradient: Tensor,
        theta: Params,
        theta_0: Params,
        scratch: Scratch | None = None,
    ) -> Tensor:
        """The features (B, J) of a segment whose tokens cost ``nats_B`` on average, before its step.

        ``gradient`` (B, ...) is the first that it gives (``lanes.first_gradient``), as a whole; ``theta`` the weights
        that it was read with.
        """
        surprise_B = torch.where(pace.running_B.isnan(), 0.0, nats_B - pace.running_B)
        values = []
        for feature in self.features:
            if feature == "fresh":
                values.append(torch.exp(-pace.since_B / _HORIZONS[0]))
            elif feature == "settling":
                values.append(torch.exp(-pace.since_B / _HORIZONS[1]))
            elif feature == "heading":
                values.append(torch.exp(-pace.heading_B / _SECTION))
            elif feature == "surprise":
                values.append(surprise_B)
            elif feature == "steepness":
                scaled = gradient if self.scale is None else gradient * self.scale
                values.append(scaled.square().flatten(1).mean(1).clamp(min=1e-30).log() / 2)
            elif feature == "distance":
                values.append(displacement(theta, theta_0, scratch) / self.size * 10)
        return torch.stack(values, -1).clamp(-_LARGEST_FEATURE, _LARGEST_FEATURE)

    def factors(self, features_BJ: Tensor) -> GateScales:
        """Each tensor's factors; differentiable."""
        return GateScales(features_BJ, *(_exp(features_BJ @ weights.T) for weights in (self.rate_KJ, self.pull_KJ)))


def _exp(logs: Tensor) -> Tensor:
    return logs.clamp(-_LARGEST_LOG_FACTOR, _LARGEST_LOG_FACTOR).exp()


def at_bound(factor: float) -> bool:
    """Whether a factor is as large or as small as one can be."""
    return abs(math.log(factor)) >= _LARGEST_LOG_FACTOR * (1 - 1e-6)


def init_segment_stats(lanes: int, like: Tensor) -> SegmentStats:
    """Before anything was read."""
    zeros_B = like.new_zeros(lanes)
    return SegmentStats(zeros_B, zeros_B + torch.nan, zeros_B + _LONG_AGO)


def at_articles(pace: SegmentStats, starts_B: Tensor, afresh: bool) -> SegmentStats:
    """The lanes of ``starts_B`` begin an article; unless they start ``afresh`` what was usual so far is still known."""
    running_B = pace.running_B.masked_fill(starts_B, torch.nan) if afresh else pace.running_B
    return SegmentStats(
        pace.since_B.masked_fill(starts_B, 0), running_B, pace.heading_B.masked_fill(starts_B, _LONG_AGO)
    )


def at_headings(pace: SegmentStats, headings_B: Tensor) -> SegmentStats:
    """The segment that is read has a heading in the lanes of ``headings_B``: known once it was scored."""
    return pace._replace(heading_B=pace.heading_B.masked_fill(headings_B, 0))


def displacement(theta: Params, theta_0: Params, scratch: Scratch | None = None) -> Tensor:
    """|theta_t - theta_0| of each lane (B,), all dynamic tensors as one vector; differentiable without ``scratch``."""
    squares_B: Tensor | int = 0
    for name, tensor in theta.items():
        if scratch is None:
            squares_B = squares_B + (tensor - theta_0[name]).square().flatten(1).sum(1)
        else:
            moved = torch.sub(tensor, theta_0[name], out=scratch.take("moved", tuple(tensor.shape), tensor))
            # One pass; a norm has no derivative at zero.
            squares_B = squares_B + torch.linalg.vector_norm(moved.flatten(1), dim=1).square()
    # Where nothing moved yet the root has no derivative.
    return torch.as_tensor(squares_B).clamp(min=1e-30).sqrt()


def after_segment(pace: SegmentStats, nats_B: Tensor) -> SegmentStats:
    """The pace once a segment was learned from."""
    running_B = torch.where(pace.running_B.isnan(), nats_B, pace.running_B.lerp(nats_B, _RUNNING))
    return SegmentStats(pace.since_B + 1, running_B, pace.heading_B + 1)
