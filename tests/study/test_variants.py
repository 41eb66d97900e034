"""Variants are overrides of options: which are allowed, the messages for others, and the readings of each."""

from __future__ import annotations

from typing import Any

import pytest

from dynlm.adapt.options import StepOptions
from dynlm.errors import UserError
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.variants import baselines_of, pairs_of, readings_of, slug, variants_of


def options(variants: list[dict[str, Any]], **study: Any) -> StudyOptions:
    names = [variant.get("name") for variant in variants]
    return StudyOptions(
        memory=StepOptions(segment=15),
        study=StudyConfig(variants=variants, **{"baselines": names[:1], "pairs": [], **study}),
    )


def test_a_variant_changes_the_options_it_names_and_no_others():
    asked = options([{"name": "a", "memory": {"rule": "sgd", "lr": 1}, "metatrain": {"tokens": 5}}, {"name": "b"}])
    first, second = variants_of(asked)
    assert (first.memory.rule, first.memory.lr, first.memory.segment) == ("sgd", 1, 15)
    assert first.metatrain.tokens == 5
    assert all(getattr(second, name) == getattr(asked, name) for name in ("memory", "tune", "g", "metatrain"))
    assert first.under("article").memory.reset == "article"


def test_a_variant_learns_its_own_g_unless_it_names_one():
    asked = options(
        [
            {"name": "Level 3", "memory": {"rule": "meta"}},
            {"name": "Level 3, quick", "memory": {"rule": "meta", "g": "level-3"}},
        ]
    )
    assert [variant.memory.g for variant in variants_of(asked)] == ["level-3", "level-3"]


REFUSED: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([{"name": "a", "memory": {"speed": 1}}], {}, "variant 'a': memory has no option 'speed'"),
    ([{"name": "a", "memry": {"rate": 1}}], {}, "variant 'a': 'memry' is no section"),
    ([{"name": "a", "pretrain": {"epochs": 1}}], {}, "variant 'a': 'pretrain' is shared by all variants"),
    ([{"name": "a", "memory": {"rate": "fast"}}], {}, "variant 'a': memory.lr is 'fast'"),
    ([{"name": "a", "memory": {"track": 1}}], {}, "variant 'a': memory.track is 1"),
    ([{"name": "a", "memory": {"segment": True}}], {}, "variant 'a': memory.segment is True"),
    ([{"name": "a", "memory": {"targets": [1]}}], {}, "variant 'a': memory.targets is [1]"),
    ([{"name": "a", "memory": "rms"}], {}, "variant 'a': memory is 'rms'"),
    ([{"name": "a", "memory": {"segment": 0}}], {}, "variant 'a': memory.segment is 0"),
    ([{"memory": {"rule": "rms"}}], {"baselines": []}, "a variant without a name"),
    ([{"name": "a"}, {"name": "A"}], {}, "'a' and 'A', whose files"),
    ([{"name": "+"}], {}, "a variant called '+'"),
    ([{"name": "a"}], {"baselines": ["rms"]}, "study.baselines names 'rms'"),
    ([{"name": "a"}], {"drawn": ["b"]}, "study.drawn names 'b'"),
    ([{"name": "a"}], {"pairs": ["a:b"]}, "study.pairs names 'b'"),
    ([{"name": "a"}], {"pairs": ["a"]}, "study.pairs has 'a'"),
    ([], {}, "study.variants is empty"),
    ([{"name": "a"}], {"resets": ["never"]}, "study.resets is 'never'"),
    ([{"name": "a"}], {"orders": []}, "study.orders is empty"),
    ([{"name": "a"}], {"name": "../x"}, "study.name is '../x'"),
]


@pytest.mark.parametrize("variants, study, message", REFUSED, ids=[message for *_, message in REFUSED])
def test_invalid_variants_are_refused(variants: list[dict[str, Any]], study: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        variants_of(options(variants, **study))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "names, baselines, pairs",
    [
        (["level 1", "rms", "meta"], ["level 1", "rms"], [("level 1", "rms"), ("rms", "meta")]),
        (["level 1", "sgd"], ["level 1"], []),
        (["rms", "meta"], ["rms"], [("rms", "meta")]),
        (["a"], [], []),
    ],
)
def test_default_baselines_and_pairs_are_existing_variants(
    names: list[str], baselines: list[str], pairs: list[tuple[str, str]]
):
    asked = StudyOptions(study=StudyConfig(variants=[{"name": name} for name in names]))
    assert (baselines_of(asked.study), pairs_of(asked.study)) == (baselines, pairs)
    assert [variant.name for variant in variants_of(asked)] == names


def test_equivalent_readings_are_made_once():
    asked = options(
        [
            {"name": "level 1", "memory": {"rule": "none"}},
            {"name": "rms", "memory": {"rule": "rms"}},
            {"name": "sgd + own", "memory": {"rule": "sgd", "reset": "article"}},
        ]
    )
    readings = [reading for variant in variants_of(asked) for reading in readings_of(variant, asked.study)]
    assert [(each.stem, each.memory.reset) for each in readings] == [
        ("level-1", "stream"),
        ("rms-stream-in-order", "stream"),
        ("rms-stream-shuffled", "stream"),
        ("rms-article", "article"),
        ("sgd-own-article", "article"),
    ]
    assert [each.is_in("shuffled") for each in readings] == [True, False, True, True, True]


def test_names_for_files_hold_letters_digits_and_hyphens_only():
    assert slug("Level 3 + cache/../x") == "level-3-cache-x"
