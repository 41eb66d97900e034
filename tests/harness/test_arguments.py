"""Arguments as ``--model_args`` gives them: sorted, converted, and refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from dynlm.adapt.options import StepOptions
from dynlm.errors import UserError
from dynlm.harness.arguments import Arguments, changed
from dynlm.models.hf.options import HFOptions


def memory_of(**given: Any) -> Any:
    return changed(StepOptions(), Arguments.parse({"run": "runs/demo", **given}).memory)


def test_documents_are_independent_by_default() -> None:
    own = StepOptions(reset="stream", segment=7)
    assert changed(own, Arguments.parse({"run": "r"}).memory).reset == "article"
    assert changed(own, Arguments.parse({"run": "r"}).memory).segment == 7
    assert changed(own, Arguments.parse({"run": "r", "reset": "stream"}).memory).reset == "stream"


@pytest.mark.parametrize("rule", ["none", None])
def test_none_is_a_rule(rule: str | None) -> None:
    """The harness turns the word into None."""
    assert memory_of(rule=rule, cache=None).rule == "none"
    assert memory_of(rule=rule, cache=None).cache == "none"


def test_values_take_the_types_of_their_options() -> None:
    memory = memory_of(rule="adam", lr=1, segment=128.0, targets="q_proj+v_proj", **{"memory.lora_rank": 8})
    assert (memory.lr, memory.segment, memory.targets, memory.lora_rank) == (1, 128, ["q_proj", "v_proj"], 8)
    assert memory_of(targets=["a", "b"]).targets == ["a", "b"]
    assert memory_of(cache="fixed", cache_inverse_temperature=2).cache_inverse_temperature == [2]
    assert memory_of(cache="learned", cache_inverse_temperature="1+2").cache_inverse_temperature == [1.0, 2.0]
    assert memory_of(lr=None).lr is None
    assert memory_of(rule="adam", lr=1).decay == 0, "the default of another rule"
    arguments = Arguments.parse({"pretrained": 135, "context": 64, "model.stride": 32, "device": "cpu", "seed": 3})
    assert (arguments.source, arguments.is_pretrained, arguments.device, arguments.seed) == ("135", True, "cpu", 3)
    options = changed(HFOptions(kind="hf"), arguments.model)
    assert (options.context, options.stride) == (64, 32)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "neither run nor pretrained"),
        ({"run": "a", "pretrained": "b"}, "run and pretrained are both given"),
        ({"run": "a", "context": 64}, "context goes with pretrained"),
        ({"run": "a", "lanes": 2}, "lanes is 2"),
        ({"run": "a", "seed": "x"}, "seed is 'x'"),
        ({"run": "a", "seed": -1}, "seed is -1"),
        ({"run": "a", "rule": "rsm"}, "did you mean 'rms'"),
        (
            {"run": "a", "rul": "rms"},
            r"memory has no option 'rul' \(did you mean rule\?\); choose among .*, cache, .*, lr, ",
        ),
        ({"run": "a", "SECTION": "x"}, "no option 'SECTION'"),
        ({"run": "a", "lr": "fast"}, r"memory\.lr is 'fast'"),
        ({"run": "a", "lr": -1}, r"memory\.lr is -1"),
        ({"run": "a", "lr": True}, r"memory\.lr is True"),
        ({"run": "a", "segment": 1.5}, r"memory\.segment is 1\.5"),
        ({"run": "a", "reset": "document"}, r"memory\.reset is 'document'; choose one of stream, article"),
        ({"run": "a", "targets": {"a": 1}}, r"memory\.targets is "),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError, match=what) as refused:
        changed(StepOptions(), Arguments.parse(given).memory)
    assert "\n" not in str(refused.value)
