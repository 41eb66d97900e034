"""Perplexities, of which the largest are no number that a computer holds."""

from __future__ import annotations

import math


def perplexity(nats: float, count: int) -> float | None:
    """``exp(nats / count)``; None without a ``count`` and where the figure is not finite."""
    try:
        value = math.exp(nats / count)
    except (OverflowError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) else None


def shown(value: float | None, digits: int = 1) -> str:
    """A perplexity with ``digits`` decimals; ``-`` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"
