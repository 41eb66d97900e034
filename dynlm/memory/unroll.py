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
from dynlm.memory.cache import Cache, CacheState, Told, side_by_side
from dynlm.memory.cache_reference import naive_read
from dynlm.memory.coordinates import begin_coordinates_, coordinate_step_, naive_coordinate_steps
from dynlm.memory.guard import Guard, Guarded, StepSizes, fresh_guarded, kept_where, restore_, step_norms
from dynlm.memory.hedge import Hedge, HedgeRule
from dynlm.memory.pace import Factors, Pace, after_segment, at_articles, at_headings
from dynlm.memory.rules import LEVEL_1, Rule, Statistics
from dynlm.memory.state import Memory, fresh_memory
from dynlm.model.lanes import Gradient, Scored, forward, gradients
from dynlm.model.lstm import Hidden, LSTMLanguageModel, Params, detached, restarted
from dynlm.model.native import NativeKernels
from dynlm.model.scratch import Scratch


class Shown(NamedTuple):
    """What an observer sees between scoring and learning, of one gradient: all tensors are scratch.

    ``gradient`` is u_t and ``push`` what the step is by: u_t, or its running sum where there is momentum. ``theta``
    (lanes, ...) was read with, ``home`` pulls it; ``factors`` are the gates'.
    """

    gradient: Gradient
    push: Tensor
    theta: Tensor
    home: Tensor
    lanes: slice
    factors: Factors | None


Observer = Callable[[Shown], None]


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
    hedge: HedgeRule | None = None
    guard: Guard | None = None
    scratch: Scratch = field(default_factory=Scratch, repr=False, compare=False)

    def fresh_memory(self, lanes: int = 1) -> Memory:
        like = self.static["embedding"].detach()
        memory = fresh_memory(self.model, self.static, self.dynamic if self.rule.learns else (), lanes, self.rule)
        if self.cache is not None:
            memory = memory._replace(cache=self.cache.fresh(lanes, self.model.widths()[-1][1], like))
        if self.hedge is not None:
            memory = memory._replace(hedge=self.hedge.fresh(self.model.initial_hidden(lanes, like)))
        if self.guard is not None and self.rule.learns:
            memory = memory._replace(guarded=fresh_guarded(lanes, len(memory.weights), like))
        return memory


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
    if memory.pace is not None:
        # Only learning looks at it, and learning comes after scoring.
        memory = memory._replace(pace=at_headings(memory.pace, batch.headings_B))
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
    nats_BT, after = _read_blocks(reader, memory, batch, blocks, busy_B, observe, whole)
    if reader.hedge is None:
        return nats_BT, after
    # Only now, when the rule has learned: until then it needs the scratch of its own reading.
    hedge = _hedge_of(memory)
    beside = Memory({}, hedge.hidden)
    level_1_BT, beside = _read_blocks(_level_1_of(reader), beside, batch, blocks, busy_B, None, whole)
    nats_BT, hedge = reader.hedge.mix(hedge, level_1_BT, beside.hidden, nats_BT, batch.mask_BT)
    return nats_BT, after._replace(hedge=hedge)


def _read_blocks(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    blocks: Sequence[slice],
    busy_B: np.ndarray | None,
    observe: Observer | None,
    whole: bool,
) -> tuple[Tensor, Memory]:
    share_BT = shares(batch)
    done = [
        _read_block(reader, memory, batch, share_BT, lanes, observe, whole)
        if busy_B is None or busy_B[lanes].any()
        else _passed_over(_lanes_of(memory, lanes), share_BT[lanes])
        for lanes in blocks
    ]
    nats_BT, own_BT, hidden, cache = _put_together(memory, done)
    pace = memory.pace and after_segment(memory.pace, (own_BT * share_BT).sum(1))
    return nats_BT, memory._replace(hidden=hidden, pace=pace, cache=cache)


def _level_1_of(reader: Reader) -> Reader:
    """The plain LSTM, as the mixture's other expert."""
    return dataclasses.replace(reader, rule=LEVEL_1, dynamic=(), cache=None, hedge=None, guard=None)


def _hedge_of(memory: Memory) -> Hedge:
    assert memory.hedge is not None, "a reader with a hedge reads with a memory that has one"
    return memory.hedge


def shares(batch: Batch) -> Tensor:
    """Each token's share_BT of its lane's mean."""
    return batch.mask_BT / batch.mask_BT.sum(1, keepdim=True).clamp(min=1)


def begin_articles(reader: Reader, memory: Memory, starts: np.ndarray, starts_B: Tensor) -> Memory:
    """Forget what is not to be carried into the articles that ``starts`` marks (``starts_B`` on the device)."""
    for lane in starts.nonzero()[0] if memory.weights else ():
        _begin_article(reader, memory, int(lane))
    pace = memory.pace and at_articles(memory.pace, starts_B, reader.reset == "article")
    cache = memory.cache
    if reader.cache is not None and cache is not None:
        cache = reader.cache.begin_articles(cache, starts_B, empty=reader.reset == "article")
    hedge = memory.hedge and memory.hedge.begin_articles(starts_B, reader.reset == "article")
    return memory._replace(hidden=restarted(memory.hidden, starts_B), pace=pace, cache=cache, hedge=hedge)


def _begin_article(reader: Reader, memory: Memory, lane: int) -> None:
    """What the last article taught is taken into home as far as the rule says, and is flushed as far as it says."""
    rule = reader.rule
    for name, tensor in memory.weights.items():
        theta, theta_0 = tensor[lane], reader.static[name]
        home = memory.home[name][lane] if memory.home else theta_0
        if reader.reset == "article":
            theta.copy_(theta_0)
            if memory.home:
                home.copy_(theta_0)
        else:
            if memory.home:
                home.copy_(rule.next_home(name, theta, home, theta_0))
            if share := float(rule.flush.get(name, 0.0)):
                theta.copy_(home) if share >= 1 else theta.lerp_(home, share)
        if memory.velocity:
            memory.velocity[name][lane].zero_()
    if reader.reset == "article":
        begin_coordinates_(memory.coordinates, lane)


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
    # Gates, slow weights, velocities, states of coordinates, caches and mixtures are not recorded.
    plain = observe is None and not any(
        (
            memory.pace,
            memory.home,
            memory.velocity,
            memory.coordinates,
            memory.cache is not None,
            memory.hedge is not None,
        )
    )
    recording = reader.record(reader, memory, stream.segment) if plain and reader.record is not None else None
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

    def observe(shown: Shown) -> None:
        for u in shown.gradient.tensor:
            squares[shown.gradient.name][shown.gradient.part].addcmul_(u, u)

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


def _without_nan(hidden: Hidden) -> Hidden:
    return tuple((h.nan_to_num(0, 0, 0), c.nan_to_num(0, 0, 0)) for h, c in hidden)


def _side_by_side(states: Sequence[Hidden]) -> Hidden:
    """The states of some lanes after those of others, as one."""
    return tuple(
        (torch.cat([h for h, _ in layer]), torch.cat([c for _, c in layer])) for layer in zip(*states, strict=True)
    )


class _ReadLanes(NamedTuple):
    """Some lanes after a segment: nats as they count, the weights' ``own`` (without a cache), and states."""

    nats_BT: Tensor
    own_BT: Tensor
    hidden: Hidden
    cache: CacheState | None


def _passed_over(own: Memory, share_BT: Tensor) -> _ReadLanes:
    nats_BT = torch.zeros_like(share_BT)
    return _ReadLanes(nats_BT, nats_BT, own.hidden, own.cache)


def _put_together(memory: Memory, done: Sequence[_ReadLanes]) -> _ReadLanes:
    if len(done) == 1:
        return done[0]
    nats_BT, own_BT = torch.cat([read.nats_BT for read in done]), torch.cat([read.own_BT for read in done])
    caches = [read.cache for read in done if read.cache is not None]
    cache = memory.cache and side_by_side(memory.cache, caches)
    return _ReadLanes(nats_BT, own_BT, _side_by_side([read.hidden for read in done]), cache)


def _read_block(
    reader: Reader,
    memory: Memory,
    batch: Batch,
    share_BT: Tensor,
    lanes: slice,
    observe: Observer | None,
    whole: bool,
) -> _ReadLanes:
    own, share_BT = _lanes_of(memory, lanes), share_BT[lanes]

    def score(hidden: Hidden) -> Scored:
        inputs_BT, targets_BT = batch.inputs_BT[lanes], batch.targets_BT[lanes]
        how = (reader.scratch, reader.precision, reader.native)
        return forward(reader.model, reader.static, own.weights, inputs_BT, targets_BT, hidden, *how)

    place_B2 = None if batch.place_B2 is None else batch.place_B2[lanes]
    scored = score(own.hidden)
    if reader.guard is not None and own.guarded is not None:
        scored, share_BT = _guarded(reader.guard, own, own.guarded, reader.static, scored, share_BT, place_B2, score)
    nats_BT, cache = scored.nats_BT, own.cache
    if reader.cache is not None and cache is not None:
        features_BTH, told = scored.layers[-1].outputs_BTH, Told(scored.scaled_BTV, scored.total_BT1)
        targets_BT, mask_BT = batch.targets_BT[lanes], batch.mask_BT[lanes]
        nats_BT, cache = reader.cache.read(cache, features_BTH, targets_BT, mask_BT, nats_BT, told, reader.scratch)
    if reader.rule.learns or observe is not None:
        learn_from(reader, own, scored, share_BT, lanes, observe, whole, place_B2)
    return _ReadLanes(nats_BT, scored.nats_BT, scored.hidden, cache)


def _guarded(
    guard: Guard,
    own: Memory,
    guarded: Guarded,
    static: Params,
    scored: Scored,
    share_BT: Tensor,
    place_B2: Tensor | None,
    score: Callable[[Hidden], Scored],
) -> tuple[Scored, Tensor]:
    """(the segment as it counts, what is learned from of it), once memories that gave no sane losses are restored."""
    broken_B = guard.broken(scored.nats_BT, share_BT)
    if broken_B is None:
        return scored, share_BT
    lost_B = broken_B & ~torch.where(share_BT > 0, scored.nats_BT, 0).isfinite().all(1)
    if guard.waits and lost_B.any():
        restore_(own.weights, own.home, own.velocity, own.coordinates, static, lost_B)
        # A state that these weights left may be no better than they are.
        whole_B = torch.stack([tensor.isfinite().all(1) for layer in own.hidden for tensor in layer]).all(0)
        scored = score(restarted(own.hidden, lost_B & ~whole_B))
        guarded.rescored_B.add_((share_BT > 0).sum(1) * lost_B)
    restore_(own.weights, own.home, own.velocity, own.coordinates, static, broken_B)
    guarded.note_(-1, broken_B, place_B2)
    return scored, share_BT.masked_fill(broken_B[:, None], 0)


def _lanes_of(memory: Memory, lanes: slice) -> Memory:
    """Views of what ``lanes`` hold."""
    return Memory(
        {name: tensor[lanes] for name, tensor in memory.weights.items()},
        _of_lanes(memory.hidden, lanes),
        memory.pace and Pace(*(of_all[lanes] for of_all in memory.pace)),
        {name: tensor[lanes] for name, tensor in memory.home.items()},
        {name: tensor[lanes] for name, tensor in memory.velocity.items()},
        {name: tensor[lanes] for name, tensor in memory.coordinates.items()},
        memory.cache and memory.cache.of_lanes(lanes),
        guarded=memory.guarded and memory.guarded.of_lanes(lanes),
    )


def learn_from(
    reader: Reader,
    own: Memory,
    scored: Scored,
    share_BT: Tensor,
    lanes: slice,
    observe: Observer | None = None,
    whole: bool = False,
    place_B2: Tensor | None = None,
) -> None:
    """Take the rule's step in the weights of ``own``, which is of ``lanes``, a gradient at a time.

    The steps that the reader's guard does not allow are not taken, nor shown to ``observe``.
    """
    rule, guard = reader.rule, reader.guard if reader.rule.learns else None
    wanted = rule.rates if rule.learns else reader.dynamic
    factors: Factors | None = None
    sizes, nats_B = StepSizes(), torch.where(share_BT > 0, scored.nats_BT * share_BT, 0).sum(1)
    for gradient in gradients(reader.model, scored, share_BT, wanted, reader.scratch, whole, reader.native):
        name, part = gradient.name, gradient.part
        static = reader.static[name]
        theta = own.weights[name] if name in own.weights else static.expand(len(share_BT), *static.shape)
        if rule.gates is not None and own.pace is not None and factors is None:
            told_BJ = rule.gates.told(own.pace, nats_B, gradient.tensor, own.weights, reader.static, reader.scratch)
            factors = rule.gates.factors(told_BJ)
        home = own.home[name] if own.home else static
        if own.velocity:
            # Rows of an embedding that were not met go on moving: their gradients are zero, not their velocity.
            velocity = own.velocity[name][:, part].mul_(rule.momentum).add_(gradient.tensor)
            push = reader.scratch.take("push", tuple(velocity.shape), velocity).copy_(velocity)
            gradient, seen = gradient._replace(tensor=push, rows_BT=None, products=()), gradient
        else:
            seen = gradient
        shown = Shown(seen, gradient.tensor, theta, home, lanes, factors)
        if guard is not None and guard.track:
            sizes.add(name, step_norms(rule, gradient, factors, reader.scratch), theta[:, part])
        allowed_B = None if guard is None else guard.allowed(rule, gradient, factors, reader.scratch)
        if allowed_B is None:
            _take_step(reader, shown, gradient, observe, own.coordinates, nats_B)
        else:
            _take_allowed_steps(reader, own, shown, gradient, observe, allowed_B, place_B2, nats_B)
    if own.guarded is not None and guard is not None and guard.track:
        own.guarded.measure_(sizes, list(own.weights), share_BT)


def _take_step(
    reader: Reader, shown: Shown, gradient: Gradient, observe: Observer | None, coordinates: Params, nats_B: Tensor
) -> None:
    if observe is not None:
        observe(shown)
    if coordinates:
        coordinate_step_(reader.rule, coordinates, shown.theta, gradient, shown.home, nats_B)
    elif reader.rule.learns:
        reader.rule.step_(shown.theta, gradient, shown.home, reader.native, shown.factors, reader.scratch)


def _take_allowed_steps(
    reader: Reader,
    own: Memory,
    shown: Shown,
    gradient: Gradient,
    observe: Observer | None,
    allowed_B: Tensor,
    place_B2: Tensor | None,
    nats_B: Tensor,
) -> None:
    assert reader.guard is not None and own.guarded is not None, "a guard has a place in the memory to count in"
    name, part = gradient.name, gradient.part
    own.guarded.note_(list(own.weights).index(name), ~allowed_B, place_B2)
    if own.velocity:
        kept_where(allowed_B, own.velocity[name][:, part], torch.zeros_like(gradient.tensor))
    if reader.guard.waits or observe is not None:
        for lane in allowed_B.nonzero().flatten().tolist():
            one = slice(lane, lane + 1)
            states = {key: tensor[one] for key, tensor in own.coordinates.items()}
            _take_step(reader, _of_lane(shown, lane), gradient.of_lane(lane), observe, states, nats_B[one])
        return
    theta = shown.theta[:, part]
    before = reader.scratch.take("before", tuple(theta.shape), theta).copy_(theta)
    moving = [tensor[:, part] for key, tensor in own.coordinates.items() if key.startswith(f"{name}/")]
    states_before = [tensor.clone() for tensor in moving]
    _take_step(reader, shown, gradient, None, own.coordinates, nats_B)
    for after, earlier in ((theta, before), *zip(moving, states_before, strict=True)):
        kept_where(allowed_B, after, earlier)


def _of_lane(shown: Shown, lane: int) -> Shown:
    one, at = slice(lane, lane + 1), shown.lanes.start + lane
    return Shown(
        shown.gradient.of_lane(lane),
        shown.push[one],
        shown.theta[one],
        shown.home[one] if shown.home.dim() == shown.theta.dim() else shown.home,
        slice(at, at + 1),
        shown.factors and Factors(*(of_all[one] for of_all in shown.factors)),
    )


def _read_by_autograd(reader: Reader, memory: Memory, batch: Batch, observe: Observer | None) -> tuple[Tensor, Memory]:
    """The reference: plain operations under autograd and the rule's formula, a lane at a time."""
    share_BT = shares(batch)
    rule, done = reader.rule, []
    moved: list[Params] = []
    velocities: list[Params] = []
    for lane in range(len(share_BT)):
        one = slice(lane, lane + 1)
        own = _lanes_of(memory, one)
        place_12 = None if batch.place_B2 is None else batch.place_B2[one]
        theta, share_1T = {name: tensor.clone() for name, tensor in memory.of_lane(lane).items()}, share_BT[one]
        leaves, (total, nats_1T, hidden) = _scored_naively(reader, theta, batch, one, share_1T, own.hidden)
        read_with = theta
        if reader.guard is not None and own.guarded is not None and not float(total.detach()) <= reader.guard.nats:
            broken_1 = torch.ones_like(own.guarded.restored_B, dtype=torch.bool)
            restore_(own.weights, own.home, own.velocity, own.coordinates, reader.static, broken_1)
            own.guarded.note_(-1, broken_1, place_12)
            theta = memory.of_lane(lane)
            if not nats_1T[share_1T > 0].isfinite().all():
                own.guarded.rescored_B.add_((share_1T > 0).sum())
                read_with, own = theta, own._replace(hidden=_without_nan(own.hidden))
                _, nats_1T, hidden = _scored_naively(reader, theta, batch, one, share_1T, own.hidden)[1]
            # Nothing is learned from this segment.
            share_1T = 0 * share_1T
            leaves, (total, *_) = _scored_naively(reader, theta, batch, one, share_1T, own.hidden)
        told_1T, cache = nats_1T.detach(), own.cache
        if reader.cache is not None and cache is not None:
            told_1T, cache = _mixed_naively(reader, {**reader.static, **read_with}, own, cache, batch, one, told_1T)
        velocity = {name: tensor[0] for name, tensor in own.velocity.items()}
        if leaves:
            u = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))
            home = {name: own.home[name][0] if own.home else reader.static[name] for name in leaves}
            factors = None
            if rule.gates is not None and own.pace is not None:
                first = next(name for name in ("output.bias", *u) if name in u)
                told_1J = rule.gates.told(own.pace, total.detach()[None], u[first][None], own.weights, reader.static)
                factors = rule.gates.factors(told_1J)
            velocity = {name: rule.momentum * tensor + u[name] for name, tensor in velocity.items()}
            push = velocity or u
            allowed = _allowed_naively(reader, own, theta, push, factors, share_1T, place_12)
            velocity = {name: v if allowed[name] else torch.zeros_like(v) for name, v in velocity.items()}
            if observe is not None:
                for name in filter(allowed.get, leaves):
                    gradient = Gradient(name, u[name][None])
                    observe(Shown(gradient, push[name][None], leaves[name].detach()[None], home[name], one, factors))
            if rule.learns:
                if own.coordinates:
                    stepped = naive_coordinate_steps(rule, own.coordinates, allowed, theta, push, home, total)
                else:
                    stepped = rule.step(theta, push, home, factors)
                theta = {**theta, **{name: stepped[name] for name in stepped if allowed[name]}}
        done.append(_ReadLanes(told_1T, nats_1T.detach(), detached(hidden), cache))
        moved.append(theta)
        velocities.append(velocity)
    nats_BT, own_BT, after, _ = _put_together(memory, done)
    caches = [read.cache for read in done if read.cache is not None]
    return nats_BT, memory._replace(
        weights={name: torch.stack([theta[name] for theta in moved]) for name in memory.weights},
        hidden=after,
        pace=memory.pace and after_segment(memory.pace, (own_BT * share_BT).sum(1)),
        velocity={name: torch.stack([velocity[name] for velocity in velocities]) for name in memory.velocity},
        cache=memory.cache and CacheState(*(torch.cat(of_all) for of_all in zip(*caches, strict=True))),
    )


def _scored_naively(
    reader: Reader, theta: Params, batch: Batch, lane: slice, share_1T: Tensor, hidden: Hidden
) -> tuple[Params, tuple[Tensor, Tensor, Hidden]]:
    """(the leaves to differentiate by, the loss, nats and state) of one lane's segment."""
    leaves = {name: theta.get(name, reader.static[name]).detach().requires_grad_() for name in reader.dynamic}
    inputs_1T, targets_1T = batch.inputs_BT[lane], batch.targets_BT[lane]
    return leaves, reader.model.naive_loss({**reader.static, **leaves}, inputs_1T, targets_1T, share_1T, hidden)


def _allowed_naively(
    reader: Reader,
    own: Memory,
    theta: Params,
    push: Params,
    factors: Factors | None,
    share_1T: Tensor,
    place_12: Tensor | None,
) -> dict[str, bool]:
    """Whether each tensor's step may be taken, by the guard's own words."""
    allowed = dict.fromkeys(push, True)
    if reader.guard is None or own.guarded is None:
        return allowed
    rule, sizes = reader.rule, StepSizes()
    for number, (name, rates) in enumerate(rule.rates.items()):
        scale = 1.0 if rule.scale is None else rule.scale[name]
        alpha = rates.alpha if factors is None else rates.alpha * factors.rate_BK[0, number]
        pulled = torch.as_tensor(rule.beta[name] if factors is None else rule.beta[name] * factors.pull_BK[0, number])
        step = (alpha * scale * push[name]).norm()
        allowed[name] = bool(step <= reader.guard.limits[name]) and bool(pulled.isfinite().all())
        if not allowed[name]:
            own.guarded.note_(list(own.weights).index(name), torch.ones_like(own.guarded.restored_B) > 0, place_12)
        sizes.add(name, step[None], theta[name][None])
    if reader.guard.track:
        own.guarded.measure_(sizes, list(own.weights), share_1T)
    return allowed


@torch.no_grad()
def _mixed_naively(
    reader: Reader, params: Params, own: Memory, cache: CacheState, batch: Batch, lane: slice, nats_1T: Tensor
) -> tuple[Tensor, CacheState]:
    """The mixture's nats of one lane by the cache's reference."""
    assert reader.cache is not None
    features_T1H, _, _ = reader.model.features(params, batch.inputs_BT[lane], own.hidden)
    logits_1TV, _ = reader.model.logits(params, batch.inputs_BT[lane], own.hidden)
    told = Told(logits_1TV.softmax(-1), torch.ones_like(nats_1T)[..., None])
    features_1TH = features_T1H.transpose(0, 1)
    return naive_read(reader.cache, cache, features_1TH, batch.targets_BT[lane], batch.mask_BT[lane], nats_1T, told)
