"""Synthetic scores of variants on the same English-looking articles."""

from __future__ import annotations

from typing import Any

import numpy as np

from dynlm.evaluation.score_file import Scores

COMMON = (
    "the of and in to a was is for as on with by that it at from his were an which had be this first not also or are "
    "their one new after two but its who he been other when during there would most only more over years into time"
).split()
RARE = (
    "island admiral harbour glacier reactor violin orchid parish siege chapel tariff comet lagoon ballad copper "
    "regiment bishop marsh turbine ferry archive quarry beacon sonata treaty cavalry meadow lantern pilgrim furnace "
    "estuary cathedral merchant observatory expedition constellation fortification manuscript locomotive parliament"
).split()
TITLES = (
    "Robert Boulter",
    "Du Fu",
    "Kiss You ( One Direction song )",
    "Ise-class battleship",
    "Dick Rifenburg",
    "Free Derry",
    "There's Got to Be a Way",
    "Portage to San Cristobal of A.H.",
    "Nebraska Highway 88",
    "USS Atlanta ( 1861 )",
)


def synthetic_scores(
    articles: int = 8,
    variants: tuple[str, ...] = ("level 1", "rms"),
    seed: int = 0,
    tokens: int = 1500,
    first_article: int = 0,
) -> list[Scores]:
    """Return each variant's scores on articles of about ``tokens`` tokens; later ones gain on repeated words."""
    rng = np.random.default_rng(seed)
    surfaces: list[bytes] = []
    article: list[int] = []
    position: list[int] = []
    novelty: list[float] = []
    for index in range(articles):
        length = int(tokens * rng.lognormal(0, 0.6)) + 40
        topic = rng.choice(RARE, 9, replace=False)
        counts: dict[str, int] = {}
        for index_in_article in range(length):
            if index_in_article % 23 == 22:
                surface, surprise = ("\n" if rng.random() < 0.15 else " ."), 0.6
            elif rng.random() < 0.3:
                word = str(rng.choice(topic))
                counts[word] = counts.get(word, 0) + 1
                surface, surprise = f" {word}", 7.5 + 0.6 * (counts[word] == 1)
            else:
                surface, surprise = f" {rng.choice(COMMON)}", 2.4
            surfaces.append(surface.encode())
            article.append(first_article + index)
            position.append(index_in_article)
            novelty.append(surprise)
    count = len(surfaces)
    words = np.array([1] * count, dtype=np.int16)
    vocabulary = {surface: index for index, surface in enumerate(sorted(set(surfaces)))}
    surprise_N = np.array(novelty)
    learned_N = 1 - np.exp(-np.array(position) / 300)
    luck_N = rng.gamma(4.0, 0.25, count)
    common: dict[str, Any] = {
        "run": "demo",
        "reset": "stream",
        "segment": 20,
        "split": "valid",
        "corpus": "synthetic",
        "tokenizer": "0123456789abcdef",
        "text": f"text-{seed}-{articles}-{tokens}-{first_article}",
        "statement": "Each segment is scored, then learned from; one pass, nothing is rescored.",
        "articles": [
            {"index": first_article + index, "title": TITLES[index % len(TITLES)]} for index in range(articles)
        ],
    }
    scores = []
    for level, variant in enumerate(variants):
        gain = 0.2 * level * learned_N * (surprise_N > 5) * surprise_N
        noise = rng.normal(0, 0.25, count) * (level > 0)
        nats = np.maximum(0.01, surprise_N * luck_N - gain + noise)
        scores.append(
            Scores(
                protocol={
                    **common,
                    "variant": variant,
                    "level": 1 + level,
                    "rule": {"name": "none" if level == 0 else "rms"},
                },
                article=np.array(article, dtype=np.int32),
                position=np.array(position, dtype=np.int32),
                segment=np.arange(count, dtype=np.int32) // 20,
                token=np.array([vocabulary[surface] for surface in surfaces], dtype=np.int32),
                words=words,
                nats=nats.astype(np.float32),
                surface=surfaces,
            )
        )
    return scores
