"""A memory as named tensors and back, bit for bit: what memory files and checkpoints of a reading hold.

Names are the places of tensors in ``Memory``: ``weights/embedding``, ``hidden/0/1``, ``pace/since_B``. Whatever fields
it has, those that a fresh memory of the same reader has tensors for are kept, and no others: what a field of the last
segment only tells (``MixtureState.experts_BT2``) is left out.

Weights and home are kept as their difference from theta_0, d = theta - theta_0 as it is rounded. theta_0 + d is not
always theta; where it is not (a weight that crossed zero, mostly: some thousandths of all), theta itself stands beside
it, by its place: ``NAME/at`` (K,) and ``NAME/is`` (K,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.state import Memory, leaves
from dynlm.models.lstm.model import Params
from dynlm.runtime.tensors import Shapes

_FROM_STATIC = ("weights", "home")
_AT, _IS = "/at", "/is"
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_tensors(memory: Memory, fresh: Memory, static: Params) -> dict[str, Tensor]:
    """``memory`` as tensors that share nothing with it; ``fresh`` is an unread memory of the same reader and lanes."""
    found = dict(leaves(memory))
    tensors: dict[str, Tensor] = {}
    for name, _ in leaves(fresh):
        theta_0 = _static_of(name, static)
        tensors |= {name: _compact(found[name])} if theta_0 is None else _difference(name, found[name], theta_0)
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], fresh: Memory, static: Params) -> Memory:
    """The memory that ``as_tensors`` was given. ``tensors`` are on the device of ``fresh``, and passed ``flaw``."""

    def read(name: str, _: Tensor) -> Tensor:
        theta_0 = _static_of(name, static)
        if theta_0 is None:
            return tensors[name].clone()
        theta = (theta_0 + tensors[name]).contiguous()
        theta.view(-1)[tensors[name + _AT].long()] = tensors[name + _IS]
        return theta

    return _rebuilt(fresh, "", read)


def flaw_of_shapes(shapes: Shapes, fresh: Memory, static: Params) -> str | None:
    """What is wrong with tensors of these shapes, in words; None where they can be a memory of this reader."""
    wanted = {name: tuple(tensor.shape) for name, tensor in leaves(fresh)}
    listed = [name + end for name in wanted if _static_of(name, static) is not None for end in (_AT, _IS)]
    for name in [*wanted, *listed]:
        if name not in shapes:
            return f"it has no tensor {name}"
        if name in wanted and tuple(shapes[name]) != wanted[name]:
            return f"its tensor {name} is {tuple(shapes[name])}, and this model and rule need {wanted[name]}"
        if name not in wanted and (len(shapes[name]) != 1 or shapes[name] != shapes[name.rpartition("/")[0] + _AT]):
            return f"its tensor {name} is {tuple(shapes[name])}, which is no list"
    if extra := sorted(set(shapes) - set(wanted) - set(listed)):
        return f"it has a tensor {extra[0]}, which this model and rule do not know"
    return None


def flaw(tensors: Mapping[str, Tensor], fresh: Memory, static: Params) -> str | None:
    """What is wrong with the values of ``tensors``, whose shapes passed ``flaw_of_shapes``; None for nothing."""
    for name, like in leaves(fresh):
        theta_0 = _static_of(name, static)
        parts = [tensors[name]] if theta_0 is None else [tensors[name], tensors[name + _IS]]
        for part in parts:
            if part.dtype != like.dtype:
                return f"its tensor {name} is of {part.dtype}, and {like.dtype} is needed"
            # A memory that has read nothing knows no running mean: nan.
            if like.isfinite().all() and not part.isfinite().all():
                return f"its tensor {name} holds what is no finite number"
        if theta_0 is not None:
            at = tensors[name + _AT]
            if at.dtype not in (torch.int32, torch.int64):
                return f"its tensor {name}{_AT} is of {at.dtype}, and places are whole numbers"
            if len(at) and (int(at.min()) < 0 or int(at.max()) >= like.numel()):
                return f"its tensor {name}{_AT} has a place that is none"
    return None


def _compact(tensor: Tensor) -> Tensor:
    """A copy without odd strides, whose bytes can be looked at: torch calls one entry of a row contiguous, too."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _difference(name: str, theta: Tensor, theta_0: Tensor) -> dict[str, Tensor]:
    moved = theta - theta_0
    bits = _BITS[theta.element_size()]
    at = ((theta_0 + moved).view(bits) != theta.view(bits)).flatten().nonzero()[:, 0]
    exact = theta.flatten()[at]
    return {name: moved, name + _AT: at.int() if theta.numel() < 2**31 else at, name + _IS: exact}


def _static_of(name: str, static: Params) -> Tensor | None:
    """theta_0 of a tensor that is kept as its difference from it."""
    field, _, rest = name.partition("/")
    return static[rest].detach() if field in _FROM_STATIC else None


def _rebuilt(like: Any, name: str, read: Callable[[str, Tensor], Tensor]) -> Any:
    """A state built as ``like`` is, of the tensors that ``read`` gives for their names."""
    if isinstance(like, Tensor):
        return read(name, like)
    if like is None:
        return None
    items = {key: _rebuilt(item, f"{name}/{key}" if name else key, read) for key, item in _items(like)}
    if isinstance(like, Mapping):
        return items
    return type(like)(*items.values()) if hasattr(like, "_fields") else tuple(items.values())


def _items(value: Any) -> list[tuple[str, Any]]:
    """The named parts of a NamedTuple, a dict or a tuple. Raises TypeError for what a memory may not be made of."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple):
        return list(zip(getattr(value, "_fields", map(str, range(len(value)))), value, strict=True))
    raise TypeError(f"a memory is made of tensors in dicts and tuples, not of {type(value).__name__}")
