"""The context of a transformer as a state: the last tokens of each lane, and their keys and values.

Legend: B lanes, T tokens of a segment, C capacity of the context, G key-value heads, D width of a head.

Keys and values belong to the weights that computed them. After an update they are stale: they are kept until the
context is full, or until they are ``refresh`` tokens old, and are then computed anew from the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

KeyValues = Sequence[tuple[Tensor, Tensor]]
"""Keys and values (B, G, tokens, D) of each layer."""


class Window(NamedTuple):
    """The last tokens of each lane, right-aligned.

    ``valid_B``: how many of the C positions hold tokens; ``age_B``: tokens read since keys and values were computed
    anew. ``keys`` and ``values`` (B, C, G, D) are of each layer.
    """

    tokens_BC: Tensor
    valid_B: Tensor
    age_B: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def empty(cls, lanes: int, capacity: int, sizes: Sequence[tuple[int, int]], like: Tensor) -> Window:
        """Return a window without tokens; ``sizes``: heads and width of each layer."""
        zeros = [tuple(like.new_zeros(lanes, capacity, *size) for size in sizes) for _ in range(2)]
        counts_B = torch.zeros(lanes, dtype=torch.int64, device=like.device)
        tokens_BC = counts_B.new_zeros(lanes, capacity)
        return cls(tokens_BC, counts_B, counts_B.clone(), *zeros)

    def last(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Return keys and values (B, G, count, D) of the last ``count`` positions."""
        start = self.tokens_BC.shape[1] - count
        return [
            (k[:, start:].transpose(1, 2), v[:, start:].transpose(1, 2))
            for k, v in zip(self.keys, self.values, strict=True)
        ]

    def append(self, inputs_BT: Tensor, new: KeyValues) -> Window:
        """Return the window after a segment, whose keys and values are ``new``."""
        length = inputs_BT.shape[1]
        keys, values = (
            tuple(_shift(old, layer[which]) for old, layer in zip(olds, new, strict=True))
            for which, olds in enumerate((self.keys, self.values))
        )
        capacity = self.tokens_BC.shape[1]
        return Window(
            torch.cat([self.tokens_BC, inputs_BT], 1)[:, -capacity:],
            (self.valid_B + length).clamp(max=capacity),
            self.age_B + length,
            keys,
            values,
        )

    def without_last(self, count: int) -> Window:
        """Return the window without its last ``count`` positions."""
        capacity = self.tokens_BC.shape[1]

        def moved(tensor: Tensor) -> Tensor:
            return torch.cat([torch.zeros_like(tensor[:, :count]), tensor[:, : capacity - count]], 1)

        keys, values = (tuple(map(moved, tensors)) for tensors in (self.keys, self.values))
        return Window(moved(self.tokens_BC), self.valid_B - count, self.age_B - count, keys, values)


def _shift(old_BCGD: Tensor, new_BGTD: Tensor) -> Tensor:
    return torch.cat([old_BCGD, new_BGTD.transpose(1, 2)], 1)[:, -old_BCGD.shape[1] :]
