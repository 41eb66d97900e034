"""Rules made of rms: each equals the rule that it is to be compared with, where their constants agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import LearnedRuleOptions, MemoryOptions
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.registry import RULES
from dynlm.errors import UserError
from dynlm.runtime.validation import section_of
from tests.adapt.readings import MODEL, NAMES, engine, nats_of, static_params, statistics

RMS = {"lr": 0.02, "decay": 0.05, "epsilon": 1e-2}


def rule(name: str, **constants: Any) -> ElementwiseRule:
    build = RULES[name].build
    assert build is not None
    made = build(NAMES, {**RMS, **constants}, statistics())
    assert isinstance(made, ElementwiseRule) and made.name == name
    return made


def losses(made: ElementwiseRule, reset: str = "stream") -> Tensor:
    return nats_of(DynamicModel(engine(), static_params(), made, NAMES, reset))


def test_resets_of_0_and_1_are_rms_that_keeps_and_that_forgets() -> None:
    assert torch.equal(losses(rule("rms+reset", boundary_reset=0.0)), losses(rule("rms")))
    assert torch.equal(losses(rule("rms+reset", boundary_reset=1.0)), losses(rule("rms"), "article"))
    partial = losses(rule("rms+reset", boundary_reset=0.5))
    assert not any(torch.equal(partial, losses(rule("rms"), reset)) for reset in ("stream", "article"))


def test_slow_weights_are_the_learned_rules_at_level_3() -> None:
    """With one rate for all tensors, and none of its other parts."""
    g = LearnedRuleOptions(level=3, slow_rate=0.3, boundary_reset=True)
    own = {name: static_params()[name] for name in NAMES}
    learned = LearnedRule(statistics(), own, *RMS.values(), g, MODEL.output_tensor(NAMES))
    phi = learned.initial()
    phi["boundary_reset"] += 0.4
    expected, found = learned.rule(phi), rule("rms+slow", boundary_reset=0.4, slow_rate=0.3)
    assert found.boundary.slow_limits is not None and expected.boundary.slow_limits is not None
    for name in NAMES:
        shares = [each.boundary.slow_share(name, each.boundary.slow_rate[name]) for each in (found, expected)]
        assert torch.equal(*shares)  # type: ignore[arg-type]
        assert found.boundary.reset[name] == expected.boundary.reset[name] == 0.4
    assert (found.slots, found.level, found.rates) == (expected.slots, 3, expected.rates)
    assert torch.equal(losses(found), losses(expected))
    assert not torch.equal(losses(found), losses(rule("rms+reset", boundary_reset=0.4)))


def test_slow_weights_of_rate_0_are_none() -> None:
    made = rule("rms+slow", boundary_reset=0.4, slow_rate=0.0)
    assert not made.slots and torch.equal(losses(made), losses(rule("rms+reset", boundary_reset=0.4)))


def test_an_online_rate_is_the_learned_rules() -> None:
    g = LearnedRuleOptions(level=3, slow_rate=0.5, slow_step=0.1, decay_step=0.2, boundary_reset=True)
    own = {name: static_params()[name] for name in NAMES}
    learned = LearnedRule(statistics(), own, *RMS.values(), g, MODEL.output_tensor(NAMES))
    phi = learned.initial()
    phi["boundary_reset"] += 0.4
    found = rule("rms+online", boundary_reset=0.4, slow_step=0.1, decay_step=0.2)
    assert found.slots == learned.rule(phi).slots and found.level == 3
    assert torch.equal(losses(found), losses(learned.rule(phi)))
    constant = rule("rms+online", boundary_reset=0.4, slow_step=0.0, decay_step=0.0)
    assert set(constant.slots) == {"anchor"} and not torch.equal(losses(constant), losses(found))


def test_batches_are_rms_by_other_statistics() -> None:
    assert torch.equal(losses(rule("rms-batch", statistics_lanes=100)), losses(rule("rms")))


@pytest.mark.parametrize("name", ["rms+reset", "rms+slow", "rms+online"])
def test_where_nothing_outlives_an_article_they_are_refused(name: str) -> None:
    message = rf"memory\.rule '{name.replace('+', '.')}' is rms under memory\.reset 'article'.*memory\.reset stream"
    with pytest.raises(UserError, match=message):
        section_of(MemoryOptions, {"rule": name, "reset": "article"})
    with pytest.raises(UserError, match=message):
        section_of(MemoryOptions, {"rule": name}).replace(reset="article")


@pytest.mark.parametrize(
    "option, rule",
    [
        ("boundary_reset", "rms+reset"),
        ("slow_rate", "rms+slow"),
        ("slow_step", "rms+online"),
        ("decay_step", "rms+online"),
        ("replay_rate", "rms+replay"),
    ],
)
def test_shares_are_from_0_to_1(option: str, rule: str) -> None:
    for share in (0, 0.5, 1):
        assert getattr(section_of(MemoryOptions, {"rule": rule, option: share}), option) == share
    for share in (-0.1, 1.5):
        with pytest.raises(UserError, match=rf"memory\.{option} is {share}.*from 0 to 1"):
            section_of(MemoryOptions, {"rule": rule, option: share})


def test_the_statistics_that_a_rule_needs_follow_its_options() -> None:
    def needed(rule: str, **options: Any) -> object:
        return RULES[rule].statistics_for(section_of(MemoryOptions, {"rule": rule, **options}))

    assert needed("sgd") is needed("adam") is None
    assert needed("rms", segment=5) == needed("rms+slow") == (1, None)
    assert needed("rms-batch", segment=5) == (100, 5)
    assert needed("rms-batch", statistics_lanes=7) == (7, 20)
