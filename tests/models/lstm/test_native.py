"""The C++ kernels against what they stand in for, on any number of threads."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from typing import Any

import pytest
import torch

from dynlm.adapt.loop import iter_segments
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.rules.elementwise import Rates
from dynlm.errors import UserError
from dynlm.models.lstm import native as module
from dynlm.models.lstm.native import NativeKernels, native_kernels
from dynlm.models.options import ModelOptions
from dynlm.models.scratch import Scratch
from tests.adapt.readings import NAMES, meta, moved_phi, reader, stream
from tests.models.lstm.test_engine import SHAPES, Case, assert_same


@pytest.fixture(scope="module")
def native() -> NativeKernels:
    pytest.importorskip("ninja")
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the native kernels with")
    return native_kernels()


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("lanes", [1, 2, 5])
@pytest.mark.parametrize("config", [*SHAPES, ModelOptions(embedding=72, hidden=72, layers=1)])
def test_outputs_and_gradients_are_autograds(
    config: ModelOptions, lanes: int, threads: int, native: NativeKernels
) -> None:
    case, scratch = Case(config, lanes), Scratch()
    every = set(case.static)
    for names in (every, set(), {"lstm.0.recurrent"}):
        assert_same(case.fast(names, scratch, native=native), case.reference(names), rtol=1e-11, atol=1e-13)


def test_a_wide_layers_units_are_shared_by_the_threads(threads: int, native: NativeKernels) -> None:
    case, names = Case(ModelOptions(embedding=600, hidden=600, layers=1), 1, torch.float32), {"lstm.0.recurrent"}
    case.own["lstm.0.recurrent"] /= 20
    found, wanted = case.fast(names, Scratch(), native=native), case.fast(names, Scratch())
    assert_same(found, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lanes", [1, 3])
def test_float32_is_as_exact_as_torchs(lanes: int, native: NativeKernels) -> None:
    """The kernels' own exponential function is good to rounding, for small and for large gates."""
    for size in (0.01, 1.0, 30.0):
        case = Case(ModelOptions(embedding=72, hidden=72, layers=1), lanes, torch.float32)
        case.own = {name: tensor * size for name, tensor in case.own.items()}
        every = set(case.static)
        found = case.fast(every, Scratch(), native=native)
        wanted = case.fast(every, Scratch())
        assert all(tensor.isfinite().all() for tensor in found[2].values())
        torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], wanted[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lanes", [1, 3])
def test_reading_and_its_meta_gradients_are_torchs(lanes: int, threads: int, native: NativeKernels) -> None:
    found = {}
    for kernels in (None, native):
        g = meta(pull=0.18)
        phi = moved_phi(g)
        chosen = dataclasses.replace(reader(), native=kernels, rule=g.rule(phi))
        memory = chosen.fresh_memory(lanes)
        sensitivities = Sensitivities(g, phi, chosen, memory)
        source = dataclasses.replace(stream(), lanes=lanes, repeat=True)
        reads = list(itertools.islice(iter_segments(chosen, source, memory, observe=sensitivities), 9))
        found[kernels] = (reads, sensitivities)
    (plain, plain_sensed), (fast, fast_sensed) = found[None], found[native]
    for one, other in zip(plain, fast, strict=True):
        mask_BT = torch.from_numpy(one.segment.mask_BT)
        torch.testing.assert_close(other.nats_BT[mask_BT], one.nats_BT[mask_BT], rtol=1e-11, atol=1e-12)
    for tensor in NAMES:
        torch.testing.assert_close(fast[-1].memory.weights[tensor], plain[-1].memory.weights[tensor])
        torch.testing.assert_close(fast_sensed.fast["pull"][tensor], plain_sensed.fast["pull"][tensor])
    for kind in ("rate", "pull"):
        torch.testing.assert_close(fast_sensed.summed[kind], plain_sensed.summed[kind])
        assert plain_sensed.summed[kind].abs().min() > 0


@pytest.mark.parametrize("gated", [False, True])
def test_only_a_pull_that_lanes_share_is_the_kernels(
    gated: bool, native: NativeKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = meta(pull=0.18, features=("fresh", "surprise") if gated else ())
    chosen, taken, step_ = dataclasses.replace(reader(), rule=g.rule(moved_phi(g))), [], NativeKernels.step_

    def counted(*arguments: Any) -> None:
        taken.append(arguments)
        step_(*arguments)

    monkeypatch.setattr(NativeKernels, "step_", staticmethod(counted))
    source = dataclasses.replace(stream(), lanes=3, repeat=True)
    plain, fast = (
        list(itertools.islice(iter_segments(each, source, each.fresh_memory(3)), 6))
        for each in (chosen, dataclasses.replace(chosen, native=native))
    )
    assert bool(taken) != gated
    for tensor in NAMES:
        torch.testing.assert_close(fast[-1].memory.weights[tensor], plain[-1].memory.weights[tensor])


def test_rates_of_zero_are_level_1_bit_for_bit(native: NativeKernels) -> None:
    chosen = dataclasses.replace(reader("rms", dtype=torch.float32), native=native)
    still = dataclasses.replace(chosen.rule, rates=dict.fromkeys(NAMES, Rates(0.0, 0.0)))
    level_1 = dataclasses.replace(chosen, rule=dataclasses.replace(still, rates={}))
    moving, standing = (
        torch.cat([read.nats_T for read in iter_segments(each, stream())])
        for each in (dataclasses.replace(chosen, rule=still), level_1)
    )
    assert torch.equal(moving, standing)


def test_without_a_compiler_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Ninja is required to load C++ extensions\nand a long story")

    monkeypatch.setattr(cpp_extension, "load", fail)
    module.native_kernels.cache_clear()
    with pytest.raises(UserError, match=r"could not be compiled \(Ninja is required.*\); .*--memory.kernels torch"):
        native_kernels()
    module.native_kernels.cache_clear()
