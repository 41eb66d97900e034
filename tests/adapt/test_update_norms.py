"""Norms of updates: their bounds, and their ratios to the weights."""

import dataclasses

import numpy as np
import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.rules.base import Rule, Slot
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.adapt.update_filter import add_squares_, ratio, ratios_of
from dynlm.data.stream import read_side_by_side
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.options import LSTMOptions
from tests.adapt.readings import (
    MODEL,
    NAMES,
    dynamic_model,
    set_lanes_at_once,
    stream,
    text,
)
from tests.adapt.test_update_filter import filtered, masked, read_all


@dataclasses.dataclass(frozen=True)
class SignRule(Rule):
    """A rule that knows no norm of its updates."""

    tensors: tuple[str, ...]
    lr: float
    name = "sign"
    slots = {"count": Slot()}

    def step_(self, event, *_):
        event.theta.sub_(self.lr * event.update.sign())
        event.slots["count"].add_(1)


@pytest.mark.parametrize("decide", [lambda chosen: chosen, masked])
def test_updates_of_unknown_norm_are_measured(decide):
    """Rejected ones leave weights and slots as they were."""
    for lr, applied in ((0.01, True), (1e9, False)):
        chosen = decide(filtered(dataclasses.replace(dynamic_model("sgd"), rule=SignRule(NAMES, lr))))
        nats, memory = read_all(chosen)
        assert nats.isfinite().all() and bool(memory.filter.counts_BC[:, :-1].any()) != applied
        for name in NAMES:
            assert torch.equal(memory.params[name][0], chosen.static[name]) != applied
            assert bool(memory.rule.slots["count"][name].any()) == applied


def test_the_parts_of_a_tensor_are_summed_to_one_ratio():
    squares, theta = {}, torch.tensor([[3.0, 4.0, 12.0]])
    add_squares_(squares, "a", torch.tensor([3.0]), theta[:, :2])
    add_squares_(squares, "a", torch.tensor([4.0]), theta[:, 2:])
    assert ratio(squares["a"]).item() == pytest.approx(5 / 13)


@pytest.mark.parametrize("reference", [False, True])
def test_ratios_are_of_each_update_to_its_weights(reference):
    """sgd's update of the output bias, from the weights before and after it."""
    chosen = filtered(dynamic_model("sgd", reference=reference), track=True)
    before, ratios = chosen.static["output.bias"].clone(), []
    for read in iter_segments(chosen, stream()):
        after = read.memory.params["output.bias"][0].clone()
        ratios.append(float((after - before).norm() / before.norm()))
        before = after
    found = ratios_of(read.memory.filter, NAMES)["output.bias"]
    assert found["mean"] == pytest.approx(np.mean(ratios), rel=1e-9) and found["max"] == pytest.approx(max(ratios))


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["sgd", "rms", "gates", "momentum"])
def test_the_bound_of_update_norms_holds(kind, tied, lanes, monkeypatch):
    """For each gradient of each model no lane's norm exceeds what the norms of its factors give."""
    set_lanes_at_once(monkeypatch, lanes)
    model = LSTMLanguageModel(LSTMOptions(embedding=6, hidden=6, layers=2, tied=tied), MODEL.vocab_size)
    static = model.init_params(torch.Generator().manual_seed(0))
    rule = uniform_rule("sgd", tuple(static), 0.1)
    if kind != "sgd":
        precondition = {name: torch.rand_like(tensor) * 5 for name, tensor in static.items()}
        rule = dataclasses.replace(rule, precondition=precondition, momentum=0.5 * (kind == "momentum"))
    if kind == "gates":
        rule = dataclasses.replace(rule, gates=gates_of(static))
    seen = []

    def observe(event):
        seen.append(event.name)
        bound, norm_B = rule.update_norm_bound(event), rule.update_norms(event)
        assert 0 < float(norm_B.max()) <= bound < 1e3 * float(norm_B.max())
        after = event._replace(
            theta=event.theta.clone(),
            update=event.update.clone(),
            slots={slot: tensor.clone() for slot, tensor in event.slots.items()},
        )
        rule.step_(after)
        moved_B = torch.linalg.vector_norm((after.theta - event.theta).flatten(1), dim=1)
        torch.testing.assert_close(norm_B, moved_B, rtol=1e-3, atol=1e-6)

    chosen = DynamicModel(LSTMEngine(model), static, rule, tuple(static))
    list(iter_segments(chosen, read_side_by_side(text((40,) * lanes), 5, range(lanes), lanes), observe=observe))
    assert set(seen) == set(static)


def gates_of(static):
    from dynlm.adapt.gates import Gates

    lr_KJ = torch.linspace(-0.5, 0.5, len(static))[:, None]
    return Gates(("doc_age_20",), lr_KJ, torch.zeros_like(lr_KJ))
