"""Memory is a value of constant size."""

import dataclasses

import pytest

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import FEATURES
from dynlm.adapt.state import state_bytes
from dynlm.data.stream import Stream
from tests.adapt.readings import MODEL, RULES, meta, moved_phi, reader, text


@pytest.mark.parametrize("name", RULES)
def test_each_lane_has_weights_and_a_state_of_its_own(name):
    chosen = reader(name, "article")
    weights = 8 * sum(chosen.static[name].numel() for name in chosen.rule.rates)
    state = 8 * 2 * MODEL.config.hidden
    added = state_bytes(chosen.fresh_memory(3)) - state_bytes(chosen.fresh_memory(2))
    assert added >= weights + state and 2 * added == state_bytes(chosen.fresh_memory(2))


@pytest.mark.parametrize("observed", [False, True])
def test_memory_does_not_grow_with_what_was_read(observed):
    g = meta(importance=True, features=FEATURES)
    chosen = dataclasses.replace(reader("rms", "stream"), rule=g.rule(moved_phi(g)))
    source = Stream(text((50, 50)), 2, 5, range(2), repeat=True)
    memory = chosen.fresh_memory(2)
    observe = Sensitivities(g, chosen.rule, memory) if observed else None
    held = []
    for count, read in enumerate(iter_segments(chosen, source, memory, observe=observe)):
        held.append(state_bytes(read.memory) + chosen.scratch.bytes())
        if count == 60:
            break
    assert len(set(held[1:])) == 1
