"""Rates that reading itself finds, by the hypergradient of the losses that follow: the slow rate and the decay.

Legend: B lanes.

A rate r is moved by a shift of its log-odds (the slow rate) or of its logarithm (the decay, the same shift for all
tensors). To first order a shift changes the loss of segment t by

    h_t = <u_t, m_t>,    m_t = d theta_t / d shift,    u_t the gradient of segment t

which is one product of tensors that are at hand. The shift takes a step against it after each segment (hypergradient
descent: Baydin et al. 2018, arXiv 1703.04782), normalised by the root of the running mean of its square, as Adam's are:

    shift <- shift - step * h_t / sqrt(mean of h^2)

What is to come teaches what to keep; the loss of a segment never depends on a later one. u and the gates are constants
in m, as in ``adapt.meta_gradient.forward``.

The slow rate c is the share of the weights' distance from the anchor that the anchor takes in at an article's end. The
decay within an article is toward the anchor, so a change of c moves all weights of the next article by

    m = limits * (theta - anchor),    theta and anchor as they were at the article's end    (slot ``moved``)

The decay beta moves the weights at every step, and more of what is older:

    m <- (1 - beta) m + beta * (anchor - theta)    (slot ``decay_sensitivity``)

and by the share 1 - boundary_reset of itself into the next article.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.models.scratch import Scratch

_MEAN = 0.98
_LARGEST_SHIFT = 4.0
_EDGE = 0.02
"""A slow rate of 0 or 1 has no log-odds: it starts this far from there."""


class OnlineShift(NamedTuple):
    """Of each lane (B,): the shift of a rate, the hypergradient of the segment that is learned from (summed over
    tensors, in place), the running mean of its square, and that mean's weight."""

    shift_B: Tensor
    slope_B: Tensor
    square_B: Tensor
    weight_B: Tensor

    @classmethod
    def initial(cls, lanes: int, like: Tensor) -> OnlineShift:
        """Return the state before anything was read: no shift."""
        return cls(*(like.new_zeros(lanes) for _ in cls._fields))

    def restart(self, fresh_B: Tensor) -> OnlineShift:
        """Return the state where the lanes ``fresh_B`` (bool) have read nothing."""
        return OnlineShift(*(tensor.masked_fill(fresh_B, 0) for tensor in self))

    def add_slope_(self, u: Tensor, moved: Tensor) -> None:
        """Add <u, m> of some rows of a tensor, both (B, R, ...), to the segment's hypergradient."""
        for lane in range(len(u)):
            self.slope_B[lane].add_(torch.dot(u[lane].reshape(-1), moved[lane].reshape(-1)))

    def end_segment(self, step: float) -> OnlineShift:
        """Return the state after a segment. A hypergradient that is not finite, or 0, changes nothing."""
        slope_B = self.slope_B.where(self.slope_B.isfinite(), 0)
        seen_B = slope_B != 0
        square_B = self.square_B.lerp(slope_B.square(), 1 - _MEAN).where(seen_B, self.square_B)
        weight_B = self.weight_B.lerp(torch.ones_like(slope_B), 1 - _MEAN).where(seen_B, self.weight_B)
        rms_B = (square_B / weight_B.clamp(min=1 - _MEAN)).sqrt().clamp(min=1e-30)
        shift_B = (self.shift_B - step * slope_B / rms_B).clamp(-_LARGEST_SHIFT, _LARGEST_SHIFT)
        return OnlineShift(shift_B, torch.zeros_like(slope_B), square_B, weight_B)


def shifted(rate: float | Tensor, shift: Tensor) -> Tensor:
    """Return a slow rate whose log-odds are shifted; differentiable by ``rate``."""
    base = torch.as_tensor(rate, dtype=shift.dtype, device=shift.device).clamp(_EDGE, 1 - _EDGE)
    return torch.sigmoid(torch.logit(base) + shift)


def slope_of_shifted(rate: float, shift: Tensor) -> float:
    """Return the derivative of ``shifted`` by ``rate``."""
    if not _EDGE <= rate <= 1 - _EDGE:
        return 0.0
    now = float(shifted(rate, shift))
    return now * (1 - now) / (rate * (1 - rate))


def decay_sensitivity_(m: Tensor, theta: Tensor, anchor: Tensor, beta: Tensor | float, scratch: Scratch) -> None:
    """Carry d theta / d log decay of some rows (B, R, ...) over a step from ``theta``, in place."""
    away = torch.sub(anchor, theta, out=scratch.take("away", tuple(theta.shape), theta))
    m.lerp_(away, beta)
