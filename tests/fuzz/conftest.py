"""No fuzz test may take memory for what a file only claims."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOM = 3 << 30
"""Bytes of address space beyond what the process has when a test begins."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Where the system can: what asks for more gets a MemoryError, which is a crash."""
    try:
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + _ROOM, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
