"""Pytrees of tensors: NamedTuples, tuples, lists and dicts keep their structure, names and None."""

from typing import NamedTuple

import pytest
import torch

from dynlm.runtime.tree import (
    children,
    clone,
    concatenate_lanes,
    detach,
    expand_lanes,
    leaves,
    map_named,
    map_tensors,
    num_bytes,
    replace_lanes,
    select_lanes,
    to_device,
)


class Pair(NamedTuple):
    first: object
    second: object = None


def tree(lanes=3, value=1.0):
    column = torch.full((lanes, 2), value)
    return Pair({"a": column, "b": (column + 1, None)}, ([column + 2], ()))


def test_leaves_have_their_paths():
    assert [name for name, _ in leaves(tree())] == ["first/a", "first/b/0", "second/0/0"]
    assert [name for name, _ in leaves(torch.ones(1), "alone")] == ["alone"]
    assert list(leaves(None)) == []


def test_structure_is_kept_and_other_trees_are_mapped_along():
    added = map_tensors(lambda one, other: one + other, tree(), tree(value=5.0))
    assert isinstance(added, Pair) and isinstance(added.first, dict)
    assert added.first["b"][1] is None and added.second[1] == () and isinstance(added.second[0], list)
    assert added.second[0][0].eq(3 + 7).all()
    named = map_named(lambda name, tensor: torch.tensor(len(name)), tree(), name="x")
    assert named.first["a"] == len("x/first/a")


@pytest.mark.parametrize("other", [{"a": torch.ones(1)}, {"a": torch.ones(1), "c": torch.ones(1)}])
def test_trees_of_different_structure_are_refused(other):
    with pytest.raises(ValueError):
        map_tensors(torch.add, {"a": torch.ones(1), "b": torch.ones(1)}, other)
    with pytest.raises(ValueError):
        map_tensors(torch.add, (torch.ones(1), torch.ones(1)), (torch.ones(1),))


def test_dicts_are_matched_by_key_whatever_their_order():
    one, two = torch.ones(1), torch.full((1,), 2.0)
    found = map_tensors(torch.sub, {"a": one, "b": two}, {"b": two, "a": one})
    assert list(found) == ["a", "b"] and not any(tensor.any() for tensor in found.values())


@pytest.mark.parametrize("value", [{torch.ones(1)}, 1.0, "text"])
def test_other_values_are_refused(value):
    with pytest.raises(TypeError, match=f"no {type(value).__name__}"):
        children(value)
    with pytest.raises(TypeError):
        list(leaves((value,)))


def test_copies_share_no_tensor_and_detached_ones_no_graph():
    before = tree()
    copied = clone(before)
    before.first["a"].zero_()
    assert copied.first["a"].eq(1).all()
    grown = torch.ones(1, requires_grad=True) * 2
    assert not detach((grown,))[0].requires_grad and grown.requires_grad


def test_lanes_are_selected_as_views_and_concatenated():
    whole = tree()
    parts = [select_lanes(whole, slice(0, 1)), select_lanes(whole, slice(1, 3))]
    joined = concatenate_lanes(parts)
    for (name, one), (other_name, other) in zip(leaves(whole), leaves(joined), strict=True):
        assert name == other_name and torch.equal(one, other)
    parts[1].first["a"].zero_()
    assert whole.first["a"].tolist() == [[1, 1], [0, 0], [0, 0]]
    assert concatenate_lanes([whole]) is whole


def test_replaced_lanes_are_the_others_whatever_they_held():
    before, new = tree(value=torch.nan), tree(value=4.0)
    after = replace_lanes(before, new, torch.tensor([True, False, True]))
    assert after.first["a"][::2].eq(4).all() and after.first["a"][1].isnan().all()
    assert expand_lanes(torch.ones(3), torch.ones(3, 2, 2)).shape == (3, 1, 1)


def test_bytes_and_device():
    assert num_bytes(tree()) == 3 * 3 * 2 * 4
    assert num_bytes(None) == 0
    assert all(tensor.is_meta for _, tensor in leaves(to_device(tree(), "meta")))
