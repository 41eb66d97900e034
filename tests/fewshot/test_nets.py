"""im2col agrees with torch's convolution, to second order and under vmap."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from dynlm.fewshot.nets import _Col2Im, _Im2Col, convolve, torch_convolve


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9), st.integers(1, 3), st.integers(1, 4))
def test_im2col_agrees_with_torch(count: int, height: int, width: int, channels: int, filters: int) -> None:
    generator = torch.Generator().manual_seed(height * 10 + width)
    images = torch.randn(count, height, width, channels, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(9 * channels, filters, generator=generator, dtype=torch.float64, requires_grad=True)
    outputs = [form(images, weight) for form in (convolve, functools.partial(torch_convolve, stride=2))]
    torch.testing.assert_close(*outputs)
    first = [torch.autograd.grad(out.tanh().sum(), (images, weight), create_graph=True) for out in outputs]
    second = [torch.autograd.grad(sum(g.square().sum() for g in found), (images, weight)) for found in first]
    for one, other in zip(*first, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("size", [4, 5])
def test_col2im_is_the_transpose_of_im2col(size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, size, size, 3, generator=generator, dtype=torch.float64)
    patches = _Im2Col.apply(images)
    other = torch.randn(patches.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close((patches * other).sum(), (images * _Col2Im.apply(other, size, size)).sum())


def test_vmap_equals_a_loop() -> None:
    images, weight = torch.randn(3, 2, 6, 6, 2), torch.randn(3, 18, 4)
    together = vmap(convolve)(images, weight)
    for task in range(3):
        torch.testing.assert_close(together[task], convolve(images[task], weight[task]))
