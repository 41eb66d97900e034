"""The registry of learners: kinds of other packages, names, and the options of all kinds in one section."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import get_type_hints

import pytest

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import LEARNERS
from dynlm.fewshot.learners.maml import Maml, MamlPlusPlus
from dynlm.fewshot.registry import OptionsRegistry


def test_entry_points_register_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = OptionsRegistry("learner", "kind", "dynlm.fewshot.report", "dynlm.learners")
    points = [EntryPoint("ridge", "tests.fewshot.foreign_learner:Ridge", "dynlm.learners")]
    monkeypatch.setattr("dynlm.runtime.registry.entry_points", lambda group: points)
    assert registry.names() == ["ridge"] and registry["ridge"].label == "ridge regression"
    assert "penalty" in get_type_hints(registry.merged_options("ridge"))


def test_a_kind_replaces_defaults_of_its_options() -> None:
    assert (Maml.Options().kind, Maml.Options().per_step_norm) == ("maml", False)
    assert (MamlPlusPlus.Options().kind, MamlPlusPlus.Options().per_step_norm) == ("maml++", True)
    with pytest.raises(UserError, match=r"learner.first_order_share is 2; choose a value from 0 to 1"):
        MamlPlusPlus.Options(first_order_share=2)


def test_merged_options_document_defaults_and_kinds() -> None:
    merged = LEARNERS.merged_options("maml")
    text, defaults = merged.__doc__ or "", vars(merged())
    assert "inner_batch: Support examples of an inner step" in text and "Only of reptile." in text
    assert defaults["kind"] == "maml" and defaults["multi_step_loss"] is None and defaults["filters"] == 64
    assert get_type_hints(merged)["first_order_share"] == float | None


def test_an_unknown_kind_is_refused_with_the_nearest_name() -> None:
    merged = LEARNERS.merged_options("maml")
    with pytest.raises(UserError, match=r"learner.kind is 'reptil'; did you mean 'reptile'\? choose one of anil"):
        LEARNERS.options_of(merged(kind="reptil"))
