"""The losses of a text that was read: one entry for each token, and what is computed from them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dynlm.runtime.frames import import_pandas

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class TextResult:
    """The tokens of a text that was read, one entry each.

    ``token`` is the id, ``surface`` the exact bytes, ``words`` how many words start in it (an end of line is one),
    ``nats`` its loss before it was learned from. ``rejected`` counts the updates that the update filter rejected and
    the weights that it restored. ``static``: each token's nats by the static model, with the same segments and, of a
    transformer, the same context and stride; None where these were not computed.
    """

    token: np.ndarray
    surface: list[bytes]
    words: np.ndarray
    nats: np.ndarray
    rejected: int = 0
    static: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.nats)

    def __iter__(self) -> Iterator[tuple[str, float]]:
        """Yield each token's surface, as text, with its nats."""
        yield from zip(self._texts(), self.nats.tolist(), strict=True)

    def __repr__(self) -> str:
        parts = [f"{len(self):,} tokens"]
        if len(self):
            parts.append(f"{self.nats_per_token:.4f} nats/token, {self.bits_per_byte:.4f} bits/byte")
        if len(self) and self.static is not None:
            parts.append(f"static model {self.static_nats_per_token:.4f} nats/token")
        if self.rejected:
            parts.append(f"{self.rejected:,} updates rejected")
        return f"{type(self).__name__}({'; '.join(parts)})"

    @property
    def total(self) -> float:
        """The sum of the nats."""
        return float(self.nats.sum(dtype=np.float64))

    @property
    def static_total(self) -> float | None:
        """The sum of the static model's nats; None where these were not computed."""
        return None if self.static is None else float(self.static.sum(dtype=np.float64))

    @property
    def nats_per_token(self) -> float:
        """Mean nats; NaN where no token was read."""
        return self.total / len(self) if len(self) else math.nan

    @property
    def static_nats_per_token(self) -> float | None:
        """Mean nats of the static model; None where these were not computed."""
        if (total := self.static_total) is None:
            return None
        return total / len(self) if len(self) else math.nan

    @property
    def bits_per_byte(self) -> float:
        """The sum of the nats in bits, divided by the bytes of the text; NaN where no token was read."""
        size = sum(map(len, self.surface))
        return self.total / math.log(2) / size if size else math.nan

    def to_pandas(self) -> pd.DataFrame:
        """Return a table with one row a token: token, surface (text), bytes, words, nats and, if computed, static.

        Raises UserError where pandas is not installed.
        """
        frame: pd.DataFrame = import_pandas().DataFrame(self.columns())
        return frame

    def head(self, tokens: int) -> TextResult:
        """Return the first ``tokens`` tokens."""
        names = [name for name in ("token", "surface", "words", "nats", "static") if getattr(self, name) is not None]
        return replace(self, **{name: getattr(self, name)[:tokens] for name in names})

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``to_pandas`` by name, as arrays and lists."""
        columns = {
            "token": self.token,
            "surface": self._texts(),
            "bytes": [len(surface) for surface in self.surface],
            "words": self.words,
            "nats": self.nats,
        }
        return columns if self.static is None else {**columns, "static": self.static}

    def _texts(self) -> list[str]:
        return [surface.decode("utf-8", "replace") for surface in self.surface]
