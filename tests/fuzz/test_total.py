"""The total number of fuzz cases."""

from __future__ import annotations

import pytest

from tests.fuzz.cases import CASES, MIN_CASES, RUN_CASES


def test_enough_cases_were_run() -> None:
    assert sum(CASES.values()) >= MIN_CASES
    if set(RUN_CASES) != set(CASES):
        pytest.skip(f"only {len(RUN_CASES)} of {len(CASES)} fuzz tests ran before this one")
    assert sum(RUN_CASES.values()) >= MIN_CASES, RUN_CASES
