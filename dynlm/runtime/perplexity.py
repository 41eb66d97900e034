"""Perplexities: the exponential of a mean loss in nats, which may overflow."""

from __future__ import annotations

import math


def perplexity(nats: float, count: int) -> float | None:
    """Return ``exp(nats / count)``; None if ``count`` is 0 or the result is not finite."""
    try:
        value = math.exp(nats / count)
    except (OverflowError, ZeroDivisionError):
        return None
    return value if math.isfinite(value) else None


def format_perplexity(value: float | None, digits: int = 1) -> str:
    """Return ``value`` with ``digits`` decimals, or ``-`` if it is None."""
    return "-" if value is None else f"{value:.{digits}f}"
