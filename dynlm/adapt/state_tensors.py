"""A memory as named tensors and back, bit for bit: the content of memory files and checkpoints.

Names are the paths of tensors in ``Memory``: ``params/NAME``, ``state/0/1``, ``rule/slots/anchor/NAME``. Only what a
fresh memory of the same model has is kept.

Weights, and slots that start as the static parameters, are kept as their difference d = theta - theta_0 as it is
rounded. theta_0 + d is not always theta; where it is not (a weight that crossed zero, mostly: some thousandths of all),
theta itself is kept beside it, by its index: ``NAME/at`` (K,) and ``NAME/is`` (K,).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.runtime.tensors import Shapes
from dynlm.runtime.tree import leaves, map_named

_AT, _IS = "/at", "/is"
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_tensors(memory: Memory, dynamic_model: DynamicModel, lanes: int = 1) -> dict[str, Tensor]:
    """Return ``memory``, which ``dynamic_model`` left in ``lanes`` lanes, as tensors that share nothing with it."""
    found, tensors = dict(leaves(memory)), dict[str, Tensor]()
    for name, _ in leaves(dynamic_model.fresh_memory(lanes)):
        theta, theta_0 = found[name], _static_of(name, dynamic_model)
        if theta_0 is None:
            # A copy without unusual strides, whose bytes can be viewed.
            tensors[name] = theta.detach().clone(memory_format=torch.contiguous_format)
            continue
        moved, bits = theta - theta_0, _BITS[theta.element_size()]
        at = ((theta_0 + moved).view(bits) != theta.view(bits)).flatten().nonzero()[:, 0]
        exact = {_AT: at.int() if theta.numel() < 2**31 else at, _IS: theta.flatten()[at]}
        tensors |= {name: moved, **{name + end: tensor for end, tensor in exact.items()}}
    return tensors


def from_tensors(tensors: Mapping[str, Tensor], dynamic_model: DynamicModel, lanes: int = 1) -> Memory:
    """Return the memory of ``as_tensors``. ``tensors`` are on the model's device and passed ``flaw``."""

    def read(name: str, _: Tensor) -> Tensor:
        theta_0 = _static_of(name, dynamic_model)
        if theta_0 is None:
            return tensors[name].clone()
        theta = (theta_0 + tensors[name]).contiguous()
        theta.view(-1)[tensors[name + _AT].long()] = tensors[name + _IS]
        return theta

    return map_named(read, dynamic_model.fresh_memory(lanes))


def flaw_of_shapes(shapes: Shapes, dynamic_model: DynamicModel, lanes: int = 1) -> str | None:
    """Return why tensors of these shapes cannot be a memory of this model; None where they can."""
    wanted = {name: tuple(tensor.shape) for name, tensor in leaves(dynamic_model.fresh_memory(lanes))}
    lists = [name + end for name in wanted if _static_of(name, dynamic_model) is not None for end in (_AT, _IS)]
    for name in [*wanted, *lists]:
        if name not in shapes:
            return f"it has no tensor {name}"
        if name in wanted and tuple(shapes[name]) != wanted[name]:
            return f"its tensor {name} is {tuple(shapes[name])}, and this model and rule need {wanted[name]}"
        if name not in wanted and (len(shapes[name]) != 1 or shapes[name] != shapes[name.rpartition("/")[0] + _AT]):
            return f"its tensor {name} is {tuple(shapes[name])}, which is no list"
    if extra := sorted(set(shapes) - set(wanted) - set(lists)):
        return f"it has a tensor {extra[0]}, which this model and rule do not know"
    return None


def flaw(tensors: Mapping[str, Tensor], dynamic_model: DynamicModel, lanes: int = 1) -> str | None:
    """Return what is wrong with the values of ``tensors``, whose shapes passed ``flaw_of_shapes``; None for nothing."""
    for name, like in leaves(dynamic_model.fresh_memory(lanes)):
        for part in [tensors[end] for end in (name, name + _IS) if end in tensors]:
            if part.dtype != like.dtype:
                return f"its tensor {name} is of {part.dtype}, and {like.dtype} is needed"
            # A memory that has read nothing has no running mean: NaN.
            if like.isfinite().all() and not part.isfinite().all():
                return f"its tensor {name} holds a number that is not finite"
        if (at := tensors.get(name + _AT)) is not None:
            if at.dtype not in (torch.int32, torch.int64):
                return f"its tensor {name}{_AT} is of {at.dtype}, and indices are whole numbers"
            if len(at) and (int(at.min()) < 0 or int(at.max()) >= like.numel()):
                return f"its tensor {name}{_AT} has an index out of range"
    return None


def _static_of(name: str, dynamic_model: DynamicModel) -> Tensor | None:
    """Return theta_0 of a tensor that is kept as its difference from it."""
    part, _, rest = name.partition("/")
    if part == "params":
        return dynamic_model.static[rest].detach()
    if name.startswith("rule/slots/"):
        _, _, slot, tensor = name.split("/", 3)
        return dynamic_model.static[tensor].detach() if dynamic_model.rule.slots[slot].fill is None else None
    return None
