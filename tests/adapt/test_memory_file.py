"""Memory files: what was written is read back, and any other content is refused in one line."""

import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynlm.adapt import memory_file as module
from dynlm.adapt.dynamic_model import constants_of
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.memory_file import (
    SavedMemory,
    Unfinished,
    load_about,
    load_memory,
    options_of,
    reset_memory,
    save_memory,
)
from dynlm.adapt.options import FEATURES, StepOptions
from dynlm.adapt.rules.base import Statistics
from dynlm.adapt.rules.elementwise import Rates
from dynlm.errors import UserError
from dynlm.evaluation.session import Session
from dynlm.run.run import Run
from dynlm.runtime.tensors import load_tensors, save_tensors
from tests.adapt.readings import RULES, meta, moved_phi, stream
from tests.adapt.test_state_tensors import assert_equal, with_partners
from tests.golden.commands import FOLDER
from tests.golden.make import TEXT, written

OPTIONS = StepOptions(rule="rms", cache="learned", no_regret=True)
MODEL = "0123456789abcdef"


@pytest.fixture(scope="module")
def chosen():
    return with_partners("g")


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
    assert_equal(back.memory, saved.memory._replace(mixture=saved.memory.mixture._replace(experts_BT2=None)))
    again = tmp_path / "again.safetensors"
    assert save_memory(again, back, chosen, OPTIONS, MODEL) == load_about(path)[0]
    assert again.read_bytes() == path.read_bytes()
    assert options_of(path, StepOptions(track=True)) == dataclasses.replace(OPTIONS, track=True)


def test_another_model_other_options_and_other_rates_are_refused(path, chosen):
    assert "another model" in refused(path, chosen, model="fedcba9876543210")
    assert "memory.segment 20, not 10" in refused(path, chosen, dataclasses.replace(OPTIONS, segment=10))
    faster = {name: Rates(rates.lr * 2, rates.decay) for name, rates in chosen.rule.rates.items()}
    other = dataclasses.replace(chosen, rule=dataclasses.replace(chosen.rule, rates=faster))
    assert "other rates" in refused(path, other)
    assert load_memory(path, chosen, dataclasses.replace(OPTIONS, track=True, capture=False), MODEL).tokens == 62


def test_every_constant_of_a_reader_counts(chosen):
    no_reset = dataclasses.replace(chosen.rule.boundary, reset={})
    options = {"importance": True, "features": FEATURES, "boundary_reset": True, "slow_rate": 0.2, "momentum": 0.3}
    g = meta(**options)
    phi = moved_phi(g)
    assert chosen.rule.describe() == g.rule(phi).describe()
    double = Statistics({name: 2 * tensor for name, tensor in g.statistics.rms.items()})
    learned = [
        (meta(**{**options, "momentum": 0.1}), phi),
        (meta(**{**options, "features": [*FEATURES][::-1]}), phi),
        (meta(**{**options, "slow_rate": 0.1}), phi),
        (dataclasses.replace(g, statistics=double), phi),
        (dataclasses.replace(g, epsilon=2 * g.epsilon), phi),
        *((g, {**phi, name: tensor + 0.01}) for name, tensor in phi.items()),
    ]
    changed = [
        *(dataclasses.replace(chosen, rule=other.rule(its_phi)) for other, its_phi in learned),
        dataclasses.replace(chosen, rule=dataclasses.replace(chosen.rule, boundary=no_reset)),
        dataclasses.replace(chosen, rule=dataclasses.replace(chosen.rule, replay_rate=0.1)),
        dataclasses.replace(chosen, cache=dataclasses.replace(chosen.cache, window=11)),
        dataclasses.replace(chosen, mixture=None),
        with_partners("lstm"),
        with_partners("rms"),
    ]
    assert len({constants_of(each) for each in [chosen, *changed]}) == 1 + len(changed)
    assert constants_of(chosen) == constants_of(with_partners("g"))


@pytest.mark.parametrize("memory", [{"rule": "rms"}, {"rule": "meta", "g": "level-3"}])
def test_a_memory_may_be_read_with_another_number_of_threads(memory: dict[str, str]) -> None:
    run, before, found = Run.open("wikitext-2-small"), torch.get_num_threads(), set()
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.add(constants_of(run.dynamic_model(StepOptions().replace(**memory))))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_other_files_are_refused(tmp_path, chosen):
    path = tmp_path / "me.safetensors"
    assert "no such file" in refused(path, chosen)
    for content in (b"", b"text", b"\xff" * 100, bytes(8)):
        path.write_bytes(content)
        assert "not a whole safetensors file" in refused(path, chosen)
    save_tensors(path, {"a": torch.zeros(1)}, {"content": "a checkpoint"})
    assert "no memory" in refused(path, chosen)
    save_tensors(path, {}, {"format": 3, "model": "", "constants": "", "options": {}})
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
def test_metadata_of_the_wrong_type_is_refused(name, value, path, chosen):
    tensors, told = load_tensors(path)
    save_tensors(path, {name: tensor.clone() for name, tensor in tensors.items()}, {**told, name: value})
    refused(path, chosen)
    if name != "options":
        with pytest.raises(UserError, match="has a wrong type or is unknown"):
            load_about(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_is_found_wherever_it_is(data, path, chosen):
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
    # White space of the header, or the last digit of a float that is rounded to the same one.
    (about, tensors), (found, found_tensors) = load_about(path), load_about(damaged)
    assert found == about and {n: t.tolist() for n, t in found_tensors.items()} == {
        n: t.tolist() for n, t in tensors.items()
    }


def forged(path, chosen, **changes):
    """Return the message on a file whose checksum is right and whose values are wrong."""
    about, tensors = load_about(path)
    tensors = {**{name: tensor.clone() for name, tensor in tensors.items()}, "text": torch.zeros(3, dtype=torch.uint8)}
    for name, value in changes.items():
        tensors[name.replace("__", "/")] = value
    module._write(path, about, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    return refused(path, chosen)


def test_forged_values_are_refused(path, chosen, saved):
    keys, tokens, vocab_size = saved.memory.cache.keys_BCH, saved.memory.cache.tokens_BC, chosen.model.vocab_size
    assert "not finite" in forged(path, chosen, state__0__0=saved.memory.state[0][0] * torch.nan)
    save_memory(path, saved, chosen, OPTIONS, MODEL)
    assert "cache/keys_BCH is (2, " in forged(path, chosen, cache__keys_BCH=torch.cat([keys, keys]))
    for wrong in (tokens + vocab_size, tokens - vocab_size):
        save_memory(path, saved, chosen, OPTIONS, MODEL)
        assert "cache holds impossible values" in forged(path, chosen, cache__tokens_BC=wrong)
    save_memory(path, saved, chosen, OPTIONS, MODEL)
    assert "unfinished article is missing" in forged(path, chosen, text=None)
    save_memory(path, saved, chosen, OPTIONS, MODEL)
    assert "not UTF-8" in forged(path, chosen, text=torch.full((3,), 255, dtype=torch.uint8))


def test_a_memory_that_diverged_is_not_saved(path, chosen, saved):
    before = path.read_bytes()
    params = {**saved.memory.params, "embedding": saved.memory.params["embedding"] * torch.inf}
    diverged = dataclasses.replace(saved, memory=saved.memory._replace(params=params))
    with pytest.raises(UserError, match=r"not kept: its tensor params/embedding .* lower its rate"):
        save_memory(path, diverged, chosen, OPTIONS, MODEL)
    assert path.read_bytes() == before


def test_reset_keeps_the_model_and_the_options_only(path, chosen):
    size = path.stat().st_size
    about = reset_memory(path)
    assert path.stat().st_size < size / 2
    assert (about.model, about.tokens, about.articles, about.unfinished) == (MODEL, 0, 0, None)
    assert b"line" not in path.read_bytes()
    back = load_memory(path, chosen, OPTIONS, MODEL)
    assert_equal(back.memory, chosen.fresh_memory())
    assert "another model" in refused(path, chosen, model="fedcba9876543210")


@pytest.mark.parametrize("name", RULES)
def test_a_file_of_format_1_is_the_memory_it_was(name, tmp_path, capsys):
    """A memory of each rule under the names that format 1 had."""
    chosen = with_partners(name)
    *_, read = iter_segments(chosen, stream())
    path = tmp_path / "me.safetensors"
    save_memory(path, SavedMemory(read.memory, 62, 3), chosen, OPTIONS, MODEL)
    about, tensors = load_about(path)
    old = {old_name(name): tensor.clone() for name, tensor in tensors.items()}
    assert len(old) == len(tensors) and not old.keys() & {name for name in tensors if not name.startswith("cache/")}
    module._write(path, dataclasses.replace(about, format=1, constants="of an earlier version"), old)
    back = load_memory(path, chosen, OPTIONS, MODEL)
    assert_equal(back.memory, read.memory._replace(mixture=read.memory.mixture._replace(experts_BT2=None)))
    (warning,) = capsys.readouterr().err.splitlines()
    assert str(path) in warning and "format 1" in warning


def old_name(name):
    """Return the name that a tensor had in format 1."""
    if name.startswith("rule/slots/"):
        _, _, slot, rest = name.split("/", 3)
        return f"coordinates/{rest}/{slot}" if slot in "hcif" else f"{dict(anchor='home').get(slot, slot)}/{rest}"
    for new, old in (
        ("params/", "weights/"),
        ("state/", "hidden/"),
        ("rule/lanes/segments_B", "pace/since_B"),
        ("rule/lanes/running_nats_B", "pace/running_B"),
        ("rule/lanes/since_heading_B", "pace/heading_B"),
        ("mixture/state/", "hedge/hidden/"),
        ("mixture/", "hedge/"),
        ("filter/", "guarded/"),
    ):
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def test_a_memory_written_by_an_earlier_version_is_read_on_from(capsys, tmp_path):
    """The golden memory: one warning, then the figures that the version that wrote it gave."""
    path = FOLDER / "me.safetensors"
    run = Run.open(FOLDER / "run", options_of(path, StepOptions()), device="cpu")
    session = Session.open(run, path)
    # Old names of options are warned of once a process, and another test may have been the first.
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if " is now " not in line]
    assert "format 1" in warning and str(path) in warning
    assert (session.saved.tokens, session.saved.articles, session.saved.unfinished) == (90, 1, None)
    figures = written("reading")["read"]["again"]
    assert float(session.read(TEXT).nats.mean()) == pytest.approx(figures["nats_per_token"], rel=1e-4)
    assert session.distance == pytest.approx(figures["distance"], rel=1e-4)
    assert {"tokens": session.saved.tokens, "articles": session.saved.articles} == figures["memory"]
    # It is written again in the present format, without a warning from then on.
    again = tmp_path / "again.safetensors"
    assert session.save(again).format == module.FORMAT
    assert Session.open(run, again).saved.tokens == 180
    assert not capsys.readouterr().err


def test_a_reset_file_of_format_1_starts_afresh(chosen, tmp_path):
    path = tmp_path / "me.safetensors"
    about = save_memory(path, SavedMemory(chosen.fresh_memory(), 62, 3), chosen, OPTIONS, MODEL)
    _, tensors = load_about(path)
    module._write(path, dataclasses.replace(about, format=1), {old_name(n): t.clone() for n, t in tensors.items()})
    reset_memory(path)
    assert_equal(load_memory(path, chosen, OPTIONS, MODEL).memory, chosen.fresh_memory())
