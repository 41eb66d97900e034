"""Which rules and models can hold updates outside the weights."""

import dataclasses

import pytest

from dynlm.adapt.held_updates import can_hold, holding_rule
from dynlm.adapt.options import StepOptions
from dynlm.adapt.rules.boundary import Boundary
from dynlm.errors import UserError
from dynlm.models.protocol import SequenceModel
from tests.adapt.readings import MODEL, rule


def test_only_rules_that_keep_nothing_beside_weights_can_hold_updates():
    assert all(can_hold(rule(name)) for name in ("sgd", "sgd+decay", "rms"))
    assert not can_hold(rule("g"))
    assert not can_hold(dataclasses.replace(rule("rms"), boundary=Boundary({"embedding": 0.5})))
    for name in ("g", "lstm"):
        with pytest.raises(UserError, match=r"memory\.used_rows does not go with memory\.rule"):
            holding_rule(rule(name), MODEL, StepOptions(used_rows=100))


class Foreign(SequenceModel):
    """A model without an engine of its own."""


@pytest.mark.parametrize("option", ["merge_every", "used_rows"])
def test_a_model_without_an_output_layer_of_its_own_engine_cannot(option):
    with pytest.raises(UserError, match=rf"memory\.{option} is for models with an output layer"):
        holding_rule(rule("rms"), Foreign(), StepOptions(**{option: 50}))
