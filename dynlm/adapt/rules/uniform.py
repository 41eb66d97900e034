"""Element-wise rules with one learning rate and one decay for all tensors."""

from __future__ import annotations

from collections.abc import Iterable

from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import ElementwiseRule, Rates
from dynlm.adapt.rules.moments import Moments


def uniform_rule(
    name: str,
    tensors: Iterable[str],
    lr: float,
    decay: float = 0.0,
    precondition: tuple[Statistics, float] | None = None,
    moments: Moments | None = None,
) -> ElementwiseRule:
    """Return the rule with one learning rate and one decay; ``precondition``: the statistics R and epsilon of rms."""
    rates = dict.fromkeys(tensors, Rates(lr, decay))
    if precondition is None:
        return ElementwiseRule(name, rates, moments=moments)
    statistics, epsilon = precondition
    tables = statistics.precondition(epsilon), statistics.decay_shape()
    return ElementwiseRule(name, rates, *tables, source=(statistics.rms, epsilon))
