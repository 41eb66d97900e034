"""The registry of learners: kinds of other packages, names and defaults."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import get_type_hints

import pytest

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import Learner
from dynlm.fewshot.learners.maml import Maml, MamlPlusPlus
from dynlm.fewshot.registry import OptionsRegistry
from dynlm.runtime.validation import section_of


def test_entry_points_register_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = OptionsRegistry("learner", "kind", "dynlm.fewshot.report", "dynlm.learners")
    points = [EntryPoint("ridge", "tests.fewshot.foreign_learner:Ridge", "dynlm.learners")]
    monkeypatch.setattr("dynlm.runtime.registry.entry_points", lambda group: points)
    assert registry.names() == ["ridge"] and registry["ridge"].label == "ridge regression"
    assert "penalty" in get_type_hints(registry["ridge"].Options)


def test_a_kind_replaces_defaults_of_its_options() -> None:
    assert (Maml.Options().kind, Maml.Options().per_step_norm) == ("maml", False)
    assert (MamlPlusPlus.Options().kind, MamlPlusPlus.Options().per_step_norm) == ("maml++", True)
    with pytest.raises(UserError, match=r"learner.first_order_share is 2; choose a value from 0 to 1"):
        MamlPlusPlus.Options(first_order_share=2)


def test_an_unknown_kind_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"learner.kind is 'reptil'; did you mean 'reptile'\? choose one of anil"):
        section_of(Learner.Options, {"kind": "reptil"})
