"""The C++ forms of what reading does in too many small steps, compiled on first use by torch's own tooling.

An option: everything works without them, and without a compiler. They are for float32 and float64 on a CPU.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import filelock
import torch
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.files import cache_folder
from dynlm.runtime.hashing import fingerprint

_SOURCE = Path(__file__).with_name("native.cpp")
_FLAGS = "-O3 -march=native -mprefer-vector-width=512 -fopenmp -fno-math-errno -fno-trapping-math".split()


class NativeKernels:
    """Calls of ``native.cpp``, which documents each and the shapes of its arguments. Made by ``native_kernels``."""

    @staticmethod
    def lstm_forward(before_BT4H: Tensor, recurrent: Tensor, written: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
        """Run a layer forward over all steps, given the gates' input part ``before_BT4H``.

        Writes the tensors ``written``: gates_BT4H, cells_BSH, tanh_cells_BTH and outputs_BSH.
        """
        torch.ops.dynlm.lstm_forward(before_BT4H, recurrent, *written)

    @staticmethod
    def lstm_backward(
        d_outputs_BTH: Tensor,
        recurrent: Tensor,
        saved: tuple[Tensor, Tensor, Tensor],
        d_gates_BT4H: Tensor,
        d_cell_BH: Tensor,
    ) -> None:
        """Write the loss's gradient by the gates before their non-linearities into ``d_gates_BT4H``.

        ``saved``: gates_BT4H, cells_BSH and tanh_cells_BTH, as ``lstm_forward`` wrote them.
        """
        torch.ops.dynlm.lstm_backward(d_outputs_BTH, recurrent, *saved, d_gates_BT4H, d_cell_BH)

    @staticmethod
    def step_(
        theta: Tensor, theta_0: Tensor, u: Tensor, beta: Tensor | float, scale: Tensor | None, alpha: float
    ) -> None:
        """Take theta += beta (theta_0 - theta) - alpha scale u, lane by lane, in place."""
        betas, decay = (beta, 0.0) if isinstance(beta, Tensor) else (None, beta)
        torch.ops.dynlm.step_(theta, theta_0, u, betas, decay, scale, alpha)

    @staticmethod
    def sense_(s_decay: Tensor, theta: Tensor, theta_0: Tensor, u: Tensor, beta: Tensor | float) -> tuple[float, float]:
        """Return the sums of u (theta - theta_0) and of u s_decay, and carry s_decay over the coming step in place."""
        betas, decay = (beta, 0.0) if isinstance(beta, Tensor) else (None, beta)
        by_lr, by_decay = torch.ops.dynlm.sense_(s_decay, theta, theta_0, u, betas, decay)
        return by_lr, by_decay


@functools.cache
def native_kernels() -> NativeKernels:
    """Compile the kernels (some ten seconds) or load those compiled before.

    Raises UserError where there is no compiler, or it fails.
    """
    from torch.utils import cpp_extension

    # Code for one processor may stop another with an illegal instruction: a cache may be shared between machines.
    mark = fingerprint(_SOURCE.read_bytes(), torch.__version__, _processor(), *_FLAGS)
    folder = cache_folder() / "native" / mark
    folder.mkdir(parents=True, exist_ok=True)
    try:
        flags: dict[str, Any] = {"extra_cflags": _FLAGS, "extra_ldflags": ["-fopenmp"], "is_python_module": False}
        # torch waits without end for a lock file that a killed process left; this lock ends with its process.
        with filelock.FileLock(folder / ".compiling"):
            (folder / "lock").unlink(missing_ok=True)
            cpp_extension.load("dynlm_native", [str(_SOURCE)], build_directory=str(folder), **flags)
    except (RuntimeError, OSError, ImportError) as error:
        what = f"the native kernels could not be compiled ({str(error).strip().splitlines()[0]})"
        do = "install g++ and ninja (pip install dynlm[native]), or choose --memory.kernels torch"
        raise UserError(what, _SOURCE, do) from error
    return NativeKernels()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return "".join(line for line in lines[:30] if line.startswith(("model name", "flags", "Features")))
    except OSError:
        return platform.processor() or platform.machine()
