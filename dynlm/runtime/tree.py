"""Pytrees of tensors: nested NamedTuples, tuples, lists and dicts whose leaves are tensors or None.

Model states and plug-in states are such values, with the lanes as every tensor's first dimension. What copies, splits,
resets, saves or moves them maps over their leaves and knows nothing else of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


def children(tree: Any) -> dict[str, Any]:
    """Return the children of a NamedTuple, a sequence or a dict by name. Raises TypeError for any other value."""
    if isinstance(tree, Mapping):
        return dict(tree)
    if isinstance(tree, (tuple, list)):
        return dict(zip(getattr(tree, "_fields", map(str, range(len(tree)))), tree, strict=True))
    raise TypeError(f"a pytree of tensors has no {type(tree).__name__}")


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Iterate over all tensors with their paths, such as ``params/embedding`` and ``state/0/1``."""
    if isinstance(tree, Tensor):
        yield name, tree
    elif tree is not None:
        for key, child in children(tree).items():
            yield from leaves(child, f"{name}/{key}" if name else key)


def map_named(function: Callable[..., Tensor], tree: Any, *others: Any, name: str = "") -> Any:
    """Return a tree of the same structure with ``function(path, tensor, *tensors of others)`` as leaves.

    Raises ValueError for others of another structure.
    """
    if isinstance(tree, Tensor):
        return function(name, tree, *others)
    if tree is None:
        return None
    named, *columns = map(children, (tree, *others))
    if any(column.keys() != named.keys() for column in columns):
        raise ValueError(f"pytrees of different structure: {[*map(list, (named, *columns))]}")
    mapped = {}
    for key, child in named.items():
        path = f"{name}/{key}" if name else key
        mapped[key] = map_named(function, child, *(column[key] for column in columns), name=path)
    if isinstance(tree, Mapping):
        return mapped
    return type(tree)(*mapped.values()) if hasattr(tree, "_fields") else type(tree)(mapped.values())


def map_tensors(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Return a tree of the same structure with ``function(tensor, *tensors of others)`` as leaves."""
    return map_named(lambda _, *tensors: function(*tensors), tree, *others)


def clone(tree: Any) -> Any:
    """Return a copy that shares no tensor with ``tree``."""
    return map_tensors(torch.clone, tree)


def detach(tree: Any) -> Any:
    """Return the same values without their autograd graphs."""
    return map_tensors(Tensor.detach, tree)


def to_device(tree: Any, device: torch.device | str) -> Any:
    """Return the same values on ``device``."""
    return map_tensors(lambda tensor: tensor.to(device), tree)


def select_lanes(tree: Any, lanes: slice) -> Any:
    """Return views of some lanes."""
    return map_tensors(lambda tensor: tensor[lanes], tree)


def concatenate_lanes(trees: Sequence[Any]) -> Any:
    """Return the lanes of the first tree, then those of the second, and so on."""
    return trees[0] if len(trees) == 1 else map_tensors(lambda *tensors: torch.cat(tensors), trees[0], *trees[1:])


def replace_lanes(tree: Any, other: Any, lanes_B: Tensor) -> Any:
    """Return ``tree`` with the lanes of ``lanes_B`` (bool) taken from ``other``, whatever ``tree`` holds there."""
    return map_tensors(lambda tensor, new: torch.where(expand_lanes(lanes_B, tensor), new, tensor), tree, other)


def expand_lanes(lanes_B: Tensor, like: Tensor) -> Tensor:
    """Return ``lanes_B`` with as many dimensions as ``like`` (B, ...), to broadcast against it."""
    return lanes_B.view(-1, *(1,) * (like.dim() - 1))


def num_bytes(tree: Any) -> int:
    """Return the bytes of all tensors."""
    return sum(tensor.nbytes for _, tensor in leaves(tree))
