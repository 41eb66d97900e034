"""What a reading is made of that does not change while it reads, and what may look on.

Legend: B lanes, T tokens of a segment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dynlm.adapt.gates import GateScales
from dynlm.adapt.partners.cache import Cache
from dynlm.adapt.partners.mixture import FixedShareMixture
from dynlm.adapt.rules.elementwise import Rule
from dynlm.adapt.state import Memory, fresh_memory
from dynlm.adapt.update_filter import UpdateFilter, init_filter_state
from dynlm.data.stream import Segment
from dynlm.models.lstm.engine import Gradient
from dynlm.models.lstm.model import LSTMLanguageModel, Params
from dynlm.models.lstm.native import NativeKernels
from dynlm.models.scratch import Scratch


class StepEvent(NamedTuple):
    """What an observer sees between scoring and learning, of one gradient: all tensors are scratch.

    ``gradient`` is u_t and ``push`` what the step is by: u_t, or its running sum where there is momentum. ``theta``
    (lanes, ...) was read with, ``home`` pulls it; ``factors`` are the gates'.
    """

    gradient: Gradient
    push: Tensor
    theta: Tensor
    home: Tensor
    lanes: slice
    factors: GateScales | None


StepObserver = Callable[[StepEvent], None]


class RecordedSegment(Protocol):
    """What reads a segment as ``read_segment`` does, by a recording."""

    def read(self, memory: Memory, segment: Segment) -> tuple[Tensor, Memory]: ...


RecordingMaker = Callable[["Reader", Memory, int], RecordedSegment]


@dataclass(frozen=True)
class Reader:
    """Everything about a reading that does not change while it reads.

    ``reset``: under "stream" the dynamic weights run through the whole text, under "article" they start afresh with
    each article. The LSTM's state starts afresh with each article under both, as in level-1 training.
    ``precision``: type of the operands of matrix products, the weights' own where None.
    ``native``: compiled kernels for what they serve.
    ``record``: makes what ``unroll`` reads by in place of ``read_segment``: ``memory.capture.Recording``, on a GPU. A
    mixture's weights are in no recording: with ``hedge`` segments are read one by one.
    ``hedge``: mix the rule's probabilities with level 1's, which is read beside it. The rule learns from its own.
    ``reference``: read by autograd and the rule's formula, a lane at a time, instead of the fast way.
    ``cache``: mixed into what the weights predict; what they learn from stays their own loss. Under "article" it is
    empty when an article begins.
    ``guard``: what keeps an update from breaking the dynamic weights; unset, whatever the rule says is done.
    """

    model: LSTMLanguageModel
    static: Params
    rule: Rule
    dynamic: tuple[str, ...]
    reset: str = "stream"
    precision: torch.dtype | None = None
    native: NativeKernels | None = None
    record: RecordingMaker | None = None
    reference: bool = False
    cache: Cache | None = None
    hedge: FixedShareMixture | None = None
    guard: UpdateFilter | None = None
    scratch: Scratch = field(default_factory=Scratch, repr=False, compare=False)

    def fresh_memory(self, lanes: int = 1) -> Memory:
        like = self.static["embedding"].detach()
        memory = fresh_memory(self.model, self.static, self.dynamic if self.rule.learns else (), lanes, self.rule)
        if self.cache is not None:
            memory = memory._replace(cache=self.cache.fresh(lanes, self.model.widths()[-1][1], like))
        if self.hedge is not None:
            memory = memory._replace(hedge=self.hedge.fresh(self.model.initial_hidden(lanes, like)))
        if self.guard is not None and self.rule.learns:
            memory = memory._replace(guarded=init_filter_state(lanes, len(memory.weights), like))
        return memory
