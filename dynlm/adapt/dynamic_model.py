"""A model together with how its weights change while it reads, and what it carries from segment to segment, as a value.

Legend: B lanes. Static parameters theta_0 (long-term memory), dynamic weights theta_t (medium-term) and the model's
state (short-term) have three names here and are never mixed: only dynamic tensors have copies that move.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.gates import displacement, norm
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.partners.replay import Replay, ReplayBuffer
from dynlm.adapt.rules.base import Rule, RuleState, StepEvent
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.update_filter import FilterState, UpdateFilter
from dynlm.models.protocol import Engine, SequenceModel
from dynlm.runtime.hashing import Hasher
from dynlm.runtime.tree import clone
from dynlm.types import Params, State

_VERSION = "3-"
EARLIER_CONSTANTS = re.compile("(2-)?[0-9a-f]{16}")
"""Fingerprints without this version are those of an earlier dynlm, and cannot be compared."""
StepObserver = Callable[[StepEvent], None]
"""Is shown each gradient of each segment between scoring and the update."""


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
    replay: ReplayBuffer | None = None

    def copy(self) -> Memory:
        """Return a memory that further reading of this one leaves as it is."""
        return clone(self)


@dataclass(frozen=True)
class DynamicModel:
    """Everything about a reading that does not change while it reads.

    ``reset``: under "stream" the dynamic weights run through the whole text, under "article" they start afresh with
    each article. The model's state starts afresh with each article under both, as in pretraining. ``cache``: mixed into
    the predictions, empty when an article begins under "article"; the rule learns from the model's own loss.
    ``mixture``: mix with the static model, which runs beside it. ``filter``: rejects updates; None takes all.
    ``replay``: learn again from earlier segments of the article.
    """

    engine: Engine
    static: Params
    rule: Rule
    dynamic: tuple[str, ...]
    reset: str = "stream"
    cache: Cache | None = None
    mixture: FixedShareMixture | None = None
    filter: UpdateFilter | None = None
    replay: Replay | None = None

    def __post_init__(self) -> None:
        if self.reset == "article":
            object.__setattr__(self, "rule", self.rule.without_carry_over())

    @property
    def model(self) -> SequenceModel:
        return self.engine.model

    @property
    def like(self) -> Tensor:
        """A tensor of the reading's device and dtype: those of the static parameters, float32 for half precision."""
        tensor = next(iter(self.static.values())).detach()
        return tensor.new_empty(0, dtype=torch.float32) if tensor.itemsize == 2 else tensor

    @property
    def device(self) -> torch.device:
        return self.like.device

    @property
    def is_static(self) -> bool:
        """Whether it predicts as the static model does, whatever it has read."""
        return not self.rule.learns and self.cache is None

    def level_1(self) -> DynamicModel:
        """Return the static model alone."""
        return dataclasses.replace(self, rule=LEVEL_1, dynamic=(), cache=None, mixture=None, filter=None, replay=None)

    def fresh_memory(self, lanes: int = 1) -> Memory:
        """Return the memory before anything is read: every lane's dynamic weights are copies of the static ones.

        Tensors whose displacement the rule holds have no copy.
        """
        like, learns, params = self.like, self.rule.learns, Params()
        for name in [name for name in self.dynamic if name not in self.rule.held] if learns else ():
            tensor = self.static[name].detach()
            params[name] = tensor.new_empty(lanes, *tensor.shape).copy_(tensor)
        return Memory(
            params,
            self.model.init_state(lanes, like),
            self.rule.init_state(params) if learns else RuleState(),
            None if self.cache is None else self.cache.fresh(lanes, self.model.feature_size, like),
            None if self.mixture is None else self.mixture.fresh(self.model.init_state(lanes, like), lanes, like),
            FilterState.initial(lanes, len(self.dynamic), like) if self.filter is not None and learns else None,
            None if self.replay is None else self.replay.fresh(self.model.init_state(lanes, like), like),
        )


def distance(memory: Memory, dynamic_model: DynamicModel) -> Tensor:
    """Return |theta_t - theta_0| / |theta_0| of each lane (B,), all dynamic tensors as one vector.

    Where theta_0 is zero, as low-rank factors start, |theta_t - theta_0| itself.
    """
    rule, static = dynamic_model.rule, dynamic_model.static
    size = norm(static[name] for name in (*memory.params, *rule.held))
    moved_B = displacement(memory.params, static)
    if rule.held:
        moved_B = torch.hypot(moved_B, rule.held_displacement(memory.rule.lanes))
    return moved_B / torch.where(size > 0, size, 1.0)


def constants_of(dynamic_model: DynamicModel) -> str:
    """Return a fingerprint of the constants of a model's rule, cache and mixture, and of the factors that move."""
    hasher = Hasher()
    _add(
        hasher,
        (type(dynamic_model.rule).__name__, dynamic_model.rule.constants(), dynamic_model.cache, dynamic_model.mixture),
    )
    if dynamic_model.rule.learns and (seed := dynamic_model.model.factors_seed):  # fingerprints of seed 0 have none
        _add(hasher, ("factors", seed))
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
