"""Shared parts of the fuzz tests: numbers of cases, strategies and the accepted outcomes.

A function that reads a file may return its content or raise UserError with one line. Anything else is a crash, such as
a MemoryError for a size that a file only claims. ``DYNLM_FUZZ=20`` tries twenty times as many cases, and different ones
each time.
"""

from __future__ import annotations

import functools
import json
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from dynlm.errors import UserError

TIMES = int(os.environ.get("DYNLM_FUZZ", "1"))
MIN_CASES = 10_000
"""Least number of cases of all tests together."""
CASES = {
    "tokenizer round trip": 1500,
    "tokenizer files": 600,
    "text files": 1500,
    "json lines": 700,
    "parquet corpora": 600,
    "wikitext": 1000,
    "dumps": 600,
    "token arrays": 500,
    "yaml configs": 60,
    "run configs": 600,
    "dotted options": 60,
    "safetensors": 1500,
    "model cards": 500,
    "memory files": 600,
    "score files": 700,
    "protocols": 400,
    "few-shot files": 500,
    "images": 700,
}
RUN_CASES: Counter[str] = Counter()
"""Number of cases that each test has run in this process."""

_Returned = TypeVar("_Returned")


def fuzz(name: str, *arguments: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> Callable[..., Any]:
    """Return a decorator for a hypothesis test of ``CASES[name]`` cases, deterministic unless DYNLM_FUZZ is set."""

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def counted(*given_arguments: Any, **given_named: Any) -> None:
            RUN_CASES[name] += 1
            test(*given_arguments, **given_named)

        limits = settings(
            max_examples=CASES[name] * TIMES,
            deadline=None,
            derandomize=TIMES == 1,
            database=None,
            # Cases are small: shrinking them takes longer than finding them.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        made: Callable[..., None] = limits(given(*arguments, **named)(counted))
        return made

    return decorate


def tried(call: Callable[[], _Returned]) -> _Returned | None:
    """Return the result of ``call``, or None if it raises UserError; anything else fails the test."""
    try:
        return call()
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return None


EXTREMES = (0, 1, 0x7F, 0x80, 0xFF)

numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31 - 1, 2**31, -(2**31), 2**53, 2**63, 2**64, -(2**63), 10**18, 10**40]),
    st.floats(),
    st.sampled_from([float("nan"), float("inf"), -float("inf"), -0.0, 1e308, 5e-324, 0.5]),
)
scalars = st.one_of(
    st.none(), st.booleans(), numbers, st.text(max_size=8), st.sampled_from(["", "\ud800", "\0", "../x"])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Return ``whole`` with one to three kinds of damage."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["cut", "flip", "fill", "splice", "insert", "length", "random"]))
        at = draw(st.integers(0, max(0, len(data) - 1)))
        if draw(st.booleans()):  # Headers and footers hold most sizes.
            at = draw(st.sampled_from([at % 64, max(0, len(data) - 1 - at % 64)])) % max(1, len(data))
        if kind == "cut":
            del data[at:]
        elif kind == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "fill":
            count = draw(st.integers(1, 16))
            data[at : at + count] = bytes([draw(st.sampled_from(EXTREMES))]) * min(count, len(data) - at)
        elif kind == "splice":
            other = draw(st.integers(0, max(0, len(data) - 1)))
            count = draw(st.integers(1, 64))
            data[at : at + count] = data[other : other + count]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif kind == "length":
            size = draw(st.sampled_from([4, 8]))
            number = draw(st.one_of(st.integers(0, 2 ** (8 * size) - 1), st.integers(0, 300)))
            data[at : at + size] = number.to_bytes(size, "little")
        elif kind == "random":
            data = bytearray(draw(st.binary(max_size=200)))
    return bytes(data)


@st.composite
def altered(draw: st.DrawFn, content: Any) -> Any:
    """Return a JSON value with one to three of its parts replaced, removed or duplicated."""
    content = json.loads(json.dumps(content))
    for _ in range(draw(st.integers(1, 3))):
        holder, parents = content, []
        while isinstance(holder, dict | list) and holder:
            keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            parents.append((holder, draw(st.sampled_from(keys))))
            holder = holder[parents[-1][1]]
        if not parents:
            return draw(values)
        inside, key = parents[draw(st.integers(0, len(parents) - 1))]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace":
            inside[key] = draw(values)
        elif kind == "remove":
            del inside[key]
        elif isinstance(inside, dict):
            inside[draw(st.text(max_size=6))] = draw(values)
        else:
            inside.append(draw(values))
    return content


def as_json(content: Any) -> bytes:
    """Serialise as Python does, with NaN and lone surrogates."""
    return json.dumps(content).encode("utf-8", "surrogatepass")


def damaged_json(content: Any) -> st.SearchStrategy[bytes]:
    """Return a JSON file with altered content or damaged bytes."""
    whole = as_json(content)
    deep = [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"1e999", b"NaN", b"null", b"[]", b"\xff\xfe{"]
    return st.one_of(altered(content).map(as_json), damaged(whole), st.sampled_from(deep))
