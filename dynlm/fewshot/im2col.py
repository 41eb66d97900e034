"""3x3 convolutions with stride 2 as one matrix product of patches (im2col).

Legend: B images, H x W pixels, C channels, h = ceil(H / 2), w = ceil(W / 2), P = 9 * C, F filters.

If each task has its own weights, ``vmap`` of a convolution is a grouped convolution, whose kernels and second
derivatives are slow. Extracting patches is linear, and its transpose sums patches into an image: each is the derivative
of the other, to any order. ``torch.nn.functional.unfold`` gives the same bits and takes 20 to 30 % longer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def convolve(images_BHWC: Tensor, weight_PF: Tensor) -> Tensor:
    """Convolve 3x3 with stride 2 and padding 1 (B, h, w, F); rows of ``weight_PF`` are (3, 3, C) flattened."""
    patches_BhwP: Tensor = _Im2Col.apply(images_BHWC)
    return patches_BhwP @ weight_PF


def torch_convolve(images_BHWC: Tensor, weight_PF: Tensor, stride: int) -> Tensor:
    """Convolve 3x3 with padding 1 by torch's own kernels, which suit large feature maps."""
    channels, filters = images_BHWC.shape[-1], weight_PF.shape[-1]
    weight_FC33 = weight_PF.reshape(3, 3, channels, filters).permute(3, 2, 0, 1).contiguous()
    maps_BFhw = F.conv2d(images_BHWC.permute(0, 3, 1, 2), weight_FC33, stride=stride, padding=1)
    return maps_BFhw.permute(0, 2, 3, 1)


def _offsets(height: int, width: int) -> list[tuple[slice, slice, slice]]:
    """Return, for each of the 9 kernel positions, the pixels of the padded images that it meets."""
    rows, columns = (height + 1) // 2 * 2 - 1, (width + 1) // 2 * 2 - 1
    return [
        (slice(None), slice(row, row + rows, 2), slice(column, column + columns, 2))
        for row in range(3)
        for column in range(3)
    ]


class _Im2Col(torch.autograd.Function):
    """Images (B, H, W, C) to their patches (B, h, w, P), with zeros around the border."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        count, height, width, channels = images.shape
        padded = F.pad(images, (0, 0, 1, 1, 1, 1))
        patches = padded.new_empty(count, (height + 1) // 2, (width + 1) // 2, 9, channels)
        for position, pixels in enumerate(_offsets(height, width)):
            patches[:, :, :, position] = padded[pixels]
        return patches.flatten(3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = inputs[0].shape[-3:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Col2Im.apply(gradients[0], *ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], images: Tensor) -> tuple[Tensor, int]:
        images = images.movedim(in_dims[0], 0)
        return _Im2Col.apply(images.flatten(0, 1)).unflatten(0, images.shape[:2]), 0


class _Col2Im(torch.autograd.Function):
    """The transpose of ``_Im2Col``: patches summed into images of ``height`` x ``width`` pixels."""

    @staticmethod
    def forward(patches: Tensor, height: int, width: int) -> Tensor:
        patches = patches.unflatten(3, (9, -1))
        padded = patches.new_zeros(len(patches), height + 2, width + 2, patches.shape[-1])
        for position, pixels in enumerate(_offsets(height, width)):
            padded[pixels] += patches[:, :, :, position]
        return padded[:, 1:-1, 1:-1].contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Im2Col.apply(gradients[0]), None, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int, None, None], patches: Tensor, height: int, width: int
    ) -> tuple[Tensor, int]:
        patches = patches.movedim(in_dims[0], 0)
        return _Col2Im.apply(patches.flatten(0, 1), height, width).unflatten(0, patches.shape[:2]), 0
