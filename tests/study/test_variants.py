"""Variants are overrides of options: which are allowed, the messages for others, and the readings of each."""

from __future__ import annotations

from typing import Any

import pytest

from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.errors import UserError
from dynlm.models.hf.options import HFOptions
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.variants import baseline_for, baselines_of, pairs_of, readings_of, slug, variants_of


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


def test_without_article_boundaries_the_order_matters_and_no_memory_is_reset():
    joined = {"article_boundaries": False}
    asked = options(
        [
            {"name": "level 1", "memory": {"rule": "none", **joined}},
            {"name": "rms", "memory": {"rule": "rms", **joined}},
        ]
    )
    readings = [reading for variant in variants_of(asked) for reading in readings_of(variant, asked.study)]
    assert [each.stem for each in readings] == [
        *("level-1-stream-in-order", "level-1-stream-shuffled"),
        *("rms-stream-in-order", "rms-stream-shuffled"),
    ]
    with pytest.raises(UserError, match="variant 'a': memory.reset is 'article', but under memory.article_boundaries"):
        variants_of(options([{"name": "a", "memory": {"reset": "article", **joined}}]))


def test_names_for_files_hold_letters_digits_and_hyphens_only():
    assert slug("Level 3 + cache/../x") == "level-3-cache-x"


def of_a_transformer(memory: MemoryOptions | None = None, **study: Any) -> StudyOptions:
    model = HFOptions(kind="hf", context=64, stride=16)
    return StudyOptions(model=model, memory=memory or StepOptions(segment=15), study=StudyConfig(**study))  # type: ignore[arg-type]


def test_a_transformers_own_variants_are_four_kinds_of_rows():
    asked = of_a_transformer()
    variants = variants_of(asked)
    readings = [each.label for variant in variants for each in readings_of(variant, asked.study)]
    assert readings == ["static, disjoint windows", "static", "rms, article", "rms, stream, in order"]
    assert [each.model.reading()["stride"] for each in variants] == [64, 16, 16]
    assert baselines_of(asked.study) == ["static"] and pairs_of(asked.study) == [("static", "rms")]
    cached = StepOptions(rule="sgd", lora_rank=4, cache="fixed")
    assert [each.name for each in variants_of(of_a_transformer(cached))][2:] == ["sgd + LoRA rank 4 + cache"]
    assert [each.memory.lora_rank for each in variants_of(of_a_transformer(cached))] == [0, 0, 4]
    assert len(variants_of(of_a_transformer(StepOptions(rule="none")))) == 2
    assert of_a_transformer(orders=["shuffled"]).study.orders == ["shuffled"]


def test_the_gain_of_a_memory_is_over_static_weights_with_its_own_context():
    short = {"context": 32, "stride": 32}
    asked = of_a_transformer(
        variants=[
            {"name": "static", "memory": {"rule": "none"}},
            {"name": "disjoint", "memory": {"rule": "none"}, "model": {"stride": 0}},
            {"name": "short", "memory": {"rule": "none"}, "model": short},
            {"name": "sgd", "memory": {"rule": "sgd"}},
            {"name": "sgd, short", "memory": {"rule": "sgd"}, "model": short},
            {"name": "sgd, refreshed", "memory": {"rule": "sgd"}, "model": {"refresh": 16}},
        ],
    )
    variants = {each.name: each for each in variants_of(asked)}

    def over(name: str, baseline: str) -> str | None:
        return baseline_for(variants[name], baseline, list(variants.values()))

    assert [over(name, "static") for name in ("static", "disjoint", "short", "sgd")] == ["static"] * 4
    assert over("sgd, short", "static") == over("sgd, short", "disjoint") == "short"
    assert over("sgd, refreshed", "static") is None
    assert over("sgd, short", "sgd") is None and over("disjoint", "sgd") is None and over("static", "sgd") == "sgd"


@pytest.mark.parametrize(
    "model, message",
    [
        ({"architecture": "{}"}, "variant 'a': model.architecture is shared by all variants; choose among context,"),
        ({"stride": 65}, "variant 'a': model.stride is 65, more than model.context 64"),
        ({"window": 8}, "variant 'a': model has no option 'window'"),
    ],
)
def test_a_variant_changes_no_model_but_how_it_reads(model: dict[str, Any], message: str):
    with pytest.raises(UserError) as error:
        variants_of(of_a_transformer(variants=[{"name": "a", "model": model}]))
    assert message in str(error.value)
    for option, said in (("hidden", "model.hidden is shared by all variants"), ("context", "no option 'context'")):
        with pytest.raises(UserError, match=said):
            variants_of(options([{"name": "a", "model": {option: 9}}]))
