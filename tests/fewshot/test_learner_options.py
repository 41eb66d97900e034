"""Options of learners: defaults of a kind, and options without effect."""

from __future__ import annotations

from typing import Any

import pytest

from dynlm.errors import UserError
from dynlm.fewshot.learners.maml import Maml, MamlPlusPlus
from dynlm.fewshot.options import FewShotOptions
from dynlm.fewshot.registry import warn_once
from dynlm.runtime.validation import options_of


def test_maml_plus_plus_has_its_fixes_by_default() -> None:
    fixes = ("multi_step_loss", "per_step_rates", "per_step_norm", "first_order_share")

    def values(options: Maml.Options) -> list[object]:
        return [getattr(options, name) for name in fixes]

    for options in (MamlPlusPlus.Options(), parsed({}, {"kind": "maml++"}).learner):
        assert isinstance(options, MamlPlusPlus.Options) and values(options) == [True, True, True, 0.3]
    assert values(MamlPlusPlus.Options(first_order_share=0.0, per_step_norm=False)) == [True, True, False, 0.0]
    assert values(Maml.Options()) == [False, False, False, 0.0]


def parsed(task: dict[str, Any], learner: dict[str, Any]) -> FewShotOptions:
    """The options that a parser makes of these values."""
    return options_of(FewShotOptions, {"task": task, "learner": learner})


@pytest.mark.parametrize(
    "task, learner, message",
    [
        ({}, {"kind": "fomaml", "first_order_share": 0.5}, "learner.first_order_share is set, but fomaml"),
        ({}, {"kind": "reptile", "first_order_share": 0.5}, "learner.first_order_share is set, but learner.kind 'rept"),
        ({}, {"kind": "maml", "inner_batch": 5}, "learner.inner_batch is set, but learner.kind 'maml'"),
        ({}, {"kind": "maml", "annealed_share": 0.5}, "learner.annealed_share is set, but there is no multi-step loss"),
        ({}, {"kind": "maml++", "multi_step_loss": False, "annealed_share": 0.0}, "learner.annealed_share is set"),
        ({}, {"kind": "prototypes", "statistics": "inductive"}, "learner.statistics is 'inductive'"),
        ({}, {"kind": "reptile", "statistics": "running"}, "learner.statistics is 'running'"),
        ({"source": "cubic"}, {"statistics": "running"}, "learner.statistics is 'running', but a regression network"),
        ({"source": "cubic"}, {"filters": 32}, "learner.filters is for images alone, and task.source is 'cubic'"),
        ({"source": "sinusoid"}, {"pooling": True}, "learner.pooling is for images alone"),
        ({"source": "glyphs"}, {"hidden": [80]}, "learner.hidden is for cubic and sinusoid alone"),
        ({"source": "glyphs"}, {"gains": [1.0, 1.0, 2.0]}, "learner.gains is for cubic and sinusoid alone"),
        ({"source": "cubic", "train_ways": 3}, {}, "task.train_ways is set, but task.source 'cubic'"),
        ({"source": "glyphs", "colour": True}, {}, "task.colour is set, but task.source 'glyphs'"),
    ],
)
def test_options_without_effect_are_refused(task: dict[str, Any], learner: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        parsed(task, learner)
    assert message in str(error.value)


def test_options_that_most_kinds_have_are_ignored_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    warn_once.cache_clear()
    options = parsed({"source": "cubic"}, {"kind": "lstm-reader", "hidden": [9]})
    assert not hasattr(options.learner, "hidden")
    assert "learner.hidden is set, but learner.kind 'lstm-reader' does not use it" in capsys.readouterr().err
