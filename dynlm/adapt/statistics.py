"""R: the root mean square of training gradients at the static parameters, over single segments or over batches.

Legend: B lanes, T tokens of a segment.

Rules learn from single segments, whose gradients R should be of. The published dynamic evaluation (Krause et al. 2018,
arXiv 1709.07432) has it over batches of 100 sequences, in whose gradients most of the noise is averaged out: it is
several times smaller there, by another factor for each weight.
"""

from __future__ import annotations

import numpy as np
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.rules.base import Statistics, StepEvent
from dynlm.adapt.rules.registry import StatisticsKind
from dynlm.data.stream import Stream, to_batch
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.runtime.tree import concatenate_lanes, detach, select_lanes
from dynlm.types import Params, State


def gradient_statistics(dynamic_model: DynamicModel, stream: Stream, tokens: int) -> Statistics:
    """Return R of the model's dynamic tensors over ``tokens`` tokens of training text, at the static parameters.

    ``dynamic_model`` has a rule that learns nothing; the text is read in segments like those that rules learn from.
    """
    squares = {name: torch.zeros_like(dynamic_model.static[name]) for name in dynamic_model.dynamic}
    count = 0

    def observe(event: StepEvent) -> None:
        for u in event.gradient.tensor:
            squares[event.name][event.gradient.part].addcmul_(u, u)

    for read in iter_segments(dynamic_model, stream, observe=observe):
        count += int(read.segment.mask_BT.any(1).sum())
        if read.position.tokens >= tokens:
            break
    return _root_mean(squares, count)


def batch_statistics(
    dynamic_model: DynamicModel, split: TokenisedSplit, kind: StatisticsKind, tokens: int
) -> Statistics:
    """Return R over batches: of the gradient of the mean loss over ``kind.lanes`` sequences of ``kind.segment`` tokens.

    As in the published code the text is cut into as many pieces of equal length, which need not begin where an article
    does. They are read side by side from their beginnings, up to ``tokens`` tokens in whole batches, at least one.
    Raises UserError, naming the options, where the text has no whole batch. The loss is the one that pretraining
    minimises, without regularisers.
    """
    model, like, moving = dynamic_model.model, dynamic_model.like, Params()
    for name in dynamic_model.dynamic:
        tensor = dynamic_model.static[name].detach()
        moving[name] = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).requires_grad_()
    squares = {name: torch.zeros_like(tensor) for name, tensor in moving.items()}
    stream = _pieces(split, kind, tokens)
    at_once = dynamic_model.engine.lanes_at_once(stream.segment, (), like)
    state, position, count = model.init_state(stream.lanes, like), stream.begin(), 0
    while True:
        segment, position = stream.next(position)
        if segment is None:
            return _root_mean(squares, count)
        batch, count = to_batch(segment, like), count + 1
        share_BT = batch.mask_BT / segment.tokens
        found, states = [torch.zeros_like(tensor) for tensor in moving.values()], list[State]()
        for begin in range(0, stream.lanes, at_once):
            of_all = (state, batch.inputs_BT, batch.targets_BT, share_BT)
            of_lanes = select_lanes(of_all, slice(begin, begin + at_once))
            nats, _, after = model.loss({**dynamic_model.static, **moving}, *of_lanes)
            gradients = torch.autograd.grad(nats, [*moving.values()], allow_unused=True, materialize_grads=True)
            for total, u in zip(found, gradients, strict=True):
                total += u
            states.append(detach(after))
        state = concatenate_lanes(states)
        for name, u in zip(moving, found, strict=True):
            squares[name].addcmul_(u, u)


def _pieces(split: TokenisedSplit, kind: StatisticsKind, tokens: int) -> Stream:
    """Return the beginnings of the text's pieces as a stream of whole batches."""
    lanes, segment = kind.lanes, kind.segment
    assert segment is not None
    size = len(split.ids_N) // lanes
    batches = min(size // segment, max(1, round(tokens / (lanes * segment))))
    if not batches:
        what = f"the training text has {len(split.ids_N):,} tokens, fewer than a batch of memory.statistics_lanes"
        do = "choose fewer lanes, or give more text"
        raise UserError(f"{what} {lanes} sequences of memory.segment {segment} tokens", do=do)
    rows = [lane * size + np.arange(batches * segment) for lane in range(lanes)]
    return Stream(split.take(rows, [""] * lanes), lanes, segment, range(lanes))


def _root_mean(squares: Params, count: int) -> Statistics:
    return Statistics({name: (square / max(1, count)).sqrt() for name, square in squares.items()})
