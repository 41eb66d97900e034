"""Scratch buffers: allocated once, grown when needed, one for each name, dtype and device."""

import torch

from dynlm.models.scratch import Scratch

LIKE = torch.zeros(1)


def test_a_buffer_is_allocated_once_and_grown_when_needed():
    scratch = Scratch()
    first = scratch.take("a", (3, 4), LIKE)
    assert scratch.take("a", (3, 4), LIKE) is first
    assert scratch.take("a", (2, 2), LIKE).data_ptr() == first.data_ptr()
    assert scratch.take("b", (3, 4), LIKE).data_ptr() != first.data_ptr()
    assert scratch.bytes() == 2 * 12 * 4
    assert scratch.take("a", (5, 4), LIKE).shape == (5, 4)
    assert scratch.bytes() == (20 + 12) * 4


def test_another_dtype_gets_another_buffer():
    scratch = Scratch()
    scratch.take("a", (4,), LIKE)
    assert scratch.take("a", (4,), LIKE.double()).dtype == torch.float64


def test_a_zeroed_buffer_is_zero_when_allocated():
    assert Scratch().take("a", (50,), LIKE, zeroed=True).eq(0).all()


def test_views_are_rebuilt_after_a_buffer_was_reallocated():
    scratch = Scratch()
    views = scratch.once("halves", lambda: scratch.take("a", (4,), LIKE).chunk(2))
    assert scratch.once("halves", lambda: None) is views
    scratch.take("a", (400,), LIKE)
    moved = scratch.once("halves", lambda: scratch.take("a", (4,), LIKE).chunk(2))
    assert moved is not views
    assert moved[0].data_ptr() == scratch.take("a", (400,), LIKE).data_ptr()
