"""Tensors as files: safetensors with a JSON value beside them, so that opening one runs no code of the file's."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.files import atomic_write, cannot_write
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import parse_json
from dynlm.runtime.paths import check_regular

Shapes = Mapping[str, tuple[int, ...]]
_STORED_AS = {torch.float32: "F32", torch.float64: "F64"}
Check = Callable[[Shapes, dict[str, Any]], None]
"""Is shown a file's shapes and its JSON value before any tensor is read; raises UserError for what it refuses."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any] | None = None, private: bool = False
) -> None:
    """Write tensors and a JSON value beside them as one safetensors file, whole or not at all.

    With ``private`` a new file is for its owner alone. Raises UserError where it cannot be written.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, private) as aside:
        try:
            safetensors.torch.save_file(held, aside, metadata={"about": json.dumps(about or {})})
        except safetensors.SafetensorError as error:
            # The library tells the system's number in its text only.
            number = re.search(r"os error (\d+)", str(error))
            cause = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
            raise cannot_write(path, cause) from error


def load_tensors(
    path: Path, device: torch.device | str = "cpu", shapes: Shapes | None = None, check: Check | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    A header can claim no more than the file holds: safetensors refuses it. With ``shapes`` it has to claim just these
    tensors, of torch's default type (float32), and that is seen, as what ``check`` refuses, before any of them is made.
    Raises UserError where the file is missing, cut short or something else.
    """
    with _opened(path, device) as (file, about):
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        found = {name: tuple(one.get_shape()) for name, one in slices.items()}
        if shapes is not None:
            check_shapes(found, shapes, path)
            default = torch.get_default_dtype()
            if other := [name for name, one in slices.items() if one.get_dtype() != _STORED_AS[default]]:
                raise ValueError(f"tensor {other[0]} is not of {str(default).removeprefix('torch.')}")
        if check is not None:
            check(found, about)
        # Into storage of torch's own. The file is mapped at an address that its header's length decides, and products
        # of one row round by alignment: a copy that moves by rates of zero would then lose other bits than theta_0.
        return {name: file.get_tensor(name).clone() for name in slices}, about


def load_json_of_tensors(path: Path) -> dict[str, Any]:
    """The JSON value alone; no tensor is read. Raises UserError as ``load_tensors`` does."""
    with _opened(path, "cpu") as (_, about):
        return about


@contextmanager
def _opened(path: Path, device: torch.device | str) -> Iterator[tuple[Any, dict[str, Any]]]:
    check_regular(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            about = parse_json((file.metadata() or {}).get("about", "{}"))
            if not isinstance(about, dict):
                raise ValueError("what it says of itself is no object")
            yield file, about
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"not a whole safetensors file ({error})", path, "it may be cut short; restore it or make it anew"
        ) from error


def check_shapes(found: Shapes, wanted: Shapes, where: Path) -> None:
    """Raise UserError unless just the ``wanted`` tensors were ``found``."""
    for name, shape in wanted.items():
        if found.get(name) != shape:
            raise UserError(f"tensor {name} is {found.get(name)}, the model needs {shape}", where)
    if extra := set(found) - set(wanted):
        raise UserError(f"tensors that the model does not know: {', '.join(sorted(extra))}", where)


def params_fingerprint(params: Mapping[str, Tensor]) -> str:
    """What tells one set of tensors from another."""
    parts: list[bytes | str] = []
    for name in sorted(params):
        parts += [name, params[name].detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()]
    return fingerprint(*parts)
