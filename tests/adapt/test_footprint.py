"""What a reading will take is what it takes."""

import dataclasses

import pytest
import torch

from dynlm.adapt.footprint import foretold_bytes, held_bytes, refuse_what_does_not_fit
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.options import FEATURES
from dynlm.data.stream import Stream, read_side_by_side
from dynlm.errors import UserError
from tests.adapt.readings import MODEL, RULES, meta, moved_phi, reader, text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("name", RULES)
def test_what_was_foretold_is_held(name, lanes, dtype):
    split = text((23, 31, 8, 2, 17, 40, 5, 12, 9))
    chosen = reader(name, "article", dtype=dtype)
    foretold = foretold_bytes(chosen, lanes, 5)
    assert chosen.scratch.bytes() == 0
    *_, last = iter_segments(chosen, read_side_by_side(split, 5, range(split.articles), lanes))
    assert held_bytes(chosen, last.memory) == foretold


def test_each_lane_adds_its_weights_and_its_state():
    chosen = reader("rms", "article")
    weights = 8 * sum(tensor.numel() for tensor in chosen.static.values())
    state = 8 * 2 * MODEL.config.hidden
    # Lanes are read a few at a time, so that more of them need no more working space.
    assert foretold_bytes(chosen, 12, 5) - foretold_bytes(chosen, 8, 5) == 4 * (weights + state)


@pytest.mark.parametrize("observed", [False, True])
def test_memory_does_not_grow_with_what_was_read(observed):
    from dynlm.adapt.meta_gradient.forward import Sensitivities

    g = meta(importance=True, features=FEATURES)
    chosen = dataclasses.replace(reader("rms", "stream"), rule=g.rule(moved_phi(g)))
    source = Stream(text((50, 50)), 2, 5, range(2), repeat=True)
    memory = chosen.fresh_memory(2)
    observe = Sensitivities(g, chosen.rule, memory) if observed else None
    held = []
    for count, read in enumerate(iter_segments(chosen, source, memory, observe=observe)):
        held.append(held_bytes(chosen, read.memory))
        if count == 60:
            break
    assert len(set(held[1:])) == 1


def test_what_does_not_fit_is_refused():
    refuse_what_does_not_fit(1 << 20, 4, torch.device("cpu"))
    with pytest.raises(UserError, match=r"memory\.lanes is 64, which needs 1,000,000,000\.0 MB .*choose at most 1"):
        refuse_what_does_not_fit(10**15, 64, torch.device("cpu"))


def test_native_kernels_are_foretold_too():
    native = pytest.importorskip("tests.models.lstm.test_native").native_kernels
    pytest.importorskip("ninja")
    chosen = dataclasses.replace(reader("rms", "article"), native=native())
    foretold = foretold_bytes(chosen, 3, 5)
    *_, last = iter_segments(chosen, read_side_by_side(text(), 5, range(3), 3))
    assert held_bytes(chosen, last.memory) == foretold
