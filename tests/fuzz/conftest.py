"""A memory limit for fuzz tests: a file must not allocate memory by claiming a size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

_LIMIT = 3 << 30
"""Bytes of address space beyond those in use when a test begins."""


@pytest.fixture(autouse=True)
def bounded_memory() -> Iterator[None]:
    """Limit the address space, where the system can: an allocation over it raises MemoryError, which fails the test."""
    try:
        import resource

        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + _LIMIT, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder as slow: together they take minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
