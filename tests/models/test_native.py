"""The C++ kernels equal torch's operations, on any number of threads."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.errors import UserError
from dynlm.models import native as module
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.models.native import NativeKernels, native_kernels
from dynlm.models.options import LSTMOptions
from dynlm.runtime.files import cache_folder
from tests.adapt.readings import NAMES, dynamic_model, meta, moved_phi, stream
from tests.models.cases import SHAPES, Case, assert_same


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
@pytest.mark.parametrize("options", [*SHAPES, LSTMOptions(embedding=72, hidden=72, layers=1)])
def test_outputs_and_gradients_equal_autograd(
    options: LSTMOptions, lanes: int, threads: int, native: NativeKernels
) -> None:
    case = Case(options, lanes)
    engine = LSTMEngine(case.model, native=native)
    for own in (case.names, set(), {"lstm.0.recurrent"}):
        assert_same(case.run(engine, own), case.by_autograd(own), rtol=1e-11, atol=1e-13)


def test_the_threads_share_the_units_of_a_wide_layer(threads: int, native: NativeKernels) -> None:
    case = Case(LSTMOptions(embedding=600, hidden=600, layers=1), 1, torch.float32)
    case.lane_params["lstm.0.recurrent"] /= 20
    found, expected = (
        case.run(LSTMEngine(case.model, native=kernels), {"lstm.0.recurrent"}) for kernels in (native, None)
    )
    assert_same(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("lanes", [1, 3])
def test_float32_is_as_exact_as_torch(lanes: int, native: NativeKernels) -> None:
    """The kernels' exponential function is good to rounding, for small and for large gates."""
    for size in (0.01, 1.0, 30.0):
        case = Case(LSTMOptions(embedding=72, hidden=72, layers=1), lanes, torch.float32)
        case.lane_params = {name: tensor * size for name, tensor in case.lane_params.items()}
        found, expected = (case.run(LSTMEngine(case.model, native=kernels), case.names) for kernels in (native, None))
        assert all(tensor.isfinite().all() for tensor in found[2].values())
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-5)


def with_kernels(chosen: DynamicModel, kernels: NativeKernels | None) -> DynamicModel:
    return dataclasses.replace(chosen, engine=dataclasses.replace(chosen.engine, native=kernels))  # type: ignore


@pytest.mark.parametrize("lanes", [1, 3])
def test_losses_weights_and_meta_gradients_equal_torch(lanes: int, threads: int, native: NativeKernels) -> None:
    found = []
    for kernels in (None, native):
        g = meta(pull=0.18)
        phi = moved_phi(g)
        chosen = dataclasses.replace(with_kernels(dynamic_model(), kernels), rule=g.rule(phi))
        memory = chosen.fresh_memory(lanes)
        sensitivities = Sensitivities(g, phi, chosen, memory)
        source = dataclasses.replace(stream(), lanes=lanes, repeat=True)
        reads = list(itertools.islice(iter_segments(chosen, source, memory, observe=sensitivities), 9))
        found.append((reads, sensitivities))
    (plain, plain_sensitivities), (fast, fast_sensitivities) = found
    for one, other in zip(plain, fast, strict=True):
        mask_BT = torch.from_numpy(one.segment.mask_BT)
        torch.testing.assert_close(other.nats_BT[mask_BT], one.nats_BT[mask_BT], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(fast[-1].memory.params, plain[-1].memory.params)
    torch.testing.assert_close(fast_sensitivities.fast["decay"], plain_sensitivities.fast["decay"])
    torch.testing.assert_close(fast_sensitivities.summed, plain_sensitivities.summed)
    assert all(plain_sensitivities.summed[kind].abs().min() > 0 for kind in ("lr", "decay"))


@pytest.mark.parametrize("gated", [False, True])
def test_the_kernel_takes_steps_whose_decay_all_lanes_share(
    gated: bool, native: NativeKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    g = meta(pull=0.18, features=("doc_age_20", "loss_delta") if gated else ())
    chosen, taken, step_ = dataclasses.replace(dynamic_model(), rule=g.rule(moved_phi(g))), [], NativeKernels.step_

    def counted(*arguments: Any) -> None:
        taken.append(arguments)
        step_(*arguments)

    monkeypatch.setattr(NativeKernels, "step_", staticmethod(counted))
    source = dataclasses.replace(stream(), lanes=3, repeat=True)
    plain, fast = (
        list(itertools.islice(iter_segments(each, source, each.fresh_memory(3)), 6))
        for each in (chosen, with_kernels(chosen, native))
    )
    assert bool(taken) != gated
    for tensor in NAMES:
        torch.testing.assert_close(fast[-1].memory.params[tensor], plain[-1].memory.params[tensor])


def test_rates_of_zero_are_level_1_bit_for_bit(native: NativeKernels) -> None:
    chosen = with_kernels(dynamic_model("rms", dtype=torch.float32), native)
    still = dataclasses.replace(chosen, rule=chosen.rule.standing_still())
    found, level_1 = (
        torch.cat([read.nats_T for read in iter_segments(each, stream())]) for each in (still, chosen.level_1())
    )
    assert torch.equal(found, level_1)


def test_without_a_compiler_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils import cpp_extension

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Ninja is required to load C++ extensions\nand a long story")

    monkeypatch.setattr(cpp_extension, "load", fail)
    module.native_kernels.cache_clear()
    with pytest.raises(UserError, match=r"could not be compiled \(Ninja is required.*\); .*--memory.kernels torch"):
        native_kernels()
    module.native_kernels.cache_clear()


def test_a_compilation_that_was_killed_holds_up_no_later_one(native: NativeKernels, tmp_path: Path) -> None:
    shutil.copytree(cache_folder() / "native", tmp_path / "native")
    for folder in (tmp_path / "native").iterdir():
        (folder / "lock").touch()
    code = "from dynlm.models.native import native_kernels; native_kernels()"
    subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "DYNLM_CACHE": str(tmp_path)}, check=True, timeout=240
    )
