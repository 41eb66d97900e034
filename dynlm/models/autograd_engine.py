"""Run any ``SequenceModel`` by autograd: the engine of foreign models, and the reference of the hand-written ones.

Legend: B lanes, T tokens of a segment, V vocabulary.

Lanes without weights of their own are one batch. Lanes with weights of their own run one after another or, where the
model supports it, batched by ``torch.func.vmap``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dynlm.models.native import NativeKernels
from dynlm.models.protocol import Gradient, Output, Scored, SequenceModel
from dynlm.models.scratch import Scratch
from dynlm.models.softmax import nats_and_distribution
from dynlm.runtime.tree import clone, concatenate_lanes, detach, leaves, map_tensors, select_lanes
from dynlm.types import Params, State

_LOGITS_BYTES_AT_ONCE = 1 << 28


@dataclass(frozen=True)
class AutogradEngine:
    """Score segments by ``model.forward`` and differentiate them by autograd.

    ``native``: compiled kernels, for update rules too. ``captures``: record a segment as a CUDA graph, on a GPU.
    """

    model: SequenceModel
    native: NativeKernels | None = None
    captures: bool = False
    scratch: Scratch = field(default_factory=Scratch, repr=False, compare=False)

    def score(
        self,
        params: Params,
        lane_params: Params,
        inputs_BT: Tensor,
        targets_BT: Tensor,
        state: State,
        names: Collection[str] | None = None,
    ) -> Scored:
        """See ``Engine.score``."""
        # Without autograd's count of versions: weights of lanes that have no share may be written over.
        leaves = {name: lane_params.get(name, tensor).data for name, tensor in params.items()}
        asked = leaves.keys() if names is None else set(names)
        for name, leaf in leaves.items():
            leaf.requires_grad_(leaf.is_floating_point() and name in asked)
        with torch.set_grad_enabled(any(leaf.requires_grad for leaf in leaves.values())):
            output = self._forward(leaves, lane_params.keys(), state, inputs_BT)
            nats_BT, next_tokens = nats_and_distribution(output.logits_BTV, targets_BT)
        return Scored(
            nats_BT.detach(),
            detach(output.state),
            output.features_BTH.detach(),
            next_tokens,
            (nats_BT, leaves, set(lane_params)),
        )

    def gradients(
        self, scored: Scored, share_BT: Tensor, names: Collection[str], whole_first: bool = False
    ) -> Iterator[Gradient]:
        """See ``Engine.gradients``; every gradient comes in one piece."""
        if not names:
            return
        nats_BT, leaves, own = scored.tape
        first = self.model.output_tensor(names)
        ordered = [first, *(name for name in leaves if name in names and name != first)]
        with torch.enable_grad():
            loss_B = torch.where(share_BT > 0, nats_BT * share_BT, 0).sum(1)
            # The sum's gradient by a lane's own weights is the lane's; shared ones have one of each lane's loss.
            losses = [loss_B.sum()] if own.issuperset(names) else loss_B.unbind()
        by, last = [leaves[name] for name in ordered], len(losses) - 1
        found = [
            torch.autograd.grad(loss, by, retain_graph=number < last, allow_unused=True)
            for number, loss in enumerate(losses)
        ]
        for name, of_lanes in zip(ordered, zip(*found, strict=True), strict=True):
            each = [torch.zeros_like(leaves[name]) if u is None else u for u in of_lanes]
            # Each lane's loss has a gradient of zero by the other lanes' own weights.
            yield Gradient(name, functools.reduce(torch.add, each) if name in own else torch.stack(each))

    def lanes_at_once(self, length: int, own: Collection[str], like: Tensor) -> int:
        """See ``Engine.lanes_at_once``."""
        return max(1, _LOGITS_BYTES_AT_ONCE // (length * self.model.vocab_size * like.element_size()))

    def tokens_at_once(self, params: Params, segment: int) -> int:
        """See ``Engine.tokens_at_once``: a segment, whose length is part of what some models compute."""
        return segment

    def capture(self, step: Callable[[Any], Any], inputs: Any, modified: Any) -> Callable[[Any], Any] | None:
        """See ``Engine.capture``: a CUDA graph where ``captures`` is set."""
        return capture(step, inputs, modified) if self.captures else None

    def _forward(self, leaves: Params, own: Collection[str], state: State, inputs_BT: Tensor) -> Output:
        """Run the lanes; the leaves named ``own`` hold each lane's weights (B, ...)."""
        lanes = len(inputs_BT)
        if not own:
            return self.model.forward(leaves, state, inputs_BT)
        if lanes > 1 and self.model.supports_vmap:

            def one_lane(mine: Params, state: State, inputs_T: Tensor) -> Output:
                one = map_tensors(lambda tensor: tensor[None], state)
                return map_tensors(lambda tensor: tensor[0], self.model.forward(leaves | mine, one, inputs_T[None]))

            return torch.func.vmap(one_lane)({name: leaves[name] for name in own}, state, inputs_BT)
        outputs = []
        for lane in range(lanes):
            params = {name: leaf[lane] if name in own else leaf for name, leaf in leaves.items()}
            one = slice(lane, lane + 1)
            outputs.append(self.model.forward(params, select_lanes(state, one), inputs_BT[one]))
        return concatenate_lanes(outputs)


def capture(step: Callable[[Any], Any], inputs: Any, modified: Any) -> Callable[[Any], Any]:
    """Return ``step`` recorded as a CUDA graph for ``inputs``' structure and shapes; see ``Engine.capture``.

    A segment of a small model is hundreds of short kernels; on a GPU, starting them one by one takes longer than
    running them. A recording runs over buffers of its own. Without a GPU nothing is recorded: ``step`` then runs over
    the same buffers, which is how this is tested.
    """
    buffers = clone(inputs)
    graph, outputs = _record(lambda: step(buffers), modified) if next(leaves(inputs))[1].is_cuda else (None, None)

    def replay(now: Any) -> Any:
        map_tensors(lambda buffer, tensor: buffer.copy_(tensor, non_blocking=True), buffers, now)
        if graph is None:
            return step(buffers)
        graph.replay()
        return clone(outputs)

    return replay


def _record(run: Callable[[], Any], modified: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Run once on a side stream, so that every buffer exists, then record; put ``modified`` back as it was."""
    before = clone(modified)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    map_tensors(Tensor.copy_, modified, before)
    return graph, outputs
