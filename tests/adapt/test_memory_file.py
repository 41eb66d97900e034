"""Memory files: what was written is read, and whatever else a file may hold is refused in one line."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynlm.adapt import memory_file as format
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import (
    SavedMemory,
    Unfinished,
    constants_of,
    load_about,
    load_memory,
    options_of,
    reset_memory,
    save_memory,
)
from dynlm.adapt.options import MemoryOptions
from dynlm.adapt.rules.elementwise import Rates
from dynlm.errors import UserError
from dynlm.runtime.tensors import load_tensors, save_tensors
from tests.adapt.readings import stream
from tests.adapt.test_state_tensors import assert_equal, partnered

OPTIONS = MemoryOptions(rule="rms", cache="learned", no_regret=True)
MODEL = "0123456789abcdef"


@pytest.fixture(scope="module")
def chosen():
    return partnered("g")


@pytest.fixture(scope="module")
def saved(chosen):
    *_, read = iter_segments(chosen, stream())
    return SavedMemory(read.memory, 62, 3, Unfinished("a line\nmoré", 2))


@pytest.fixture
def path(tmp_path, chosen, saved):
    save_memory(tmp_path / "me.safetensors", saved, chosen, OPTIONS, MODEL)
    return tmp_path / "me.safetensors"


def refused(path, chosen, options=OPTIONS, model=MODEL):
    with pytest.raises(UserError) as error:
        load_memory(path, chosen, options, model)
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_round_trip_is_exact(path, chosen, saved, tmp_path):
    back = load_memory(path, chosen, OPTIONS, MODEL)
    assert (back.tokens, back.articles, back.unfinished) == (62, 3, saved.unfinished)
    assert_equal(back.memory, saved.memory._replace(hedge=saved.memory.hedge._replace(experts_BT2=None)))
    again = tmp_path / "again.safetensors"
    assert save_memory(again, back, chosen, OPTIONS, MODEL) == load_about(path)[0]
    assert again.read_bytes() == path.read_bytes()
    assert options_of(path, MemoryOptions(track=True)) == dataclasses.replace(OPTIONS, track=True)


def test_another_model_other_options_and_other_rates_are_refused(path, chosen):
    assert "another model" in refused(path, chosen, model="fedcba9876543210")
    assert "memory.segment 20, not 10" in refused(path, chosen, dataclasses.replace(OPTIONS, segment=10))
    faster = {name: Rates(rates.alpha * 2, rates.pull) for name, rates in chosen.rule.rates.items()}
    other = dataclasses.replace(chosen, rule=dataclasses.replace(chosen.rule, rates=faster))
    assert "other rates" in refused(path, other)
    assert load_memory(path, chosen, dataclasses.replace(OPTIONS, track=True, capture=False), MODEL).tokens == 62


def test_every_constant_of_a_reader_counts(chosen):
    rule = chosen.rule
    changed = [
        dataclasses.replace(chosen, rule=dataclasses.replace(rule, momentum=0.1)),
        dataclasses.replace(
            chosen, rule=dataclasses.replace(rule, scale={**rule.scale, "embedding": rule.scale["embedding"] * 2})
        ),
        dataclasses.replace(chosen, rule=dataclasses.replace(rule, flush={})),
        dataclasses.replace(chosen, rule=dataclasses.replace(rule, gates=None)),
        dataclasses.replace(chosen, cache=dataclasses.replace(chosen.cache, window=11)),
        dataclasses.replace(chosen, hedge=None),
    ]
    assert len({constants_of(each) for each in [chosen, *changed]}) == 1 + len(changed)
    assert constants_of(chosen) == constants_of(partnered("g"))


def test_what_is_no_memory_is_refused(tmp_path, chosen):
    path = tmp_path / "me.safetensors"
    assert "no such file" in refused(path, chosen)
    for content in (b"", b"text", b"\xff" * 100, bytes(8)):
        path.write_bytes(content)
        assert "not a whole safetensors file" in refused(path, chosen)
    save_tensors(path, {"a": torch.zeros(1)}, {"content": "a checkpoint"})
    assert "no memory" in refused(path, chosen)
    save_tensors(path, {}, {"format": 2, "model": "", "constants": "", "options": {}})
    assert "upgrade dynlm" in refused(path, chosen)


@pytest.mark.parametrize(
    "name, value",
    [
        ("tokens", "many"),
        ("tokens", True),
        ("rule", []),
        ("unfinished", 1.5),
        ("stranger", 1),
        ("options", {"rul": "rms"}),
    ],
)
def test_what_it_tells_must_make_sense(name, value, path, chosen):
    tensors, told = load_tensors(path)
    save_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()}, {**told, name: value})
    refused(path, chosen)
    if name != "options":
        with pytest.raises(UserError, match="not as it should be"):
            load_about(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_noticed_wherever_it_is(data, path, chosen):
    whole = path.read_bytes()
    damaged = path.with_name("damaged.safetensors")
    if data.draw(st.booleans()):
        damaged.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        at, change = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(1, 255))
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ change]) + whole[at + 1 :])
    try:
        load_memory(damaged, chosen, OPTIONS, MODEL)
    except UserError:
        return
    # Only what carries nothing may change unnoticed: white space of the header.
    assert b" " in {whole[at : at + 1], damaged.read_bytes()[at : at + 1]}


def forged(path, chosen, **changes):
    """A file made by hand, with a checksum that holds: nothing but its values is wrong."""
    about, tensors = load_about(path)
    tensors = {**{name: tensor.clone() for name, tensor in tensors.items()}, "text": torch.zeros(3, dtype=torch.uint8)}
    for name, value in changes.items():
        tensors[name.replace("__", "/")] = value
    format._write(path, about, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    return refused(path, chosen)


def test_forged_values_are_refused(path, chosen, saved):
    vocabulary = chosen.model.vocabulary
    keys, tokens = saved.memory.cache.keys_BCH, saved.memory.cache.tokens_BC
    assert "no finite number" in forged(path, chosen, hidden__0__0=saved.memory.hidden[0][0] * torch.nan)
    save_memory(path, saved, chosen, OPTIONS, MODEL)
    assert "cache/keys_BCH is (2, " in forged(path, chosen, cache__keys_BCH=torch.cat([keys, keys]))
    for wrong in (tokens + vocabulary, tokens - vocabulary):
        save_memory(path, saved, chosen, OPTIONS, MODEL)
        assert "cache holds what cannot be" in forged(path, chosen, cache__tokens_BC=wrong)
    save_memory(path, saved, chosen, OPTIONS, MODEL)
    assert "unfinished article is missing" in forged(path, chosen, text=None)
    save_memory(path, saved, chosen, OPTIONS, MODEL)
    assert "not UTF-8" in forged(path, chosen, text=torch.full((3,), 255, dtype=torch.uint8))


def test_a_memory_that_diverged_is_not_kept(path, chosen, saved):
    before = path.read_bytes()
    weights = {**saved.memory.weights, "embedding": saved.memory.weights["embedding"] * torch.inf}
    with pytest.raises(UserError, match=r"not kept: its tensor weights/embedding .* lower its rate"):
        save_memory(
            path, dataclasses.replace(saved, memory=saved.memory._replace(weights=weights)), chosen, OPTIONS, MODEL
        )
    assert path.read_bytes() == before


def test_reset_forgets_all_but_whose_it_is(path, chosen):
    size = path.stat().st_size
    about = reset_memory(path)
    assert path.stat().st_size < size / 2
    assert (about.model, about.tokens, about.articles, about.unfinished) == (MODEL, 0, 0, None)
    assert b"line" not in path.read_bytes()
    back = load_memory(path, chosen, OPTIONS, MODEL)
    assert_equal(back.memory, chosen.fresh_memory())
    assert "another model" in refused(path, chosen, model="fedcba9876543210")
