"""The AWD-LSTM's regularisers (Merity, Keskar & Socher 2018, arXiv 1708.02182) as functions of a generator.

Legend: T steps, B lanes, H width, V vocabulary.

Several processes hold generators in the same state. Each draws the masks of all processes' lanes and takes those of its
own, so that any number of processes drop what one would.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dynlm.models.options import RegularisationOptions


@dataclass(frozen=True)
class Regularisers:
    """The regularisers of a training run in process ``rank`` of ``world``, and the generator that draws their masks."""

    config: RegularisationOptions
    generator: torch.Generator
    rank: int = 0
    world: int = 1

    def variational(self, x_TBH: Tensor, probability: float) -> Tensor:
        """Drop the same features at every step (Gal & Ghahramani 2016)."""
        if not probability:
            return x_TBH
        lanes, width = x_TBH.shape[1:]
        mask_1BH = self._mask((1, lanes * self.world, width), probability, x_TBH)
        return x_TBH * mask_1BH[:, self.rank :: self.world]

    def embedding(self, embedded_TBH: Tensor, tokens_TB: Tensor, vocabulary: int) -> Tensor:
        """Drop whole types: every occurrence of a token in the batch, or none."""
        if not self.config.embedding:
            return embedded_TBH
        mask_V = self._mask((vocabulary,), self.config.embedding, embedded_TBH)
        return embedded_TBH * mask_V[tokens_TB, None]

    def weight_drop(self, recurrent: Tensor) -> Tensor:
        """Drop single hidden-to-hidden weights, the same at every step (Wan et al. 2013)."""
        if not self.config.weight:
            return recurrent
        return recurrent * self._mask(recurrent.shape, self.config.weight, recurrent)

    def penalty(self, dropped_TBH: Tensor, raw_TBH: Tensor) -> Tensor:
        """Activation penalties of the last layer, on the scale of nats per token (Merity et al. 2017)."""
        at_least = torch.promote_types(raw_TBH.dtype, torch.float32)
        total = raw_TBH.new_zeros((), dtype=at_least)
        if self.config.activation:
            total = total + self.config.activation * dropped_TBH.to(at_least).square().mean()
        if self.config.temporal_activation and len(raw_TBH) > 1:
            change = (raw_TBH[1:] - raw_TBH[:-1]).to(at_least)
            total = total + self.config.temporal_activation * change.square().mean()
        return total

    def _mask(self, shape: tuple[int, ...], probability: float, like: Tensor) -> Tensor:
        kept = torch.rand(shape, generator=self.generator, device=like.device) >= probability
        return kept.to(like.dtype) / (1 - probability)
