"""Registries: kinds of other packages, names, and the options of all kinds in one section."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import get_type_hints

import pytest

from dynlm.errors import UserError
from dynlm.fewshot.learners.learner import LEARNERS, Learner, LearnerOptions
from dynlm.fewshot.registry import Registry


def test_entry_points_register_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    registry: Registry[Learner, LearnerOptions] = Registry(
        LearnerOptions, "kind", "dynlm.fewshot.report", "dynlm.learners"
    )

    class Plugin(EntryPoint):
        def load(self) -> None:
            from tests.fewshot.foreign_learner import Ridge

            registry.register(Ridge)

    points = [Plugin("ridge", "tests.fewshot.foreign_learner", "dynlm.learners")]
    monkeypatch.setattr("dynlm.fewshot.registry.entry_points", lambda group: points)
    assert list(registry.classes) == ["ridge"]


def test_merged_options_document_defaults_and_kinds() -> None:
    merged = LEARNERS.merged_options("maml")
    text, defaults = merged.__doc__ or "", vars(merged())
    assert "inner_batch: Support examples of an inner step" in text and "Only of reptile." in text
    assert defaults["kind"] == "maml" and defaults["multi_step_loss"] is None and defaults["filters"] == 64
    assert get_type_hints(merged)["first_order_share"] == float | None


def test_an_unknown_kind_is_refused_with_the_nearest_name() -> None:
    merged = LEARNERS.merged_options("maml")
    with pytest.raises(UserError, match=r"learner.kind is 'reptil' \(did you mean reptile\?\); choose one of maml"):
        LEARNERS.options_of(merged(kind="reptil"))
