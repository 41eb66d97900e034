"""Fingerprints of content: truncated SHA-256 digests of sequences of byte strings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


class Hasher:
    """Incremental fingerprint of a sequence of parts.

    Each part is hashed with its length, so that ``("ab", "c")`` and ``("a", "bc")`` differ.
    """

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, part: bytes | memoryview | str) -> None:
        """Add one part: bytes, or a string as UTF-8."""
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        self.add_long(len(data), [data])

    def add_long(self, size: int, chunks: Iterable[bytes | memoryview]) -> None:
        """Add one part of ``size`` bytes, given in chunks."""
        self._digest.update(size.to_bytes(8, "little"))
        for chunk in chunks:
            self._digest.update(chunk)

    def hexdigest(self) -> str:
        """Return the first 16 hexadecimal digits of the SHA-256 digest."""
        return self._digest.hexdigest()[:16]


def fingerprint(*parts: bytes | memoryview | str) -> str:
    """Return the fingerprint of ``parts``: 16 hexadecimal digits."""
    hasher = Hasher()
    for part in parts:
        hasher.add(part)
    return hasher.hexdigest()
