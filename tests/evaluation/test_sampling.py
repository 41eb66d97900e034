"""Drawing tokens, and ending a text that comes in pieces."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynlm.data.options import TokenizerOptions
from dynlm.data.tokenizers.words import WordTokenizer
from dynlm.errors import UserError
from dynlm.evaluation.sampling import Sampling, Stop, decode_pieces
from dynlm.run.folder import load_model
from tests.tiny import Run

P_V = torch.tensor([0.05, 0.4, 0.15, 0.3, 0.1])


def drawn(draws: int = 4000, p_V: torch.Tensor = P_V, **options: float) -> torch.Tensor:
    """How often each token was drawn, as a share."""
    sampling, generator = Sampling(temperature=options.pop("temperature", 1.0), **options), torch.Generator()  # type: ignore[arg-type]
    generator.manual_seed(0)
    tokens = [sampling.draw(p_V.log(), generator) for _ in range(draws)]
    return torch.bincount(torch.tensor(tokens), minlength=len(p_V)) / draws


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"top_k": 0}, [0.05, 0.4, 0.15, 0.3, 0.1]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 0, "top_p": 0.75}, [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        ({"top_k": 0, "top_p": 0.3}, [0, 1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.99}, [0, 0.4 / 0.85, 0.15 / 0.85, 0.3 / 0.85, 0]),
        ({"top_k": 0, "temperature": 0.5}, (P_V**2 / (P_V**2).sum()).tolist()),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"top_k": 0, "top_p": 1e-6}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(options: dict[str, float], expected: list[float]) -> None:
    assert drawn(**options) == pytest.approx(torch.tensor(expected), abs=0.025)
    assert ((drawn(**options) > 0) <= (torch.tensor(expected) > 0)).all()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"tokens": 0}, "tokens is 0"),
        ({"temperature": -0.1}, r"temperature .* is -0\.1"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, r"top_p is 0\.0"),
        ({"top_p": 1.01}, r"top_p is 1\.01"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], what: str) -> None:
    with pytest.raises(UserError, match=what):
        Sampling(**options)  # type: ignore[arg-type]


def test_nothing_is_drawn_from_diverged_weights() -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="not finite"):
            drawn(1, torch.tensor([0.5, math.nan]), temperature=temperature)


def test_a_text_ends_before_the_first_stop() -> None:
    stop = Stop(("Q:", "\n", ""))
    assert (stop.find("a\nQ:"), stop.find("aQ:\n"), stop.find("a Q :")) == (1, 1, -1)
    assert list(Stop(("END",)).cut(["a", "bE", "N", "x", "EN", "D", "c"])) == ["a", "b", "ENx"]
    assert list(Stop(("END",)).cut(["a", "EN"])) == ["a", "EN"]
    assert list(Stop().cut(["a", "", "b"])) == ["a", "b"]


@given(st.lists(st.text("ab", max_size=4), max_size=8), st.lists(st.text("ab", min_size=1, max_size=3), max_size=3))
def test_a_cut_does_not_depend_on_the_pieces(pieces: list[str], texts: list[str]) -> None:
    stop, whole = Stop(tuple(texts)), "".join(pieces)
    at = stop.find(whole)
    shown = list(stop.cut(pieces))
    assert all(shown)
    assert "".join(shown) == (whole if at < 0 else whole[:at])


def test_pieces_are_the_text_of_all_tokens(trained_run: Run) -> None:
    tokenizer = load_model(trained_run.folder).tokenizer
    ids = tokenizer.encode("Straße 東京 \U0001f600\n the town ").ids.tolist()
    pieces = list(decode_pieces(tokenizer, ids))
    assert "".join(pieces) == tokenizer.decode(ids) and len(pieces) > 5
    assert "\ufffd" not in "".join(pieces)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):  # bytes in any order are not UTF-8
        some = torch.randint(tokenizer.size, (12,), generator=generator).tolist()
        assert "".join(decode_pieces(tokenizer, some)) == tokenizer.decode(some)
    cut = ids[: next(n for n in range(len(ids)) if tokenizer.decode(ids[:n]).endswith("\ufffd"))]
    assert "".join(decode_pieces(tokenizer, cut)) == tokenizer.decode(cut)


def test_pieces_of_words(tmp_path: Path) -> None:
    tokenizer = WordTokenizer(TokenizerOptions(kind="word"), ["the", "town", "<eos>", "<unk>"])
    ids = tokenizer.encode("the town\nthe other").ids.tolist()
    assert "".join(decode_pieces(tokenizer, ids)) == tokenizer.decode(ids)
