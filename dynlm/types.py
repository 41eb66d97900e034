"""Types that every package shares."""

from __future__ import annotations

from typing import Any

from torch import Tensor

Params = dict[str, Tensor]
"""Tensors by name: static parameters, dynamic weights and meta-parameters alike."""
State = Any
"""A pytree of tensors (``dynlm.runtime.tree``) whose first dimension is the lanes."""
