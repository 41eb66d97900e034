"""THE loop: score a segment, then learn from it.

Legend: B lanes, T tokens of a segment, 2 experts of a mixture.

Tuning, meta-training, evaluation, generation and the audit all read through ``read_segment``; only what they do with
its losses differs. The losses of segment t are those of theta_t, made before segment t is learned from. Lanes read
articles side by side, each with dynamic weights and a state of its own: nothing passes from one to another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dynlm.corpus.streams import Place, Segment, Stream
from dynlm.memory.batches import Batch, to_batch
from dynlm.memory.hedge import Hedge, HedgeRule
from dynlm.memory.rules import LEVEL_1, Rule, Statistics
from dynlm.memory.state import Memory, fresh_memory
from dynlm.model.lanes import Gradient, Scored, forward, gradients
from dynlm.model.lstm import Hidden, LSTMLanguageModel, Params, detached, restarted
from dynlm.model.native import NativeKernels
from dynlm.model.scratch import Scratch

Observer = Callable[[Gradient, Tensor, slice], None]
"""Is shown each gradient u_t, the theta_t (lanes, ...) of its tensor, and the lanes: between scoring and learning."""


class RecordedSegment(Protocol):
    """What reads a segment as ``read_segment`` does, by a recording."""

    def read(self, memory: Memory, segment: Segment) -> tuple[Tensor, Memory]: ...


RecordingMaker = Callable[["Reader", Memory, int], RecordedSegment]

_LOGITS_BYTES_AT_A_TIME = 1 << 28


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
    hedge: HedgeRule | None = None
    scratch: Scratch = field(default_factory=Scratch, repr=False, compare=False)

    def fresh_memory(self, lanes: int = 1) -> Memory:
        memory = fresh_memory(self.model, self.static, self.dynamic if self.rule.learns else (), lanes)
        if self.hedge is None:
            return memory
        level_1 = self.model.initial_hidden(lanes, self.static["embedding"].detach())
        return memory._replace(hedge=self.hedge.fresh(level_1))


class ReadSegment(NamedTuple):
    """One segment's outcome: nats (that mean something under its mask) and ``place``, where the stream goes on."""

    segment: Segment
    nats_BT: Tensor
    memory: Memory
    place: Place

    @property
    def nats_T(self) -> Tensor:
        """The nats of a reading in one lane."""
        (nats_T,) = self.nats_BT
        return nats_T

    @property
    def experts_BT2(self) -> Tensor:
        """What level 1 and the rule lost, where ``nats_BT`` are those of their mixture."""
        assert self.memory.hedge is not None and self.memory.hedge.experts_BT2 is not None, "no mixture was read"
        return self.memory.hedge.experts_BT2


def read_segment(
    reader: Reader, memory: Memory, segment: Segment, observe: Observer | None = None
) -> tuple[Tensor, Memory]:
    """Score a segment, then learn from it: (nats_BT, the next memory).

    Each lane learns from the mean of its own nats. ``memory`` is used up (its weights are written over): copy it first
    to keep it. ``observe`` is shown gradients in parts.
    """
    batch = to_batch(segment, reader.static["embedding"])
    if segment.starts_B.any():
        memory = begin_articles(reader, memory, segment.starts_B, batch.starts_B)
    if reader.reference:
        nats_BT, after = _read_by_autograd(reader, memory, batch, observe)
        if reader.hedge is None:
            return nats_BT, after
        hedge = _hedge_of(memory)
        level_1_BT, beside = _read_by_autograd(_level_1_of(reader), Memory({}, hedge.hidden), batch, None)
        nats_BT, hedge = reader.hedge.mix(hedge, level_1_BT, beside.hidden, nats_BT, batch.mask_BT, reference=True)
        return nats_BT, after._replace(hedge=hedge)
    return score_and_learn(reader, memory, batch, np.any(segment.mask_BT, axis=1), observe)


def score_and_learn(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    busy_B: np.ndarray | None = None,
    observe: Observer | None = None,
    whole: bool = False,
) -> tuple[Tensor, Memory]:
    """``read_segment`` once its articles are begun: nothing but kernels, whose number only the shapes decide.

    What a lane without an article reads and learns means nothing; a block of lanes of which none is in ``busy_B`` is
    passed over. With ``whole`` every tensor's gradient comes in one piece, as on a GPU.
    """
    blocks = _blocks(reader, batch)
    nats_BT, hidden = _read_blocks(reader, memory, batch, blocks, busy_B, observe, whole)
    if reader.hedge is None:
        return nats_BT, Memory(memory.weights, hidden)
    # Only now, when the rule has learned: until then it needs the scratch of its own reading.
    hedge = _hedge_of(memory)
    beside = Memory({}, hedge.hidden)
    level_1_BT, its_hidden = _read_blocks(_level_1_of(reader), beside, batch, blocks, busy_B, None, whole)
    nats_BT, hedge = reader.hedge.mix(hedge, level_1_BT, its_hidden, nats_BT, batch.mask_BT)
    return nats_BT, Memory(memory.weights, hidden, hedge)


def _read_blocks(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    blocks: Sequence[slice],
    busy_B: np.ndarray | None,
    observe: Observer | None,
    whole: bool,
) -> tuple[Tensor, Hidden]:
    share_BT = shares(batch)
    done = [
        _read_block(reader, memory, batch, share_BT, lanes, observe, whole)
        if busy_B is None or busy_B[lanes].any()
        else (torch.zeros_like(share_BT[lanes]), _of_lanes(memory.hidden, lanes))
        for lanes in blocks
    ]
    if len(done) == 1:
        return done[0]
    return torch.cat([nats_BT for nats_BT, _ in done]), _side_by_side([hidden for _, hidden in done])


def _level_1_of(reader: Reader) -> Reader:
    """The plain LSTM, as the mixture's other expert."""
    return dataclasses.replace(reader, rule=LEVEL_1, dynamic=(), hedge=None)


def _hedge_of(memory: Memory) -> Hedge:
    assert memory.hedge is not None, "a reader with a hedge reads with a memory that has one"
    return memory.hedge


def shares(batch: Batch) -> Tensor:
    """Each token's share_BT of its lane's mean."""
    return batch.mask_BT / batch.mask_BT.sum(1, keepdim=True).clamp(min=1)


def begin_articles(reader: Reader, memory: Memory, starts: np.ndarray, starts_B: Tensor) -> Memory:
    """Forget what is not to be carried into the articles that ``starts`` marks (``starts_B`` on the device)."""
    if reader.reset == "article":
        for name, tensor in memory.weights.items():
            for lane in starts.nonzero()[0]:
                tensor[lane].copy_(reader.static[name])
    hedge = None if memory.hedge is None else memory.hedge.begin_articles(starts_B, reader.reset == "article")
    return Memory(memory.weights, restarted(memory.hidden, starts_B), hedge)


def unroll(
    reader: Reader,
    stream: Stream,
    memory: Memory | None = None,
    place: Place | None = None,
    observe: Observer | None = None,
) -> Iterator[ReadSegment]:
    """Read a stream from ``place`` (its beginning) with ``memory`` (a fresh one), in the stream's lanes."""
    memory = reader.fresh_memory(stream.own_lanes) if memory is None else memory
    place = stream.begin() if place is None else place
    recording = None
    if reader.record is not None and observe is None and reader.hedge is None:
        recording = reader.record(reader, memory, stream.segment)
    while True:
        segment, place = stream.next(place)
        if segment is None:
            return
        if recording is None:
            nats_BT, memory = read_segment(reader, memory, segment, observe)
        else:
            nats_BT, memory = recording.read(memory, segment)
        yield ReadSegment(segment, nats_BT, memory, place)


def mean_nats(reader: Reader, stream: Stream) -> float:
    """Nats per token of a whole stream: a sum, divided once."""
    nats = [read.nats_BT[torch.from_numpy(read.segment.mask_BT)] for read in unroll(reader, stream)]
    flat = torch.cat(nats)
    return float(flat.double().sum()) / len(flat)


def gradient_statistics(
    model: LSTMLanguageModel, static: Params, dynamic: tuple[str, ...], stream: Stream, tokens: int
) -> Statistics:
    """R over ``tokens`` tokens of training text, read at theta_0 in segments like those that reading learns from."""
    squares = {name: torch.zeros_like(static[name]) for name in dynamic}
    count = 0

    def observe(gradient: Gradient, _: Tensor, lanes: slice) -> None:
        for u in gradient.tensor:
            squares[gradient.name][gradient.part].addcmul_(u, u)

    reader = Reader(model, static, LEVEL_1, dynamic)
    for read in unroll(reader, stream, observe=observe):
        count += int(read.segment.mask_BT.any(1).sum())
        if read.place.tokens >= tokens:
            break
    return Statistics({name: (square / max(1, count)).sqrt() for name, square in squares.items()})


def lanes_at_a_time(reader: Reader, length: int) -> int:
    """How many lanes' segments of ``length`` tokens are read together."""
    embedding = reader.static["embedding"]
    by_logits = _LOGITS_BYTES_AT_A_TIME // (length * reader.model.vocabulary * embedding.element_size())
    if reader.rule.learns and embedding.device.type == "cpu":
        # Lanes with weights of their own: as many as there are cores, since more would only crowd the caches.
        by_logits = min(by_logits, torch.get_num_threads())
    return max(1, by_logits)


def _blocks(reader: Reader, batch: Batch) -> list[slice]:
    """The lanes to be read at a time."""
    lanes, length = batch.inputs_BT.shape
    at_a_time = lanes_at_a_time(reader, length)
    return [slice(begin, min(begin + at_a_time, lanes)) for begin in range(0, lanes, at_a_time)]


def _of_lanes(hidden: Hidden, lanes: slice) -> Hidden:
    return tuple((h[lanes], c[lanes]) for h, c in hidden)


def _side_by_side(states: Sequence[Hidden]) -> Hidden:
    """The states of some lanes after those of others, as one."""
    return tuple(
        (torch.cat([h for h, _ in layer]), torch.cat([c for _, c in layer])) for layer in zip(*states, strict=True)
    )


def _read_block(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    share_BT: Tensor,
    lanes: slice,
    observe: Observer | None,
    whole: bool,
) -> tuple[Tensor, Hidden]:
    own = {name: tensor[lanes] for name, tensor in memory.weights.items()}
    scored = forward(
        reader.model,
        reader.static,
        own,
        batch.inputs_BT[lanes],
        batch.targets_BT[lanes],
        _of_lanes(memory.hidden, lanes),
        reader.scratch,
        reader.precision,
        reader.native,
    )
    if reader.rule.learns or observe is not None:
        learn_from(reader, own, scored, share_BT[lanes], lanes, observe, whole)
    return scored.nats_BT, scored.hidden


def learn_from(
    reader: Reader,
    own: Params,
    scored: Scored,
    share_BT: Tensor,
    lanes: slice,
    observe: Observer | None = None,
    whole: bool = False,
) -> None:
    """Take the rule's step in the weights ``own`` of ``lanes``, a gradient at a time."""
    rule = reader.rule
    wanted = rule.rates if rule.learns else reader.dynamic
    for gradient in gradients(reader.model, scored, share_BT, wanted, reader.scratch, whole, reader.native):
        static = reader.static[gradient.name]
        theta = own[gradient.name] if gradient.name in own else static.expand(len(share_BT), *static.shape)
        if observe is not None:
            observe(gradient, theta, lanes)
        if rule.learns:
            rule.step_(theta, gradient, static, reader.native)


def _read_by_autograd(reader: Reader, memory: Memory, batch: Batch, observe: Observer | None) -> tuple[Tensor, Memory]:
    """The reference: plain operations under autograd and the rule's formula, a lane at a time."""
    share_BT = shares(batch)
    rule, nats, weights, after = reader.rule, [], [], []
    for lane in range(len(share_BT)):
        one = slice(lane, lane + 1)
        theta = memory.of_lane(lane)
        leaves = {name: theta.get(name, reader.static[name]).detach().requires_grad_() for name in reader.dynamic}
        total, nats_1T, hidden = reader.model.naive_loss(
            {**reader.static, **leaves},
            batch.inputs_BT[one],
            batch.targets_BT[one],
            share_BT[one],
            _of_lanes(memory.hidden, one),
        )
        if leaves:
            u = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
            if observe is not None:
                for name, gradient in u.items():
                    observe(Gradient(name, gradient[None]), leaves[name].detach()[None], one)
            theta = {**theta, **rule.step(theta, u, reader.static)} if rule.learns else theta
        nats.append(nats_1T.detach())
        weights.append(theta)
        after.append(detached(hidden))
    stacked = {name: torch.stack([theta[name] for theta in weights]) for name in memory.weights}
    return torch.cat(nats), Memory(stacked, _side_by_side(after))
