"""The defaults of reading with a pretrained model, and what the options of its memory lack."""

from __future__ import annotations

from typing import Any

import pytest

from dynlm.adapt.options import MemoryOptions
from dynlm.run.pretrained import default_window, find_missing
from dynlm.runtime.validation import section_of


@pytest.mark.parametrize(
    ("context", "positions", "window"),
    [
        (None, None, (1024, 512)),
        (None, 2048, (1024, 512)),
        (None, 512, (512, 256)),
        (96, 512, (96, 48)),
        (2048, 512, (2048, 1024)),
        (1, None, (1, 1)),
        ("many", 512, (512, 256)),
    ],
)
def test_the_default_window(context: object, positions: int | None, window: tuple[int, int]) -> None:
    assert tuple(default_window(context, positions).values()) == window


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"rule": "none"}, None),
        ({"rule": "adam", "lr": 0.1}, None),
        ({"rule": "adam"}, ("constants", ["lr"])),
        ({"rule": "sgd+decay"}, ("constants", ["lr", "decay"])),
        ({"rule": "rms", "lr": 0.1}, ("statistics", [])),
        ({"rule": "meta"}, ("learned", [])),
        ({"rule": "none", "cache": "learned"}, ("gate", [])),
        (
            {"rule": "none", "cache": "fixed", "cache_window": 9},
            ("cache", ["cache_inverse_temperature", "cache_share"]),
        ),
    ],
)
def test_what_the_options_of_a_memory_lack(options: dict[str, Any], missing: tuple[str, list[str]] | None) -> None:
    found = find_missing(section_of(MemoryOptions, options))
    assert (None if found is None else (found.kind, found.names)) == missing


def test_statistics_that_are_given_are_not_missing() -> None:
    found = find_missing(section_of(MemoryOptions, {"rule": "rms", "lr": 0.1}), has_statistics=True)
    assert found is not None and (found.kind, found.names) == ("constants", ["decay", "epsilon"])
