"""Convolutions of 3x3 with stride 2 as one matrix product: the patches of an image as rows of a matrix.

Legend: B images, H x W places, C channels, h = ceil(H / 2), w = ceil(W / 2), P = 9 * C.

When each task has weights of its own a convolution is a grouped one, whose kernels are slow and have no second
derivative worth the name. Patches are linear in the image, and their transpose is the sum of patches back into an
image: each is the other's derivative, to any order, and tasks are just more images.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def patches(images_BHWC: Tensor) -> Tensor:
    """The 3x3 neighbourhood of every other place, zeros around the border: (B, h, w, 9 * C)."""
    taken: Tensor = _Patches.apply(images_BHWC)
    return taken


def convolve(images_BHWC: Tensor, weight_PF: Tensor) -> Tensor:
    """A 3x3 convolution with stride 2 and padding 1: (B, h, w, F). ``weight_PF`` is (3 * 3 * C, F)."""
    return patches(images_BHWC) @ weight_PF


def naive_convolve(images_BHWC: Tensor, weight_PF: Tensor, stride: int = 2) -> Tensor:
    """The same by torch's own convolution, with any stride: the reference, and the way of large maps."""
    channels, filters = images_BHWC.shape[-1], weight_PF.shape[-1]
    weight_FC33 = weight_PF.reshape(3, 3, channels, filters).permute(3, 2, 0, 1).contiguous()
    maps_BFhw = F.conv2d(images_BHWC.permute(0, 3, 1, 2), weight_FC33, stride=stride, padding=1)
    return maps_BFhw.permute(0, 2, 3, 1)


def _gather(images_BHWC: Tensor) -> Tensor:
    count, height, width, channels = images_BHWC.shape
    padded = F.pad(images_BHWC, (0, 0, 1, 1, 1, 1))
    high, wide = (height + 1) // 2, (width + 1) // 2
    taken = padded.new_empty(count, high, wide, 9, channels)
    for place in range(9):
        row, column = divmod(place, 3)
        taken[:, :, :, place] = padded[:, row : row + 2 * high - 1 : 2, column : column + 2 * wide - 1 : 2]
    return taken.flatten(3)


def _scatter(taken_BhwP: Tensor, height: int, width: int) -> Tensor:
    count, high, wide, _ = taken_BhwP.shape
    taken = taken_BhwP.unflatten(3, (9, -1))
    padded = taken.new_zeros(count, height + 2, width + 2, taken.shape[-1])
    for place in range(9):
        row, column = divmod(place, 3)
        padded[:, row : row + 2 * high - 1 : 2, column : column + 2 * wide - 1 : 2] += taken[:, :, :, place]
    return padded[:, 1:-1, 1:-1].contiguous()


class _Patches(torch.autograd.Function):
    """Image to patches; its derivative is ``_Images``."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        return _gather(images)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = inputs[0].shape[-3:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Images.apply(gradients[0], *ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], images: Tensor) -> tuple[Tensor, int]:
        tasks = images.movedim(in_dims[0], 0)
        return _Patches.apply(tasks.flatten(0, 1)).unflatten(0, tasks.shape[:2]), 0


class _Images(torch.autograd.Function):
    """Patches summed back into an image: the transpose of ``_Patches``, which is its derivative."""

    @staticmethod
    def forward(taken: Tensor, height: int, width: int) -> Tensor:
        return _scatter(taken, height, width)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Patches.apply(gradients[0]), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], taken: Tensor, height: int, width: int) -> tuple[Tensor, int]:
        tasks = taken.movedim(in_dims[0], 0)
        return _Images.apply(tasks.flatten(0, 1), height, width).unflatten(0, tasks.shape[:2]), 0
