"""Reject oversized or non-finite updates, and restore diverged weights.

Legend: B lanes, T tokens of a segment, K dynamic tensors, C = K + 1 kinds of events.

Two bounds, both far from what a reading with sensible rates does:

    update    the norm of each tensor's update is finite and at most UPDATE times |theta_0|. Otherwise the update, with
              its decay, is not taken in that lane.
    nats      the mean nats of a segment are finite and at most log V + NATS. Otherwise the weights that scored it go
              back to the static parameters, and learn nothing from that segment.

A segment's losses stay as they were scored; where one of them is not finite the weights gave no distribution, and the
segment is scored by the static parameters: no token is lost, and no scored token is scored better for it. Code that
must not synchronise with the device (``synchronises`` False: a segment captured as a CUDA graph) decides by masks, and
does not score again.

The norm of an update takes a pass over a gradient, some 5 % of a reading. On a CPU it is bounded first, by the norms of
the small matrices whose product the gradient is (``Rule.update_norm_bound``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dynlm.types import Params

UPDATE = 10.0
NATS = 30.0
MEMORY = "memory"
"""Among the names of tensors: a whole memory that was restored."""
# A tensor of smaller weights (biases that start at zero) counts as having this root mean square.
_SMALLEST_RMS = 0.1


class FilterState(NamedTuple):
    """What the filter rejected in each lane, written in place.

    ``counts_BC``: rejected updates of each dynamic tensor, and last restored memories. ``first_BC2``: article and
    position (of its segment's first token) of the first of each kind, -1 where there is none. ``rescored_B``: tokens
    scored by the static parameters. With ``UpdateFilter.track``: ``steps_B`` segments learned from, the sum and the
    largest of each tensor's |update| / |theta_t| over them, ``ratio_BK`` and ``largest_BK``.
    """

    counts_BC: Tensor
    first_BC2: Tensor
    rescored_B: Tensor
    steps_B: Tensor
    ratio_BK: Tensor
    largest_BK: Tensor

    @classmethod
    def initial(cls, lanes: int, tensors: int, like: Tensor) -> FilterState:
        """Return the counts before anything was read."""
        counts_BC = torch.zeros(lanes, tensors + 1, dtype=torch.int64, device=like.device)
        none_BC2 = torch.full((*counts_BC.shape, 2), -1, dtype=torch.int64, device=like.device)
        zeros_BK, zeros_B = like.new_zeros(lanes, tensors), counts_BC[:, 0]
        return cls(counts_BC, none_BC2, zeros_B.clone(), zeros_B.clone(), zeros_BK, zeros_BK.clone())

    @property
    def restored_B(self) -> Tensor:
        """How often each lane's memory was restored."""
        return self.counts_BC[:, -1]

    def count_(self, kind: int, lanes_B: Tensor, position_B2: Tensor | None) -> None:
        """Count an event of ``kind`` in the lanes of ``lanes_B`` (bool), whose segments are at ``position_B2``."""
        self.counts_BC[:, kind].add_(lanes_B)
        if position_B2 is not None:
            first_B2 = self.first_BC2[:, kind]
            first_B2.copy_(torch.where(lanes_B[:, None] & (first_B2 < 0), position_B2, first_B2))

    def measure_(self, squares: Params, names: Sequence[str], share_BT: Tensor) -> None:
        """Add a segment's updates of the tensors ``names``; one that was not finite counts as zero."""
        self.steps_B.add_(share_BT.any(1))
        for index, name in enumerate(names):
            if name in squares:
                ratio_B = ratio(squares[name]).nan_to_num(0, 0, 0)
                self.ratio_BK[:, index].add_(ratio_B)
                torch.maximum(self.largest_BK[:, index], ratio_B, out=self.largest_BK[:, index])


def add_squares_(squares: Params, name: str, norm_B: Tensor, theta: Tensor) -> None:
    """Add |update|^2 and |theta|^2 of a tensor's part, in each lane, to those (2, B) of the parts before it."""
    part_2B = torch.stack([norm_B, torch.linalg.vector_norm(theta.flatten(1), dim=1)]).square()
    squares[name] = squares[name] + part_2B if name in squares else part_2B


def ratio(squares_2B: Tensor) -> Tensor:
    """Return |update| / |theta| of a tensor in each lane (B,)."""
    return (squares_2B[0] / squares_2B[1].clamp(min=1e-30)).sqrt()


@dataclass(frozen=True)
class UpdateFilter:
    """The bounds for one model: ``limits`` on the norm of each tensor's update, ``nats`` on a segment's mean loss.

    ``synchronises``: it may wait for the device, and so branch; otherwise it masks. ``track``: measure every update.
    """

    limits: Mapping[str, float]
    nats: float
    synchronises: bool = True
    track: bool = False

    @classmethod
    def for_model(cls, static: Params, tensors: Iterable[str], vocab_size: int, track: bool = False) -> UpdateFilter:
        """Return the filter of readings that move ``tensors`` of the ``static`` parameters."""
        limits = {}
        for name in tensors:
            tensor = static[name].detach()
            limits[name] = UPDATE * max(float(tensor.norm()), _SMALLEST_RMS * math.sqrt(tensor.numel()))
        return cls(limits, math.log(vocab_size) + NATS, track=track)

    def diverged(self, nats_BT: Tensor, share_BT: Tensor) -> Tensor | None:
        """Return the lanes (B,) whose segment cost more than the bound; None where it is known that there is none."""
        if self.synchronises and float(nats_BT.amax()) <= self.nats:
            return None
        mean_B = torch.where(share_BT > 0, nats_BT * share_BT, 0).sum(1)
        return ~(mean_B <= self.nats)


def counts_of(state: FilterState, names: Sequence[str]) -> dict[str, Any]:
    """Return the counts of all lanes for JSON: rejected updates by tensor, restored memories, rescored tokens."""
    counts_C = state.counts_BC.sum(0).tolist()
    refused = {name: count for name, count in zip(names, counts_C, strict=False) if count}
    return {"refused": refused, "restored": counts_C[-1], "rescored_tokens": int(state.rescored_B.sum())}


def first_of(state: FilterState, names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return article and position of the first event of each kind: a rejected update's tensor, or ``memory``."""
    found = {}
    for index, name in enumerate((*names, MEMORY)):
        met = [tuple(position) for position in state.first_BC2[:, index].tolist() if position[0] >= 0]
        if met:
            found[name] = min(met)
    return found


def ratios_of(state: FilterState, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return mean and largest |update| / |theta| of each tensor over all segments learned from."""
    steps = max(1, int(state.steps_B.sum()))
    means, largest = (state.ratio_BK.double().sum(0) / steps).tolist(), state.largest_BK.amax(0).tolist()
    return {name: {"mean": mean, "max": most} for name, mean, most in zip(names, means, largest, strict=True)}
