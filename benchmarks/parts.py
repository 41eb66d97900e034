"""Where the time of a segment goes: reading with rms, part by part, each beside its own bound.

    python -m benchmarks.parts [--threads 1] [--native] [--config configs/wikitext-2-small.yaml]

Each part's own time, without that of the parts that it calls, is measured where it runs, so that the caches hold what
they hold in a reading. A part's bound is that of ``benchmarks.bound``: its operations at the rate of a large product
plus its bytes at the rate of a large copy. The parts that move weights have the bytes of ``learning_cost`` between
them. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any
from unittest import mock

import torch

from benchmarks.bound import Cost, multiplying_weights, weights
from benchmarks.kinds import Setting, call_of
from benchmarks.machine import measure_machine
from dynlm.adapt.rules.elementwise import ElementwiseRule
from dynlm.models.lstm import engine, layers
from dynlm.models.lstm.model import LSTMLanguageModel

_FLOAT = 4
_SOFTMAX_FORWARD, _SOFTMAX_BACKWARD = "softmax product, forward", "softmax product, backward"
_INPUT_FORWARD, _INPUT_BACKWARD = "input product, forward", "input product, backward"
_STEPS_FORWARD, _STEPS_BACKWARD = "LSTM steps, forward", "LSTM steps, backward"
_NORMALISE, _GRADIENTS, _UPDATE, _REST = "softmax of the logits", "gradients", "update", "Python and the rest"


def part_costs(model: LSTMLanguageModel, tokens: int) -> dict[str, Cost]:
    """Return the operations and bytes of each part of a segment of one lane."""
    softmax = model.vocab_size * model.feature_size
    inputs = sum(4 * out * wide for wide, out in model.widths())
    steps = sum(4 * out * out for _, out in model.widths())

    def product(matrix: int) -> Cost:
        return Cost(2 * matrix * tokens, _FLOAT * matrix)

    return {
        _SOFTMAX_FORWARD: product(softmax),
        _INPUT_FORWARD: product(inputs),
        _STEPS_FORWARD: product(steps),
        _NORMALISE: Cost(0, 2 * _FLOAT * model.vocab_size * tokens),
        _SOFTMAX_BACKWARD: product(softmax),
        _INPUT_BACKWARD: product(inputs),
        _STEPS_BACKWARD: product(steps),
        _GRADIENTS: Cost(2 * multiplying_weights(model) * tokens, _FLOAT * weights(model)),
        # Gradient, weights, theta_0 and R are read, weights are written.
        _UPDATE: Cost(0, 5 * _FLOAT * weights(model)),
    }


class PartTimer:
    """Seconds that calls take, by part, without the calls of other parts inside them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    def timed(self, function: Callable[..., Any], part_of: Callable[..., str]) -> Callable[..., Any]:
        """Return ``function`` with its time added to the part that ``part_of`` names, given its arguments."""

        def call(*arguments: Any, **named: Any) -> Any:
            self._switch()
            self._running.append(part_of(*arguments))
            try:
                return function(*arguments, **named)
            finally:
                self._switch()
                self._running.pop()

        return call

    def _switch(self) -> None:
        """Give the time since the last switch to the part that runs."""
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextmanager
def timed_parts(model: LSTMLanguageModel, timer: PartTimer) -> Iterator[None]:
    """Time the parts of ``LSTMEngine`` and of the update within this context."""

    def either(of_softmax: str, of_layer: str, matrix: Callable[..., torch.Tensor]) -> Callable[..., str]:
        return lambda *arguments: of_softmax if model.vocab_size in matrix(*arguments).shape else of_layer

    parts: list[tuple[Any, str, Callable[..., str]]] = [
        (engine, "affine", either(_SOFTMAX_FORWARD, _INPUT_FORWARD, lambda x, weight, *_: weight)),
        (engine, "product", either(_SOFTMAX_BACKWARD, _INPUT_BACKWARD, lambda x, weight, *_: weight)),
        (layers, "affine", lambda *_: _INPUT_FORWARD),
        (engine, "read_layer", lambda *_: _STEPS_FORWARD),
        (engine, "through_time", lambda *_: _STEPS_BACKWARD),
        (engine, "token_nats_", lambda *_: _NORMALISE),
        (engine, "logit_gradients_", lambda *_: _NORMALISE),
        (engine, "_outer", lambda *_: _GRADIENTS),
        (ElementwiseRule, "step_", lambda *_: _UPDATE),
    ]
    with ExitStack() as stack:
        for owner, name, part_of in parts:
            stack.enter_context(mock.patch.object(owner, name, timer.timed(getattr(owner, name), part_of)))
        yield


def part_seconds(setting: Setting, native: bool, seconds: float) -> dict[str, float]:
    """Return the median time of each part of a segment, in seconds."""
    call, _ = call_of(setting, "rms", 1, native)
    timer, found = PartTimer(), list[dict[str, float]]()
    whole = timer.timed(call, lambda: _REST)
    with timed_parts(setting.model, timer):
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(found) < 25:
            timer.seconds.clear()
            whole()
            found.append(dict(timer.seconds))
    counted = found[len(found) // 5 :]
    return {part: statistics.median(one[part] for one in counted) for part in counted[0]}


def measure(config_path: str, threads: int, native: bool, seconds: float = 3.0) -> dict[str, Any]:
    """Return the machine's rates and each part's seconds and bound, from a process with so many threads."""
    words = [sys.executable, "-m", "benchmarks.parts", "--config", config_path, "--threads", str(threads)]
    words += ["--seconds", str(seconds), *(["--native"] if native else [])]
    found: dict[str, Any] = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    setting, machine = Setting(options.config), measure_machine(options.seconds / 2)
    costs = part_costs(setting.model, setting.segment)
    parts = [
        {
            "part": part,
            "seconds": taken,
            "bound_seconds": costs[part].least_seconds(machine) if part in costs else None,
        }
        for part, taken in part_seconds(setting, options.native, options.seconds).items()
    ]
    print(json.dumps({"machine": asdict(machine), "parts": parts}))


if __name__ == "__main__":
    main()
