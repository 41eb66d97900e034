"""What it took to find something that a variant reads with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Budget:
    """What a step took: ``settings`` tried on ``tokens`` of text, ``tokens_read`` with all of them together, training
    tokens that were ``learned_on``, ``parameters`` learned, and ``seconds``; the last two are None where the run does
    not say.
    """

    settings: int = 0
    tokens: int = 0
    learned_on: int = 0
    parameters: int | None = 0
    seconds: float | None = 0.0
    tokens_read: int = 0

    @classmethod
    def total(cls, budgets: Sequence[Budget]) -> Budget:
        """Return what several steps took: sums, and the largest number of tokens; None where it is not known of all."""
        parameters, seconds = [each.parameters for each in budgets], [each.seconds for each in budgets]
        return cls(
            sum(each.settings for each in budgets),
            max((each.tokens for each in budgets), default=0),
            sum(each.learned_on for each in budgets),
            None if None in parameters else sum(each or 0 for each in parameters),
            None if None in seconds else sum(each or 0.0 for each in seconds),
            sum(each.tokens_read for each in budgets),
        )

    @classmethod
    def of_search(cls, held: Mapping[str, Any]) -> Budget:
        """Return what a search took, given what the run holds of it."""
        settings, tokens = held["settings"], held.get("tokens", 0)
        read = held.get("tokens_read", settings * tokens)  # Earlier searches read all tokens with each setting.
        return cls(settings, tokens, 0, held.get("parameters"), held.get("seconds"), read)

    @classmethod
    def of_learning(cls, held: Mapping[str, Any], settings: int) -> Budget:
        """Return what it took to learn something that was read with so many ``settings``, given what the run holds."""
        return cls(settings, 0, held["tokens"], held.get("parameters"), held.get("seconds"))
