"""Experience replay: after each segment, learn again from one of the same article that was scored before.

Legend: B lanes, N segments that are held, T tokens of a segment.

A segment's gradient is taken once, by weights that have not seen what follows in its article. With replay (Lin 1992; of
language models de Masson d'Autume et al. 2019, arXiv 1906.01076) each segment is followed by a second step, by the
gradient of an earlier segment of the article at the weights as they are now:

    theta <- theta - rate * alpha * scale * u(theta, segment s, state before s)

without decay. s is the segment at the share n * 0.618... (modulo 1) of those held, n the segments stored: the golden
ratio visits all evenly without random numbers, so that a reading in two sittings draws what one draws. What is drawn
has been scored, and its loss is not reported: reported losses are still those of weights that have not seen
their segments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dynlm.adapt.rules.base import Rule
from dynlm.data.stream import Batch
from dynlm.errors import UserError
from dynlm.models.protocol import SequenceModel
from dynlm.runtime.tree import leaves, map_tensors
from dynlm.types import State

_GOLDEN = 0.6180339887498949
SEGMENTS = 1000
"""Segments that are held; with more in an article, the latest."""


class ReplayBuffer(NamedTuple):
    """The held segments of each lane's article, with the model's state before each (B, N, ...).

    ``stored_B``: how many were stored since the article began; of more than N the latest are held.
    """

    inputs_BNT: Tensor
    targets_BNT: Tensor
    state: State
    stored_B: Tensor

    def start_articles(self, starts_B: Tensor) -> ReplayBuffer:
        """Return the buffer, empty in the lanes of ``starts_B`` (bool)."""
        return self._replace(stored_B=self.stored_B.masked_fill(starts_B, 0))

    def store_(self, batch: Batch, state: State) -> ReplayBuffer:
        """Write a scored segment and the state before it in place, in the lanes where it is whole and finite."""
        held, tokens = self.inputs_BNT.shape[1:]
        if batch.inputs_BT.shape[1] != tokens:
            return self
        whole_B = batch.mask_BT.all(1)
        for _, tensor in leaves(state):
            whole_B = whole_B & tensor.flatten(1).isfinite().all(1)
        lanes = torch.arange(len(whole_B), device=whole_B.device)
        at = lanes, self.stored_B % held

        def write_(into: Tensor, value: Tensor) -> Tensor:
            into[at] = torch.where(whole_B.view(-1, *(1,) * (value.dim() - 1)), value, into[at])
            return into

        write_(self.inputs_BNT, batch.inputs_BT)
        write_(self.targets_BNT, batch.targets_BT)
        map_tensors(write_, self.state, state)
        return self._replace(stored_B=self.stored_B + whole_B)


@dataclass(frozen=True)
class Replay:
    """The share ``rate`` of the learning rates that a replayed segment is learned from with, and what is held."""

    rate: float
    tokens: int
    segments: int = SEGMENTS

    @classmethod
    def of(cls, rule: Rule, model: SequenceModel, tokens: int) -> Replay | None:
        """Return how ``rule`` learns again from segments of so many tokens; None where it does not.

        Raises UserError for a model whose states are too large to be held.
        """
        if not rule.learns or not rule.replay_rate:
            return None
        if not model.has_small_state:
            what = (
                "replay holds the model's state before each of many segments, which is too large for this kind of model"
            )
            raise UserError(what, do="choose another --memory.rule, or leave out replay_rate")
        return cls(rule.replay_rate, tokens)

    def fresh(self, state: State, like: Tensor) -> ReplayBuffer:
        """Return an empty buffer for segments of ``tokens`` tokens and states such as ``state``."""
        stored_B = torch.zeros(len(next(iter(leaves(state)))[1]), dtype=torch.int64, device=like.device)
        ids_BNT = stored_B.new_zeros(len(stored_B), self.segments, self.tokens)

        def room(tensor: Tensor) -> Tensor:
            return tensor.new_zeros(len(tensor), self.segments, *tensor.shape[1:])

        return ReplayBuffer(ids_BNT, ids_BNT.clone(), map_tensors(room, state), stored_B)

    def draw(self, buffer: ReplayBuffer, busy_B: Tensor, like: Tensor) -> tuple[Batch, State] | None:
        """Return (a held segment of each lane, the state before it); None where no lane holds any.

        The mask of a lane that holds none, or is not in ``busy_B`` (bool), is 0.
        """
        held_B = buffer.stored_B.clamp(max=buffer.inputs_BNT.shape[1])
        if not held_B.any():
            return None
        share_B = (buffer.stored_B.double() * _GOLDEN).frac()
        at = torch.arange(len(held_B), device=held_B.device), (share_B * held_B).long()
        inputs_BT, targets_BT = buffer.inputs_BNT[at], buffer.targets_BNT[at]
        mask_BT = ((held_B > 0) & busy_B)[:, None].expand_as(inputs_BT).to(like.dtype)
        never_B = torch.zeros_like(held_B, dtype=torch.bool)
        batch = Batch(inputs_BT, targets_BT, mask_BT, never_B, never_B)
        return batch, map_tensors(lambda tensor: tensor[at], buffer.state)
