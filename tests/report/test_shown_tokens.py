"""A whole text's tokens as they are shown: the same cells as the ones made token by token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.report.shown_tokens import JOINED, shown_tokens
from dynlm.report.token_cells import cells_of
from tests.readings import reading

BASE = reading(articles=1, variants=("level 1",), tokens=60)[0]
SURFACES = st.one_of(
    st.binary(max_size=3), st.sampled_from([b" a", b"\n", b"\xe6", b"\xbc", b"\xa2", b"\xbc\xa2", b"", "漢".encode()])
)


def of_surfaces(surfaces: list[bytes], articles: list[int]):
    zeros = np.zeros(len(surfaces), dtype=np.int32)
    return replace(
        BASE,
        surface=surfaces,
        article=np.array(articles, dtype=np.int32),
        position=zeros,
        segment=zeros,
        token=zeros,
        words=zeros,
        nats=zeros.astype(np.float32),
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(SURFACES, min_size=1, max_size=30), st.integers(0, 30))
def test_they_are_the_cells_of_each_article(surfaces, border):
    articles = [int(row >= border) for row in range(len(surfaces))]
    shown = shown_tokens(of_surfaces(surfaces, articles))
    expected = []
    for article in (0, 1):
        expected += cells_of(
            (surface, 0.0, 0.0) for surface, of in zip(surfaces, articles, strict=True) if of == article
        )
    cells = [index for index in shown.which.tolist() if index != JOINED]
    assert [shown.texts[index] for index in cells] == [cell.text for cell in expected]
    assert [index in shown.ends_line for index in cells] == [cell.ends_line for cell in expected]


def test_each_text_is_kept_once():
    shown = shown_tokens(BASE)
    assert len(shown.texts) == len(set(shown.texts)) == len(set(BASE.surface)) + 1
    assert shown.texts[JOINED] == ""
