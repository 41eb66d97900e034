"""What a reader carries from segment to segment, as a value.

Static parameters theta_0 (long-term), dynamic weights theta_t (medium-term) and the LSTM's state (short-term) have
three names here and are never mixed: only the tensors of ``dynamic`` have copies that move, one for each lane.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.memory.hedge import Hedge
from dynlm.model.lstm import Hidden, LSTMLanguageModel, Params


class Memory(NamedTuple):
    """The state of a reading in B lanes: each lane's dynamic weights (B, ...) and LSTM state (B, H).

    ``hedge``: the same of the mixture with level 1, where one is read.
    """

    weights: Params
    hidden: Hidden
    hedge: Hedge | None = None

    def copy(self) -> Memory:
        """A memory that further reading of this one leaves as it is."""
        weights = {name: tensor.clone() for name, tensor in self.weights.items()}
        hedge = None if self.hedge is None else self.hedge.copy()
        return Memory(weights, tuple((h.clone(), c.clone()) for h, c in self.hidden), hedge)

    def of_lane(self, lane: int) -> Params:
        """One lane's dynamic weights, shaped as the static parameters are."""
        return {name: tensor[lane] for name, tensor in self.weights.items()}


def distance(memory: Memory, static: Params) -> Tensor:
    """How far each lane's memory (B,) has moved: |theta_t - theta_0| / |theta_0|, all dynamic tensors as one vector."""
    moved_B = sum((tensor - static[name]).square().flatten(1).sum(1) for name, tensor in memory.weights.items())
    home = sum(static[name].square().sum() for name in memory.weights)
    return torch.sqrt(torch.as_tensor(moved_B) / torch.as_tensor(home))


def dynamic_tensors(model: LSTMLanguageModel, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the tensors that move. Raises UserError for a pattern that fits none."""
    names = tuple(model.shapes())
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"memory.dynamic has {pattern!r}, which fits no tensor", do=f"the tensors are {', '.join(names)}"
            )
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def fresh_memory(model: LSTMLanguageModel, static: Params, dynamic: Sequence[str], lanes: int = 1) -> Memory:
    """The memory before anything is read: every lane's dynamic weights are copies of the static parameters."""
    weights = {}
    for name in dynamic:
        tensor = static[name].detach()
        weights[name] = tensor.new_empty(lanes, *tensor.shape).copy_(tensor)
    return Memory(weights, model.initial_hidden(lanes, static["embedding"].detach()))
