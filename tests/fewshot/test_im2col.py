"""Convolutions as products of patches: torch's own convolution, to second order, under vmap."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from dynlm.fewshot.im2col import _Images, _Patches, convolve, naive_convolve


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 3), st.integers(1, 4))
def test_patches_are_a_convolution(count: int, height: int, width: int, channels: int, filters: int) -> None:
    generator = torch.Generator().manual_seed(height * 10 + width)
    images = torch.randn(count, height, width, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9 * channels, filters, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs = [form(images, weight) for form in (convolve, naive_convolve)]
    torch.testing.assert_close(*outputs)
    first = [torch.autograd.grad(out.tanh().sum(), (images, weight), create_graph=True) for out in outputs]
    second = [torch.autograd.grad(sum(g.square().sum() for g in found), (images, weight)) for found in first]
    for one, other in zip(*first, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [4, 5])
def test_images_are_the_transpose_of_patches(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, size, size, 3, generator=generator, dtype=torch.float64)
    taken = _Patches.apply(images)
    other = torch.randn(taken.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((taken * other).sum(), (images * _Images.apply(other, size, size)).sum())


def test_tasks_are_more_images() -> None:
    images, weight = torch.randn(3, 2, 6, 6, 2), torch.randn(3, 18, 4)
    together = vmap(convolve)(images, weight)
    for task in range(3):
        torch.testing.assert_close(together[task], convolve(images[task], weight[task]))
