"""What a check found: a base of results that say whether everything is as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynlm.runtime.text import printable


class Verdict:
    """Base of dataclasses with the fields ``path``, of what was checked, and ``broken``, what does not hold."""

    path: Path
    broken: list[str]

    @property
    def holds(self) -> bool:
        """Whether nothing is broken."""
        return not self.broken

    def to_dict(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {**vars(self), "path": str(self.path), "holds": self.holds}

    def lines(self, what: str, found: str) -> list[str]:
        """Return a line with the verdict on ``what``, and one for each entry of ``broken``."""
        verdict = "holds " if self.holds else "BROKEN"
        return [f"{verdict}  {what}: {found}", *(f"        {printable(each)}" for each in self.broken)]
