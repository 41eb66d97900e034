"""What a reader carries from segment to segment, as a value.

Static parameters theta_0 (long-term), dynamic weights theta_t (medium-term) and the LSTM's state (short-term) have
three names here and are never mixed: only the tensors of ``dynamic`` have copies that move, one for each lane.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.gates import SegmentStats, displacement, init_segment_stats
from dynlm.adapt.partners.cache import CacheState
from dynlm.adapt.partners.mixture import MixtureState
from dynlm.adapt.rules.elementwise import Rule
from dynlm.adapt.rules.per_weight_lstm import fresh_coordinates
from dynlm.adapt.update_filter import FilterState
from dynlm.errors import UserError
from dynlm.models.lstm.model import Hidden, LSTMLanguageModel, Params

_NONE: Params = {}


class Memory(NamedTuple):
    """The state of a reading in B lanes: each lane's dynamic weights (B, ...) and LSTM state (B, H).

    What else a rule asks for is there or empty: ``pace`` for its gates, ``home`` (B, ...), theta_0 and what earlier
    articles left of themselves, ``velocity`` (B, ...), the running gradient of a rule with momentum, and
    ``coordinates``, the state of each weight's gates (``memory.coordinates``). ``cache`` is there where a reader has
    one, ``hedge`` where it mixes with level 1, ``guarded`` where it has a guard.
    """

    weights: Params
    hidden: Hidden
    pace: SegmentStats | None = None
    home: Params = _NONE
    velocity: Params = _NONE
    coordinates: Params = _NONE
    cache: CacheState | None = None
    hedge: MixtureState | None = None
    guarded: FilterState | None = None

    def copy(self) -> Memory:
        """A memory that further reading of this one leaves as it is."""
        return Memory(
            _cloned(self.weights),
            tuple((h.clone(), c.clone()) for h, c in self.hidden),
            self.pace,
            _cloned(self.home),
            _cloned(self.velocity),
            _cloned(self.coordinates),
            self.cache and self.cache.copy(),
            self.hedge and self.hedge.copy(),
            self.guarded and self.guarded.copy(),
        )

    def of_lane(self, lane: int) -> Params:
        """One lane's dynamic weights, shaped as the static parameters are."""
        return {name: tensor[lane] for name, tensor in self.weights.items()}


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors of a state with the names of their places, such as ``weights/embedding`` and ``hidden/0/1``."""
    if isinstance(value, Tensor):
        yield name, value
    elif value is not None:
        keyed = isinstance(value, Mapping)
        keys = value.keys() if keyed else getattr(value, "_fields", range(len(value)))
        for key, item in zip(keys, value.values() if keyed else value, strict=True):
            yield from leaves(item, f"{name}/{key}" if name else str(key))


def state_bytes(state: Any) -> int:
    """Return the number of bytes of all tensors of a state."""
    return sum(tensor.nbytes for _, tensor in leaves(state))


def _cloned(tensors: Params) -> Params:
    return {name: tensor.clone() for name, tensor in tensors.items()}


def distance(memory: Memory, static: Params) -> Tensor:
    """How far each lane's memory (B,) has moved: |theta_t - theta_0| / |theta_0|, all dynamic tensors as one vector."""
    return displacement(memory.weights, static) / size(static, memory.weights)


def size(static: Params, names: Iterable[str]) -> Tensor:
    """|theta_0| of the tensors ``names``, as one vector."""
    return torch.sqrt(torch.as_tensor(sum(static[name].square().sum() for name in names)))


def dynamic_tensors(model: LSTMLanguageModel, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the tensors that move. Raises UserError for a pattern that fits none."""
    names = tuple(model.shapes())
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise UserError(
                f"memory.dynamic has {pattern!r}, which fits no tensor", do=f"the tensors are {', '.join(names)}"
            )
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def fresh_memory(
    model: LSTMLanguageModel, static: Params, dynamic: Sequence[str], lanes: int = 1, rule: Rule | None = None
) -> Memory:
    """The memory before anything is read: every lane's dynamic weights are copies of the static parameters."""
    like = static["embedding"].detach()
    weights = {}
    for name in dynamic:
        tensor = static[name].detach()
        weights[name] = tensor.new_empty(lanes, *tensor.shape).copy_(tensor)
    hidden = model.initial_hidden(lanes, like)
    if rule is None or not rule.learns:
        return Memory(weights, hidden)
    return Memory(
        weights,
        hidden,
        init_segment_stats(lanes, like) if rule.gates is not None else None,
        _cloned(weights) if rule.consolidation else {},
        {name: torch.zeros_like(tensor) for name, tensor in weights.items()} if rule.momentum else {},
        fresh_coordinates(rule.coordinates, weights) if rule.coordinates is not None else {},
    )
