"""Options fitted to the size of a text: they grow with it, within bounds, and no split is ever empty."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.articles import derive_splits
from dynlm.data.cut import cut_articles, size_in_words
from dynlm.data.sources.source import Article
from dynlm.study.fit import PASSES, WORDS_READ, TextSize, fit
from dynlm.study.learn_options import FEWEST_WORDS
from dynlm.train.config import Config

WORDS = st.integers(FEWEST_WORDS, 10**10) | st.integers(FEWEST_WORDS, 10**6)
SIZES = st.builds(TextSize, WORDS, st.integers(1, 200_000), st.integers(1, 20_000))
BUDGETS = st.floats(0.01, 100)
GROWING = {
    "corpus": ("cut_words", "hold_out_every", "meta_every"),
    "tokenizer": ("vocab_size",),
    "model": ("embedding", "hidden"),
    "pretrain": ("lanes", "warmup_steps", "validate_every", "validate_tokens"),
    "tune": ("tokens", "statistics_tokens"),
    "metatrain": ("tokens", "pick_tokens"),
}


def values(config: Config) -> dict[str, float]:
    return {f"{name}.{key}": getattr(getattr(config, name), key) for name, keys in GROWING.items() for key in keys}


@given(SIZES, SIZES, BUDGETS)
def test_every_option_grows_with_the_text(first: TextSize, second: TextSize, budget: float) -> None:
    small, large = (TextSize(*map(pick, first, second)) for pick in (min, max))
    less, more = (fit(Config(), size, budget) for size in (small, large))
    before, grown = values(less), values(more)
    assert all(before[name] <= grown[name] for name in before), (before, grown)
    # Passes fall, the words read don't.
    assert more.pretrain.epochs <= less.pretrain.epochs
    assert less.pretrain.epochs * small.words <= more.pretrain.epochs * large.words * (1 + 1e-12)


@given(SIZES, BUDGETS)
def test_budgets_are_bounded(size: TextSize, budget: float) -> None:
    config = fit(Config(), size, budget)
    assert 0 < config.pretrain.epochs <= PASSES * budget
    assert config.pretrain.epochs * size.words <= WORDS_READ * budget * (1 + 1e-12)
    assert config.tune.fewest_tokens < 3000 <= config.tune.tokens <= max(3000, 40_000 * budget)
    assert 1000 <= config.metatrain.tokens <= max(1000, 120_000 * budget)
    assert 96 <= config.model.hidden == config.model.embedding <= 512 and config.model.hidden % 32 == 0
    assert size.characters + 256 <= config.tokenizer.vocab_size <= 64_000


@given(SIZES)
def test_a_budget_changes_no_size(size: TextSize) -> None:
    plain, twice = fit(Config(), size), fit(Config(), size, 2.0)
    assert plain == fit(Config(), size, 1.0)
    for name in ("corpus", "tokenizer", "model"):
        assert getattr(plain, name) == getattr(twice, name)
    assert twice.pretrain.epochs == 2 * plain.pretrain.epochs


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 2000), max_size=15), st.integers(0, 1), st.booleans())
def test_no_split_is_ever_empty(lengths: list[int], long: int, lines: bool) -> None:
    """Of texts of any lengths, one long text or many short ones, with FEWEST_WORDS in all or more."""
    lengths = [*lengths, *[20_000] * long]
    lengths += [FEWEST_WORDS - sum(lengths)] if sum(lengths) < FEWEST_WORDS else []
    texts = [Article(str(length), ("word\n" if lines else "word ") * length, "") for length in lengths]
    corpus = fit(Config(), TextSize(math.floor(sum(size_in_words(text.text) for text in texts)), 1, 4)).corpus
    cut = [*cut_articles(texts, corpus.cut_words)]
    splits = derive_splits({"train": lambda: iter(cut)}, corpus)
    counts = {name: sum(1 for _ in articles()) for name, articles in splits.items()}
    assert all(counts.values()), counts
    assert counts["train+meta"] >= counts["valid"] and counts["train"] >= counts["meta"]


def test_what_is_not_fitted_stays() -> None:
    config = Config()
    config.corpus = config.corpus.replace(path="own", format="mixed")
    config.run = config.run.replace(name="own", seed=7)
    fitted = fit(config, TextSize(123_456, 20_000, 80))
    assert (fitted.run, fitted.memory, fitted.g) == (config.run, config.memory, config.g)
    assert (fitted.corpus.path, fitted.corpus.format) == ("own", "mixed")


def test_the_table_of_the_documentation_is_what_is_done() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "quickstart.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`[\w.]+`(?:, )?)+) \|(?:[^|]*)\| (.+) \|$", page, re.MULTILINE)
    sizes = [100_000, 1_000_000, 10_000_000]
    found = {}
    for names, cells in rows:
        for name in re.findall(r"`([\w.]+)`", names):
            found[name] = [float(cell.replace(",", "")) for cell in cells.split(" | ")]
    fitted = [dataclasses.asdict(fit(Config(), TextSize(words, words // 10, 100))) for words in sizes]
    for name, cells in found.items():
        section, option = name.split(".")
        assert [config[section][option] for config in fitted] == cells, name
    assert found.keys() >= {*values(Config()), "pretrain.epochs"}
