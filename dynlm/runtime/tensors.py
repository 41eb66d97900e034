"""Tensors in safetensors files with a JSON object as metadata; loading one runs no code of the file."""

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
from dynlm.runtime.files import atomic_write, cannot_write, check_regular
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import parse_json

Shapes = Mapping[str, tuple[int, ...]]
Check = Callable[[Shapes, dict[str, Any]], None]
"""Gets a file's shapes and metadata before any tensor is read; raises UserError to reject the file."""
_DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.float16: "F16", torch.bfloat16: "BF16"}


def save_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    about: Mapping[str, Any] | None = None,
    private: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors and their metadata ``about`` (for JSON) to a safetensors file, atomically.

    With ``private`` only the owner may read a new file. ``metadata``: instead of ``about``, for files that other
    programs read. Raises UserError if it cannot be written.
    """
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, private) as staged:
        try:
            entries = {"about": json.dumps(about or {})} if metadata is None else dict(metadata)
            safetensors.torch.save_file(contiguous, staged, metadata=entries)
        except safetensors.SafetensorError as error:
            # The library gives the system's error number in its message only.
            number = re.search(r"os error (\d+)", str(error))
            cause = OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))
            raise cannot_write(path, cause) from error


def load_tensors(
    path: Path,
    device: torch.device | str = "cpu",
    shapes: Shapes | None = None,
    check: Check | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the tensors and the metadata of a file of ``save_tensors``.

    With ``shapes`` the file must have just these tensors, of the type ``dtype``, by default torch's default one. This
    and ``check`` are tested on the header, which cannot claim more than the file holds, before any tensor is allocated.
    Raises UserError if the file is missing, truncated or something else.
    """
    with _open(path, device) as (file, about):
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict.
        found = {name: tuple(part.get_shape()) for name, part in slices.items()}
        if shapes is not None:
            check_shapes(found, shapes, path)
            dtype = torch.get_default_dtype() if dtype is None else dtype
            if other := [name for name, part in slices.items() if part.get_dtype() != _DTYPES[dtype]]:
                raise ValueError(f"tensor {other[0]} is not of {str(dtype).removeprefix('torch.')}")
        if check is not None:
            check(found, about)
        # Copied into torch's own storage: the file is mapped at an address that depends on the header's length, and
        # products of one row round differently with the alignment. Results would depend on the metadata.
        return {name: file.get_tensor(name).clone() for name in slices}, about


def load_metadata(path: Path) -> dict[str, Any]:
    """Load the metadata alone, without reading a tensor. Raises UserError as ``load_tensors`` does."""
    with _open(path, "cpu") as (_, about):
        return about


@contextmanager
def _open(path: Path, device: torch.device | str) -> Iterator[tuple[Any, dict[str, Any]]]:
    check_regular(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            about = parse_json((file.metadata() or {}).get("about", "{}"))
            if not isinstance(about, dict):
                raise ValueError("its metadata is not an object")
            yield file, about
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        do = "it may be cut short; restore or create it again"
        raise UserError(f"not a whole safetensors file ({error})", path, do) from error


def check_shapes(found: Shapes, expected: Shapes, where: Path) -> None:
    """Raise UserError unless names and shapes of the tensors are those ``expected``."""
    for name, shape in expected.items():
        if found.get(name) != shape:
            raise UserError(f"tensor {name} is {found.get(name)}, the model needs {shape}", where)
    if extra := set(found) - set(expected):
        raise UserError(f"tensors that the model does not know: {', '.join(sorted(extra))}", where)


def params_fingerprint(params: Mapping[str, Tensor]) -> str:
    """Return the fingerprint of tensors with their names."""
    return fingerprint(*(part for name in sorted(params) for part in (name, data_of(params[name]))))


def data_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a tensor's elements, in their order."""
    tensor = tensor.detach().cpu().contiguous()
    # A tensor of one element may have any stride and count as contiguous.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy().data
