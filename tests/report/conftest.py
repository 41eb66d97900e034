"""Fixtures of the tests of pages in a browser; a module that opens pages has a fixture ``page_file``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import Opened, started


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless browser, started once for a module."""
    with started() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Callable[..., Opened]]:
    """A function that opens the module's page, or another; afterwards no page has said or loaded anything."""
    opened: list[Opened] = []

    def open_it(path: Path = page_file, **options: Any) -> Opened:
        opened.append(Opened(browser, path, **options))
        return opened[-1]

    yield open_it
    for one in opened:
        assert one.messages == []
        assert len(one.requests) == 1 and one.requests[0].startswith("file://")
        one.close()
