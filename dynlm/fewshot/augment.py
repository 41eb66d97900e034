"""Random augmentation of images: rotation, shear, scaling, shift and a smooth displacement.

Legend: N images of C channels, H x W pixels of an input, S pixels along each side of an output.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Augmentation(NamedTuple):
    """Half-widths of uniform distributions, except ``bend``."""

    rotation: float
    """Degrees."""
    shear: float
    scale: float
    """Logarithm of the factor, of height and width independently."""
    shift: float
    """Fraction of the side."""
    bend: float
    """Standard deviation of the displacement, as a fraction of the side."""

    def scaled(self, factor: float) -> Augmentation:
        """Return the augmentation with all widths multiplied by ``factor``."""
        return Augmentation(*(factor * width for width in self))


def augment(images_NCHW: Tensor, size: int, widths: Augmentation, generator: torch.Generator) -> Tensor:
    """Transform each image at random (N, C, S, S); pixels from outside an image are 0."""
    count = len(images_NCHW)

    def uniform(width: float) -> Tensor:
        return width * (2 * torch.rand(count, generator=generator) - 1)

    angle, shear = torch.deg2rad(uniform(widths.rotation)), uniform(widths.shear)
    scale_x, scale_y = (torch.exp(uniform(widths.scale)) for _ in range(2))
    cos, sin = angle.cos(), angle.sin()
    # Rows of the affine map from an output position to the input position that it shows.
    matrix_N23 = torch.stack(
        [
            torch.stack([scale_x * cos, scale_x * (shear * cos - sin), 2 * uniform(widths.shift)], -1),
            torch.stack([scale_y * sin, scale_y * (shear * sin + cos), 2 * uniform(widths.shift)], -1),
        ],
        1,
    )
    grid_NSS2 = F.affine_grid(matrix_N23, [count, 1, size, size], align_corners=False)
    if widths.bend:
        bend_N255 = 2 * widths.bend * torch.randn(count, 2, 5, 5, generator=generator)
        bend_N2SS = F.interpolate(bend_N255, size=(size, size), mode="bicubic", align_corners=True)
        grid_NSS2 = grid_NSS2 + bend_N2SS.permute(0, 2, 3, 1)
    return F.grid_sample(images_NCHW, grid_NSS2, align_corners=False)
