"""Statistics of training gradients, and the tables that rules make of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from dynlm.types import Params


@dataclass(frozen=True)
class Statistics:
    """R: the root mean square of each weight's gradient over training segments."""

    rms: Params

    def precondition(self, epsilon: float) -> Params:
        """Return 1 / (R + epsilon)."""
        return {name: 1 / (tensor + epsilon) for name, tensor in self.rms.items()}

    def decay_shape(self) -> Params:
        """Return R over its mean (of the tensors' means): weights that training moved much are pulled back harder."""
        mean = torch.stack([tensor.mean() for tensor in self.rms.values()]).mean()
        return {name: tensor / mean for name, tensor in self.rms.items()}

    def of(self, names: Iterable[str]) -> Statistics:
        """Return those of the tensors ``names``."""
        return Statistics({name: self.rms[name] for name in names})
