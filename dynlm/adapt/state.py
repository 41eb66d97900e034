"""What a dynamic model carries from segment to segment, as a value.

Static parameters theta_0 (long-term memory), dynamic weights theta_t (medium-term) and the model's state (short-term)
have three names here and are never mixed: only dynamic tensors have copies that move, one for each lane.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from dynlm.adapt.gates import displacement, norm
from dynlm.adapt.rules.base import RuleState
from dynlm.adapt.update_filter import FilterState
from dynlm.errors import UserError
from dynlm.models.protocol import SequenceModel
from dynlm.runtime.tree import clone
from dynlm.types import Params, State


class Memory(NamedTuple):
    """The state of a reading in B lanes: dynamic weights (B, ...), the model's state, and one state for each plug-in.

    Where a plug-in keeps nothing, or is not there, the rule's state is empty and the others' are None.
    """

    params: Params
    state: State
    rule: RuleState = RuleState()
    cache: Any = None
    mixture: Any = None
    filter: FilterState | None = None

    def copy(self) -> Memory:
        """Return a memory that further reading of this one leaves as it is."""
        return clone(self)


def distance(memory: Memory, static: Params) -> Tensor:
    """Return |theta_t - theta_0| / |theta_0| of each lane (B,), all dynamic tensors as one vector."""
    return displacement(memory.params, static) / norm(static[name] for name in memory.params)


def dynamic_tensors(model: SequenceModel, patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the tensors that fit a pattern. Raises UserError for a pattern that fits none."""
    names = tuple(model.shapes())
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            what = f"memory.dynamic has {pattern!r}, which fits no tensor"
            raise UserError(what, do=f"the tensors are {', '.join(names)}")
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
