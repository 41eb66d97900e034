"""Random warps of drawings: turned, sheared, scaled, shifted, and bent by a smooth displacement.

Legend: D drawings of C channels, P x P places of one, S the side of what is drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Warp(NamedTuple):
    """How far warps go: half-widths of uniform draws, but for the bend, a standard deviation."""

    turn: float
    """Degrees."""
    shear: float
    scale: float
    """Logarithm of the factor, height and width each for itself."""
    shift: float
    """Share of the side."""
    bend: float
    """Share of the side."""

    def times(self, factor: float) -> Warp:
        """The same, so many times as far."""
        return Warp(*(factor * width for width in self))


def warped(drawings_DCPP: Tensor, size: int, warp: Warp, generator: torch.Generator) -> Tensor:
    """Each drawing under a warp of its own: (D, C, S, S). What comes in from outside a drawing is 0, the ground."""
    count = len(drawings_DCPP)

    def spread(width: float) -> Tensor:
        return width * (2 * torch.rand(count, generator=generator) - 1)

    turn, shear = torch.deg2rad(spread(warp.turn)), spread(warp.shear)
    scale_x, scale_y = (torch.exp(spread(warp.scale)) for _ in range(2))
    cos, sin = turn.cos(), turn.sin()
    # Rows of the map from a place on what is drawn to the place on the drawing that it shows.
    matrix_D23 = torch.stack(
        [
            torch.stack([scale_x * cos, scale_x * (shear * cos - sin), 2 * spread(warp.shift)], -1),
            torch.stack([scale_y * sin, scale_y * (shear * sin + cos), 2 * spread(warp.shift)], -1),
        ],
        1,
    )
    grid_DSS2 = F.affine_grid(matrix_D23, [count, 1, size, size], align_corners=False)
    if warp.bend:
        bend_D255 = 2 * warp.bend * torch.randn(count, 2, 5, 5, generator=generator)
        bend_D2SS = F.interpolate(bend_D255, size=(size, size), mode="bicubic", align_corners=True)
        grid_DSS2 = grid_DSS2 + bend_D2SS.permute(0, 2, 3, 1)
    return F.grid_sample(drawings_DCPP, grid_DSS2, align_corners=False)
