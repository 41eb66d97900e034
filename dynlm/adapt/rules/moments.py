"""The running moments of Adam (Kingma & Ba 2015, arXiv 1412.6980), which make an update of a gradient.

    m <- beta1 m + (1 - beta1) u,   v <- beta2 v + (1 - beta2) u^2,   update = m' / (sqrt(v') + 1e-8)

u is the gradient of a segment's mean nats; m' and v' are corrected for their start at zero, by the number of steps that
a lane has taken since its weights were the static parameters.

Legend: B lanes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.base import Slot
from dynlm.models.scratch import Scratch
from dynlm.runtime.tree import expand_lanes
from dynlm.types import Params

EPSILON = 1e-8
SLOTS = {"mean": Slot(), "square": Slot()}


class Moments(NamedTuple):
    """Decays of the mean of gradients and of the mean of their squares."""

    beta1: float
    beta2: float

    def update(self, slots: Params, u: Tensor, steps_B: Tensor, scratch: Scratch) -> Tensor:
        """Return the update by the gradient ``u`` in scratch, after ``steps_B`` earlier ones; ``slots`` stay."""
        mean, square = _next(u, scratch)
        torch.lerp(slots["mean"], u, 1 - self.beta1, out=mean)
        torch.mul(slots["square"], self.beta2, out=square).addcmul_(u, u, value=1 - self.beta2)
        rest_B, root_B = 1 - self.beta1 ** (steps_B + 1), (1 - self.beta2 ** (steps_B + 1)).sqrt()
        update = torch.sqrt(square, out=scratch.take("update", tuple(u.shape), u)).add_(
            expand_lanes(EPSILON * root_B, u)
        )
        return torch.div(mean, update, out=update).mul_(expand_lanes(root_B / rest_B, u))

    def take_(self, slots: Params, scratch: Scratch) -> None:
        """Write the moments that ``update`` was last called for over ``slots``."""
        for slot, moment in zip(SLOTS, _next(slots["mean"], scratch), strict=True):
            slots[slot].copy_(moment)


def _next(like: Tensor, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Return the buffers of the next moments."""
    shape = tuple(like.shape)
    return scratch.take("next mean", shape, like), scratch.take("next square", shape, like)
