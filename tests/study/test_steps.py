"""The steps that variants need before they read, and those of two variants that conflict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.run.run import Run
from dynlm.study.options import StudyConfig, StudyOptions
from dynlm.study.prepare import Step, check_slots
from dynlm.study.steps import steps_of
from dynlm.study.variants import variants_of


def slots_of(tmp_path: Path, variants: list[dict[str, Any]]) -> dict[str, list[Step]]:
    asked = StudyOptions(study=StudyConfig(variants=variants, baselines=[], pairs=[]))
    run = Run(tmp_path, {}).with_sections(*vars(asked.run_options()).values())
    return {variant.name: steps_of(run, variant, "stream") for variant in variants_of(asked)}


def test_each_rule_names_what_it_needs_in_order(tmp_path: Path):
    variants = [{"name": rule, "memory": {"rule": rule}} for rule in ("none", "sgd", "rms", "meta")]
    variants.append({"name": "given", "memory": {"rule": "sgd", "lr": 0.1}})
    variants.append({"name": "adam-g", "memory": {"rule": "meta"}, "g": {"base": "adam"}})
    steps = slots_of(tmp_path, variants)
    statistics, rms = "gradient statistics R", "the rates of rms under stream"
    assert {name: [step.slot for step in each] for name, each in steps.items()} == {
        "none": [],
        "sgd": ["the rates of sgd under stream"],
        "rms": [statistics, rms],
        "meta": [statistics, rms, "g (meta) under stream"],
        "given": [],
        "adam-g": ["the rates of adam under stream", "g (adam-g) under stream"],
    }
    check_slots(steps)
    assert json.dumps([step.options for step in steps["meta"]])


def test_each_kind_of_statistics_has_a_slot_of_its_own(tmp_path: Path):
    rules = ("rms", "rms+reset", "rms+slow", "rms+online", "rms+replay", "rms-batch")
    variants = [{"name": rule, "memory": {"rule": rule}} for rule in rules]
    variants.append({"name": "published", "memory": {"rule": "rms-batch", "segment": 5, "lr": 1.0, "decay": 0.0}})
    variants[-1]["memory"]["epsilon"] = 2e-5
    steps = slots_of(tmp_path, variants)
    shared, batches = "gradient statistics R", "gradient statistics R of batches of 100 x {} tokens"
    assert {name: [step.slot for step in each] for name, each in steps.items()} == {
        **{rule: [shared, f"the rates of {rule} under stream"] for rule in rules[:-1]},
        "rms-batch": [batches.format(20), "the rates of rms-batch under stream"],
        "published": [batches.format(5)],
    }
    check_slots(steps)
    assert [steps[name][0].options["segment"] for name in ("rms", "rms-batch", "published")] == [20, 20, 5]
    assert steps["rms-batch"][1].options["memory.statistics_lanes"] == 100


def test_variants_with_the_same_rule_share_its_slots(tmp_path: Path):
    variants = [
        {"name": "a", "memory": {"rule": "meta"}},
        {"name": "b", "memory": {"rule": "meta", "g": "a", "track": True}},
    ]
    steps = slots_of(tmp_path, variants)
    check_slots(steps)
    assert steps["a"][-1].slot == steps["b"][-1].slot == "g (a) under stream"


def test_a_variant_that_reads_articles_as_one_text_has_slots_of_its_own(tmp_path: Path):
    joined = {"article_boundaries": False}
    variants = [
        {"name": "rms", "memory": {"rule": "rms", "cache": "learned"}},
        {"name": "joined", "memory": {"rule": "rms", "cache": "learned", **joined}},
        {"name": "joined g", "memory": {"rule": "meta", **joined}},
    ]
    steps = slots_of(tmp_path, variants)
    check_slots(steps)
    statistics = "gradient statistics R"
    assert [step.slot for step in steps["joined"]] == [
        statistics,
        "the rates of rms under stream-joined",
        "the cache beside rms under stream-joined",
        "the gate of the cache beside rms under stream-joined",
    ]
    assert [step.slot for step in steps["joined g"]] == [
        statistics,
        "the rates of rms under stream-joined",
        "g (joined-g) under stream",
    ]
    (learned,) = (step for step in steps["joined g"] if step.slot.startswith("g "))
    assert learned.options["memory.article_boundaries"] is False
    assert "memory.article_boundaries" not in steps["rms"][1].options


def test_two_variants_with_different_options_for_one_slot_are_refused(tmp_path: Path):
    variants = [{"name": "a", "memory": {"rule": "rms"}}, {"name": "b", "memory": {"rule": "rms", "segment": 5}}]
    with pytest.raises(UserError) as error:
        check_slots(slots_of(tmp_path, variants))
    message = "variants 'a' and 'b' need the rates of rms under stream found with different memory.segment; give one of"
    assert (
        str(error.value)
        == f"{message} them its constants (memory: {{lr: ..., decay: ..., epsilon: ...}}), or use two runs"
    )
    # What the message says helps.
    given = {"rule": "rms", "segment": 5, "lr": 1e-3, "decay": 1e-3, "epsilon": 1e-3}
    check_slots(slots_of(tmp_path, [variants[0], {"name": "b", "memory": given}]))


@pytest.mark.parametrize("option, memory", [("g", {"rule": "meta"}), ("gate", {"rule": "none", "cache": "learned"})])
def test_what_is_learned_is_told_apart_by_a_name(tmp_path: Path, option: str, memory: dict[str, Any]):
    first: dict[str, Any] = {"name": "a", "memory": {**memory, "g": "one"}}
    second = {"name": "b", "memory": {**memory, "g": "one"}, "metatrain": {"tokens": 7}}
    with pytest.raises(UserError, match=rf"different metatrain.tokens; .*\(memory: \{{{option}: NAME\}}\)"):
        check_slots(slots_of(tmp_path, [first, second]))
    second["memory"][option] = "two"
    check_slots(slots_of(tmp_path, [first, second]))
