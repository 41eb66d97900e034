"""Random numbers of T tasks, from one generator that they share or from one generator for each.

Training draws the numbers of all tasks from one generator. Evaluation gives each task its own, so that its result does
not depend on the others in the batch.

Legend: T tasks, E copies of each task's environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Randomness:
    """Draws tensors whose first axis is the tasks.

    ``generators`` are one for each task, or a single one for all ``tasks`` together.
    """

    def __init__(self, generators: Sequence[torch.Generator] | torch.Generator, tasks: int):
        self.tasks = tasks
        self._generators = [generators] if isinstance(generators, torch.Generator) else list(generators)
        self._is_shared = isinstance(generators, torch.Generator)
        if not self._is_shared and len(self._generators) != tasks:
            raise ValueError(f"{len(self._generators)} generators, for {tasks} tasks")

    def uniform(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return numbers uniform in [0, 1) (T, *shape)."""
        return self._draw(lambda sizes, generator: torch.rand(sizes, generator=generator, dtype=dtype), shape)

    def normal(self, *shape: int) -> Tensor:
        """Return standard normal numbers (T, *shape)."""
        return self._draw(lambda sizes, generator: torch.randn(sizes, generator=generator), shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return integers uniform in [0, high) (T, *shape)."""
        return self._draw(lambda sizes, generator: torch.randint(high, sizes, generator=generator), shape)

    def gamma(self, concentration_T: Tensor) -> Tensor:
        """Return Gamma(concentration, 1) variates (T, ...) of a tensor of concentrations (T, ...)."""
        if self._is_shared:
            return torch._standard_gamma(concentration_T, generator=self._generators[0])
        pairs = zip(concentration_T, self._generators, strict=True)
        return torch.stack([torch._standard_gamma(one, generator=generator) for one, generator in pairs])

    def beta(self, a_T: Tensor, b_T: Tensor) -> Tensor:
        """Return Beta(a, b) variates (T, ...)."""
        first_T, second_T = self.gamma(torch.stack([a_T, b_T], 1)).unbind(1)
        return first_T / (first_T + second_T)

    def dirichlet(self, concentration_TN: Tensor) -> Tensor:
        """Return Dirichlet variates (T, ..., N) of concentrations along the last axis."""
        gamma_TN = self.gamma(concentration_TN).clamp_min(torch.finfo(concentration_TN.dtype).tiny)
        return gamma_TN / gamma_TN.sum(-1, keepdim=True)

    def categorical(self, logits_TEN: Tensor) -> Tensor:
        """Return indices (T, E) drawn with probability softmax(logits) along the last axis."""
        # torch's softmax over few classes takes several times as long; weights need no sum of 1 here.
        return self.weighted_index((logits_TEN - logits_TEN.amax(-1, keepdim=True)).exp().cumsum(-1))

    def weighted_index(self, cumulative_TEN: Tensor) -> Tensor:
        """Return indices (T, E) drawn in proportion to weights of which the cumulative sums are given."""
        # Scaled by the last sum, which rounding may leave below that of the weights: the index is then one of the N.
        drawn_TE1 = self.uniform(*cumulative_TEN.shape[1:-1], 1).to(cumulative_TEN) * cumulative_TEN[..., -1:]
        return (cumulative_TEN <= drawn_TE1).sum(-1).clamp_max(cumulative_TEN.shape[-1] - 1)

    def argmax(self, values_TEN: Tensor) -> Tensor:
        """Return the index (T, E) of the largest value along the last axis, drawn uniformly among equal ones."""
        is_largest_TEN = values_TEN == values_TEN.amax(-1, keepdim=True)
        return (is_largest_TEN * (self.uniform(*values_TEN.shape[1:]) + 1)).argmax(-1)

    def _draw(self, draw: Callable[[tuple[int, ...], torch.Generator], Tensor], shape: tuple[int, ...]) -> Tensor:
        if self._is_shared:
            return draw((self.tasks, *shape), self._generators[0])
        return torch.stack([draw(shape, generator) for generator in self._generators])
