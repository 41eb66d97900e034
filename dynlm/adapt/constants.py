"""The fingerprint of what decides on a reading besides its options: the constants of its plug-ins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.rules.base import Rule
from dynlm.runtime.hashing import Hasher

_VERSION = "2-"
EARLIER_CONSTANTS = re.compile("[0-9a-f]{16}")
"""Fingerprints without a version are those of an earlier dynlm, and cannot be compared."""


def constants_of(dynamic_model: DynamicModel) -> str:
    """Return a fingerprint of the constants of a model's rule, cache and mixture."""
    hasher = Hasher()
    _add(
        hasher,
        (type(dynamic_model.rule).__name__, dynamic_model.rule.constants(), dynamic_model.cache, dynamic_model.mixture),
    )
    return f"{_VERSION}{hasher.hexdigest()}"


def _add(hasher: Hasher, value: Any) -> None:
    if isinstance(value, Tensor):
        hasher.add(f"{value.dtype} {tuple(value.shape)}")
        hasher.add(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, Rule):
        _add(hasher, value.constants())
    elif dataclasses.is_dataclass(value):
        _add(hasher, {item.name: getattr(value, item.name) for item in dataclasses.fields(value)})
    elif isinstance(value, Mapping):
        hasher.add(f"{len(value)} named")
        for name, item in value.items():
            hasher.add(str(name))
            _add(hasher, item)
    elif isinstance(value, tuple):
        hasher.add(f"{len(value)} in order")
        for item in value:
            _add(hasher, item)
    elif value is None or isinstance(value, (bool, int, float, str)):
        hasher.add(repr(value))
    else:
        raise TypeError(f"constants of a plug-in have a {type(value).__name__}, which cannot be hashed")
