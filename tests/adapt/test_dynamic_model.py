"""Memory is a value of constant size."""

import dataclasses

import pytest
import torch

from dynlm.adapt.dynamic_model import distance
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import FEATURES
from dynlm.data.stream import Stream
from dynlm.runtime.tree import num_bytes
from tests.adapt.readings import MODEL, NAMES, RULES, dynamic_model, meta, moved_phi, text


@pytest.mark.parametrize("name", RULES)
def test_each_lane_has_weights_and_a_state(name):
    chosen = dynamic_model(name, "article")
    weights = 8 * sum(chosen.static[name].numel() for name in chosen.rule.tensors)
    state = 8 * 2 * MODEL.options.hidden
    two_lanes = num_bytes(chosen.fresh_memory(2))
    added = num_bytes(chosen.fresh_memory(3)) - two_lanes
    assert added >= weights + state and 2 * added == two_lanes


@pytest.mark.parametrize("observed", [False, True])
def test_memory_does_not_grow_with_the_text(observed):
    g = meta(importance=True, features=FEATURES)
    phi = moved_phi(g)
    chosen = dataclasses.replace(dynamic_model("rms", "stream"), rule=g.rule(phi))
    source = Stream(text((50, 50)), 2, 5, range(2), repeat=True)
    memory = chosen.fresh_memory(2)
    observe = Sensitivities(g, phi, chosen, memory) if observed else None
    held = []
    for count, read in enumerate(iter_segments(chosen, source, memory, observe=observe)):
        held.append(num_bytes(read.memory) + chosen.engine.scratch.bytes())
        if count == 60:
            break
    assert len(set(held[1:])) == 1


def test_distance_is_relative_to_the_static_parameters():
    chosen = dynamic_model("rms")
    memory = chosen.fresh_memory(2)
    for name in NAMES:
        memory.params[name][1] *= 3
    torch.testing.assert_close(distance(memory, chosen), torch.tensor([0.0, 2.0]).double(), rtol=1e-12, atol=1e-12)
