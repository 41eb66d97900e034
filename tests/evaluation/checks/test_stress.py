"""The stress test: its texts, and that its three losses are those of three readings."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from dynlm.data.articles import load_articles
from dynlm.data.token_store import tokenise
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.data.tokenizers.tokenizer import Tokenizer
from dynlm.errors import UserError
from dynlm.evaluation.checks import stress as module
from dynlm.evaluation.checks.protocol import nats_of
from dynlm.evaluation.checks.stress import Cost, StressResult, cost_of, german, stress_test, stress_texts
from dynlm.run.folder import load_model
from dynlm.run.opening import open_dynamic_model
from tests.tiny import Run, opened, with_memory

SEGMENT = 20


@pytest.fixture(scope="module")
def tokenizer(tuned_run: Run) -> Tokenizer:
    return load_model(tuned_run.folder).tokenizer


@pytest.fixture(scope="module")
def source(tuned_run: Run, tokenizer: Tokenizer) -> TokenisedSplit:
    return tokenise(load_articles(tuned_run.config.corpus, "valid"), tokenizer)


@pytest.fixture(scope="module")
def texts(source: TokenisedSplit, tokenizer: Tokenizer) -> dict[str, TokenisedSplit]:
    return dict(stress_texts(source, tokenizer, SEGMENT, seed=3))


def runs_of(ids: np.ndarray, source: TokenisedSplit, length: int) -> bool:
    """Whether the first ``length`` of ``ids`` stand together somewhere in ``source``."""
    return ids[:length].astype(">i4").tobytes() in source.ids_N.astype(">i4").tobytes()


def test_each_text_is_one_whole_article(texts: dict[str, TokenisedSplit]) -> None:
    assert list(texts) == ["glued", "repeated", "shuffled words", "alternating", "another language"]
    for text in texts.values():
        assert text.articles == 1 and text.starts.tolist() == [0, len(text.ids_N)]
        assert text.text_starts[1] == len(text.text) == text.lengths_N.sum()
        assert len(text.words_N) == len(text.ids_N)


def test_the_seed_decides(source: TokenisedSplit, tokenizer: Tokenizer, texts: dict[str, TokenisedSplit]) -> None:
    again, other = (dict(stress_texts(source, tokenizer, SEGMENT, seed)) for seed in (3, 4))
    for name, text in texts.items():
        assert np.array_equal(text.ids_N, again[name].ids_N)
        assert text.fingerprint == again[name].fingerprint
    assert not np.array_equal(texts["glued"].ids_N, other["glued"].ids_N)
    assert not np.array_equal(texts["shuffled words"].ids_N, other["shuffled words"].ids_N)


def test_glued_snippets_are_of_many_articles(source: TokenisedSplit, texts: dict[str, TokenisedSplit]) -> None:
    glued = texts["glued"]
    assert 20_000 <= len(glued.ids_N) < 20_200
    assert runs_of(glued.ids_N, source, 20)
    surfaces = {surface for article in range(source.articles) for surface in source.surfaces(article)}
    assert set(glued.surfaces(0)) <= surfaces
    # In 20,000 tokens of snippets of at most 200 there are breaks, which the text itself has not.
    pairs = {
        tuple(pair)
        for a in range(source.articles)
        for pair in np.stack([source.article(a)[:-1], source.article(a)[1:]], 1).tolist()
    }
    broken = sum(tuple(pair) not in pairs for pair in np.stack([glued.ids_N[:-1], glued.ids_N[1:]], 1).tolist())
    assert broken > 20


def test_one_token_is_repeated(texts: dict[str, TokenisedSplit]) -> None:
    assert len(texts["repeated"].ids_N) == 100_000
    assert len(np.unique(texts["repeated"].ids_N)) == 1


def test_the_longest_article_is_shuffled(source: TokenisedSplit, texts: dict[str, TokenisedSplit]) -> None:
    longest = source.article(int(np.argmax(np.diff(source.starts))))
    shuffled = texts["shuffled words"]
    assert sorted(shuffled.ids_N) == sorted(longest)
    assert not np.array_equal(shuffled.ids_N, longest)


def test_segments_alternate_between_the_two_longest(source: TokenisedSplit, texts: dict[str, TokenisedSplit]) -> None:
    ids = texts["alternating"].ids_N
    one, other = (source.article(a) for a in np.argsort(-np.diff(source.starts), kind="stable")[:2])
    turns = len(other) // SEGMENT
    assert len(ids) == 2 * turns * SEGMENT
    cut = ids.reshape(turns, 2, SEGMENT)
    assert np.array_equal(cut[:, 0].ravel(), one[: turns * SEGMENT])
    assert np.array_equal(cut[:, 1].ravel(), other[: turns * SEGMENT])


def test_the_german_text_is_german(texts: dict[str, TokenisedSplit]) -> None:
    assert len(german().split()) > 1000
    assert b"".join(texts["another language"].surfaces(0)).decode() == german()


def test_one_article_alone_is_refused(source: TokenisedSplit, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="at least two articles"):
        list(stress_texts(source.excerpt(1, 50), tokenizer, SEGMENT, seed=0))


@pytest.mark.parametrize("reset", ["stream", "article"])
def test_the_three_figures_are_those_of_three_readings(
    reset: str, tuned_run: Run, texts: dict[str, TokenisedSplit]
) -> None:
    trained, text = load_model(tuned_run.folder), texts["alternating"].excerpt(1, 150)
    level_1, rule, mixture = (
        open_dynamic_model(tuned_run.folder, trained, with_memory(tuned_run.config, reset=reset, **options).memory)
        for options in ({"rule": "none"}, {"rule": "rms"}, {"rule": "rms", "no_regret": True})
    )
    cost = cost_of(mixture, "alternating", text, SEGMENT)
    for found, dynamic_model in ((cost.level_1, level_1), (cost.rule, rule), (cost.no_regret, mixture)):
        assert found == pytest.approx(float(nats_of(dynamic_model, text, SEGMENT).astype(np.float64).mean()), rel=1e-12)
    assert cost.tokens == 150 and cost.level_1 != cost.rule


def test_the_mixture_keeps_its_bound_where_the_rule_diverges(tuned_run: Run) -> None:
    """At a hundred times the tuned rate the rule is far worse on every text, the mixture is not."""
    config = with_memory(tuned_run.config, rule="sgd", lr=50.0)
    done = stress_test(opened(tuned_run.folder, config), "valid", tokens=150, quiet=True)
    assert done.kept and len(done.costs) == 5
    for cost in done.costs:
        if cost.text != "repeated":
            assert not cost.rule < cost.level_1 + 1
        assert cost.no_regret - cost.level_1 <= math.log(2) / cost.tokens + 5.1e-4


def test_non_finite_losses_are_null_and_shown_as_diverged(tuned_run: Run) -> None:
    costs = [Cost("a", 1000, 3.0, math.nan, 3.001), Cost("b", 20, 3.0, 2.5, 3.02)]
    done = StressResult("rms", "stream", 20, 1e-3, costs)
    assert [cost.kept for cost in costs] == [True, False] and not done.kept
    reported = json.loads(json.dumps(done.to_dict(), allow_nan=False))
    assert reported["texts"][0]["rule"] is None and reported["texts"][1]["rule"] == 2.5
    assert (reported["kept"], [text["kept"] for text in reported["texts"]]) == (False, [True, False])
    lines = done.to_text().splitlines()
    assert lines[1].split() == ["a", "1,000", "3.0000", "diverged", "3.0010", "-", "+0.0010", "kept"]
    assert lines[2].split() == ["b", "20", "3.0000", "2.5000", "3.0200", "-0.5000", "+0.0200", "BROKEN"]


def test_level_1_alone_and_texts_too_short_are_refused(tuned_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cost_of", None)  # Nothing may be read before it is refused.
    with pytest.raises(UserError, match=r"memory\.rule is 'none'"):
        stress_test(opened(tuned_run.folder, with_memory(tuned_run.config, rule="none")), "valid")
    with pytest.raises(UserError, match="tokens is 1"):
        stress_test(opened(tuned_run.folder, tuned_run.config), "valid", tokens=1)
