"""How many cases there were: the promise of cases.py, counted as they ran."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import CASES, PROMISED, TRIED


def test_as_many_cases_were_tried_as_promised() -> None:
    assert sum(CASES.values()) >= PROMISED
    if set(TRIED) != set(CASES):
        pytest.skip(f"only {len(TRIED)} of {len(CASES)} fuzz tests ran before this one")
    assert sum(TRIED.values()) >= PROMISED, TRIED
