"""A guard over the reading: no update that would break a memory is taken, and a memory that is broken is not kept.

Legend: B lanes, T tokens of a segment, K dynamic tensors, C = K + 1 kinds of events.

Two bounds, both far from whatever a reading does whose rates are any good:

    step    |alpha * scale * u| of each tensor's step is at most STEP times |theta_0|, and a number. Else the step, its
            pull too, is not taken: the last good weights are those that are there, and no copy of them is needed.
    nats    the mean nats of a segment are at most log V + NATS, and a number. Else the weights that scored it go back
            to theta_0 (and home to theta_0), as where an article starts afresh, and learn nothing from that segment.

A segment's losses stand as they were; where one of them is no number the weights gave no distribution, and the segment
is scored by theta_0: no token is lost, and nothing that was scored is scored better for it. Whoever cannot wait for a
tensor's value (``waits`` False: a recording for a GPU) decides by masks, and does not score again.

The norm of a step takes a pass over a gradient, which would cost a reading some 5 %. On a CPU it is bounded first, by
the norms of the small matrices whose product the gradient is; only a step that this does not clear is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.gates import GateScales
from dynlm.adapt.rules.elementwise import Rule
from dynlm.adapt.rules.per_weight_lstm import fresh_value
from dynlm.models.lstm.engine import Gradient
from dynlm.models.lstm.model import Params
from dynlm.models.scratch import Scratch

STEP = 10.0
NATS = 30.0
MEMORY = "memory"
"""Among the names of tensors: a whole memory that was restored."""
# A tensor whose weights are smaller than this (biases that begin at zero) is taken to be of this root mean square.
_SMALLEST_RMS = 0.1
# Of a bound by products of norms, that it stays one when rounded.
_ROUNDING = 1.001


class FilterState(NamedTuple):
    """What a guard met, in each lane; all is written over in place.

    ``counts_BC``: steps that were not taken, of each dynamic tensor, and last memories that were restored.
    ``first_BC2``: article and position (of its segment's first token) of the first of each kind, -1 where there is
    none. ``rescored_B``: tokens scored by theta_0. With ``UpdateFilter.track``: ``steps_B`` segments learned from, sum
    and the largest of each tensor's |alpha * scale * u| / |theta_t| over them, ``ratio_BK`` and ``largest_BK``.
    """

    counts_BC: Tensor
    first_BC2: Tensor
    rescored_B: Tensor
    steps_B: Tensor
    ratio_BK: Tensor
    largest_BK: Tensor

    def of_lanes(self, lanes: slice) -> FilterState:
        """Views of what ``lanes`` hold."""
        return FilterState(*(of_all[lanes] for of_all in self))

    def to(self, device: str) -> FilterState:
        """The same on another device."""
        return FilterState(*(tensor.to(device) for tensor in self))

    def copy(self) -> FilterState:
        """One that shares no tensor with this one."""
        return FilterState(*(tensor.clone() for tensor in self))

    @property
    def restored_B(self) -> Tensor:
        """Memories of each lane that were restored."""
        return self.counts_BC[:, -1]

    def note_(self, kind: int, met_B: Tensor, place_B2: Tensor | None) -> None:
        """Count an event of ``kind`` in the lanes of ``met_B``, whose segments stand at ``place_B2``."""
        self.counts_BC[:, kind].add_(met_B)
        if place_B2 is not None:
            first_B2 = self.first_BC2[:, kind]
            first_B2.copy_(torch.where(met_B[:, None] & (first_B2 < 0), place_B2, first_B2))

    def measure_(self, sizes: StepSizes, names: Sequence[str], share_BT: Tensor) -> None:
        """Take in a segment's steps of the tensors ``names``; a step that was no number is taken for none."""
        self.steps_B.add_(share_BT.any(1))
        for number, name in enumerate(names):
            if name in sizes.squares:
                ratio_B = sizes.ratio(name).nan_to_num(0, 0, 0)
                self.ratio_BK[:, number].add_(ratio_B)
                torch.maximum(self.largest_BK[:, number], ratio_B, out=self.largest_BK[:, number])


class StepSizes:
    """|step|^2 and |theta|^2 of one segment's tensors (B,), gathered over their parts."""

    def __init__(self) -> None:
        self.squares: dict[str, tuple[Tensor, Tensor]] = {}

    def add(self, name: str, step_B: Tensor, theta: Tensor) -> None:
        """A part's step, and the weights that it is to be taken from."""
        squares = (step_B.square(), torch.linalg.vector_norm(theta.flatten(1), dim=1).square())
        before = self.squares.get(name)
        self.squares[name] = squares if before is None else (before[0] + squares[0], before[1] + squares[1])

    def ratio(self, name: str) -> Tensor:
        """|step| / |theta| of a tensor in each lane (B,)."""
        step_B, theta_B = self.squares[name]
        return (step_B / theta_B.clamp(min=1e-30)).sqrt()


def init_filter_state(lanes: int, tensors: int, like: Tensor) -> FilterState:
    """Before anything was read."""
    counts_BC = torch.zeros(lanes, tensors + 1, dtype=torch.int64, device=like.device)
    zeros_BK = like.new_zeros(lanes, tensors)
    none_BC2 = torch.full((*counts_BC.shape, 2), -1, dtype=torch.int64, device=like.device)
    return FilterState(
        counts_BC, none_BC2, counts_BC[:, 0].clone(), counts_BC[:, 0].clone(), zeros_BK, torch.zeros_like(zeros_BK)
    )


@dataclass(frozen=True)
class UpdateFilter:
    """The bounds for one model: ``limits`` of each tensor's step (or part of one), ``nats`` of a segment's mean.

    ``waits``: for tensors' values, and so branches; else it masks. ``track``: measure every step.
    """

    limits: Mapping[str, float]
    nats: float
    waits: bool
    track: bool

    def broken(self, nats_BT: Tensor, share_BT: Tensor) -> Tensor | None:
        """The lanes (B,) whose segment cost what no good memory's does; None where it is known that there is none."""
        if self.waits and float(nats_BT.amax()) <= self.nats:
            return None
        mean_B = torch.where(share_BT > 0, nats_BT * share_BT, 0).sum(1)
        return ~(mean_B <= self.nats)

    def allowed(
        self, rule: Rule, gradient: Gradient, factors: GateScales | None, scratch: Scratch | None = None
    ) -> Tensor | None:
        """The lanes (B,) whose step by ``gradient`` is taken; None where it is known that all are."""
        limit = self.limits[gradient.name]
        if self.waits and _step_at_most(rule, gradient, factors) <= limit:
            return None
        return step_norms(rule, gradient, factors, scratch) <= limit


def joined(lanes: Sequence[FilterState]) -> FilterState:
    """What was met in some lanes and in others, as one."""
    return FilterState(*(torch.cat(of_all) for of_all in zip(*lanes, strict=True)))


def counts_of(guarded: FilterState, names: Sequence[str]) -> dict[str, Any]:
    """What a guard met in all lanes, ready for JSON: steps refused by tensor, memories restored, tokens scored anew."""
    counts_C = guarded.counts_BC.sum(0).tolist()
    refused = {name: count for name, count in zip(names, counts_C, strict=False) if count}
    return {"refused": refused, "restored": counts_C[-1], "rescored_tokens": int(guarded.rescored_B.sum())}


def first_of(guarded: FilterState, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Article and position of the first event of each kind: a refused step's tensor, or ``memory``."""
    found = {}
    for number, name in enumerate((*names, MEMORY)):
        met = [tuple(place) for place in guarded.first_BC2[:, number].tolist() if place[0] >= 0]
        if met:
            found[name] = min(met)
    return found


def ratios_of(guarded: FilterState, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean and largest |step| / |theta| of each tensor over all segments learned from."""
    steps = max(1, int(guarded.steps_B.sum()))
    means, largest = (guarded.ratio_BK.double().sum(0) / steps).tolist(), guarded.largest_BK.amax(0).tolist()
    return {name: {"mean": mean, "max": most} for name, mean, most in zip(names, means, largest, strict=True)}


def update_filter_for(static: Params, dynamic: Iterable[str], waits: bool = True, track: bool = False) -> UpdateFilter:
    """The guard of readings that move ``dynamic`` tensors of the ``static`` ones."""
    limits = {}
    for name in dynamic:
        tensor = static[name].detach()
        limits[name] = STEP * max(float(tensor.norm()), _SMALLEST_RMS * math.sqrt(tensor.numel()))
    return UpdateFilter(limits, math.log(len(static["output.bias"])) + NATS, waits, track)


def step_norms(rule: Rule, gradient: Gradient, factors: GateScales | None, scratch: Scratch | None = None) -> Tensor:
    """|alpha * scale * u| of each lane (B,), of the gradient's part; nan where the pull beside it is no number."""
    name, u = gradient.name, gradient.tensor
    step = u
    if rule.scale is not None:
        out = None if scratch is None else scratch.take("guarded", tuple(u.shape), u)
        step = torch.mul(u, rule.scale[name][gradient.part], out=out)
    norm_B = torch.linalg.vector_norm(step.flatten(1), dim=1) * rule.rates[name].alpha
    pulled = rule.largest_beta[name]
    if factors is not None:
        number = list(rule.rates).index(name)
        norm_B = norm_B * factors.rate_BK[:, number]
        pulled = pulled * factors.pull_BK[:, number]
    return norm_B + 0 * pulled


def _step_at_most(rule: Rule, gradient: Gradient, factors: GateScales | None) -> float:
    """What no lane's ``step_norms`` passes, from small tensors alone; nan where some number is none."""
    name, norm = gradient.name, 0.0
    for size, *tensors in gradient.products or ((1.0, gradient.tensor),):
        norm += size * math.prod(_largest_norm(tensor) for tensor in tensors)
    norm = norm * float(rule.rates[name].alpha) * _ROUNDING
    norm = norm * float(rule.largest_scale[name]) + 0 * float(rule.largest_beta[name])
    if factors is None:
        return norm
    number = list(rule.rates).index(name)
    return norm * float(factors.rate_BK[:, number].amax()) + 0 * float(factors.pull_BK[:, number].amax())


def _largest_norm(of_lanes: Tensor) -> float:
    if len(of_lanes) == 1:
        return float(torch.linalg.vector_norm(of_lanes))
    return float(torch.linalg.vector_norm(of_lanes, dim=tuple(range(1, of_lanes.dim()))).amax())


def restore_(
    weights: Params, home: Params, velocity: Params, coordinates: Params, static: Params, broken_B: Tensor
) -> None:
    """Take the lanes of ``broken_B`` back to theta_0."""
    for tensors in (weights, home):
        for name, theta in tensors.items():
            theta.copy_(torch.where(_beside(broken_B, theta), static[name], theta))
    for tensor in velocity.values():
        tensor.masked_fill_(_beside(broken_B, tensor), 0)
    for key, tensor in coordinates.items():
        tensor.masked_fill_(_beside(broken_B, tensor), fresh_value(key))


def _beside(lanes_B: Tensor, tensor: Tensor) -> Tensor:
    return lanes_B.view(-1, *(1,) * (tensor.dim() - 1))


def kept_where(allowed_B: Tensor, after: Tensor, before: Tensor) -> None:
    """Put back in ``after`` what was ``before``, in the lanes that were not ``allowed_B``."""
    after.copy_(torch.where(_beside(allowed_B, after), after, before))
