"""The options of generation that tasks give."""

from __future__ import annotations

from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.evaluation.sampling import Sampling, Stop
from dynlm.harness.generation import generation_of


def sampling_of(**options: Any) -> Sampling:
    return generation_of(options, frozenset(), 5)[0]


def test_sampling_has_to_be_asked_for() -> None:
    assert sampling_of() == Sampling(256, 0.0, 0, seed=5)
    assert sampling_of(max_gen_toks=9, do_sample=False, temperature=0.7, top_k=3, top_p=0.5) == Sampling(
        9, 0.0, 0, seed=5
    )
    assert sampling_of(max_new_tokens=9, temperature=0.7, top_k=3, top_p=0.9) == Sampling(9, 0.7, 3, 0.9, 5)
    assert sampling_of(max_tokens=9, do_sample=True) == Sampling(9, 1.0, 0, seed=5)


def test_strings_and_tokens_end_a_text() -> None:
    assert generation_of({"until": "\n\n"}, frozenset({3}), 0)[1] == Stop(("\n\n",), frozenset({3}))


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"do_sample": True, "top_p": 1.5}, r"top_p is 1\.5"),
        ({"do_sample": True, "min_p": 0.1}, r"min_p is 0\.1"),
        ({"num_beams": 4}, "num_beams is 4"),
        ({"max_gen_toks": "many"}, "not a number"),
        ({"max_gen_toks": 0}, "tokens is 0"),
        ({"foo": 1}, "foo is 1"),
    ],
)
def test_what_is_not_supported_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what):
        sampling_of(**options)
