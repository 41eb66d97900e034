"""The ways to read that are timed, each in its own process: `python -m benchmarks.kinds KIND` prints JSON.

With a process for each, the memory of one kind does not slow down another: how a C library allocates large blocks
depends on earlier allocations. Weights and text are random, in real shapes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.machine import median_time
from benchmarks.straightforward import StraightforwardReader
from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.loop import read_segment
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import FEATURES, LearnedRuleOptions
from dynlm.adapt.rules.base import Rule, Statistics
from dynlm.adapt.rules.elementwise import LEVEL_1
from dynlm.adapt.rules.learned import LearnedRule
from dynlm.adapt.rules.merged import MergedRule
from dynlm.adapt.rules.uniform import uniform_rule
from dynlm.adapt.rules.used_rows import UsedRowsRule
from dynlm.cli.config_files import load_options
from dynlm.data.stream import Segment
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.registry import EngineSettings, engine_for
from dynlm.runtime.tree import num_bytes
from dynlm.train.config import Config
from dynlm.types import Params

LR, DECAY, EPSILON, MERGE_EVERY, USED_ROWS = 2.4e-3, 2e-3, 1e-3, 4, 1024
KINDS = [
    "straightforward",
    "level-1",
    "rms",
    "rms-merged",
    "rms-used-rows",
    "rms-softmax",
    "rms-softmax-used-rows",
    "meta",
    "meta-gated",
    "meta-slow-gated",
    "meta-training",
    "meta-training-gated",
    "meta-training-slow-gated",
    "difference",
]


class Setting:
    """A model of real shape with random weights, statistics and text."""

    def __init__(self, config_path: str):
        config = load_options(config_path, Config)
        self.segment = config.memory.segment
        self.model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
        self.generator = torch.Generator().manual_seed(0)
        self.static = self.model.init_params(self.generator)
        self.statistics = Statistics(
            {name: torch.rand(t.shape, generator=self.generator) * 2e-3 for name, t in self.static.items()}
        )
        self.names = tuple(self.static)
        self.rms = uniform_rule("rms", self.names, LR, DECAY, (self.statistics, EPSILON))

    def rms_of(self, kind: str) -> Rule:
        """Return rms, of the softmax layer and biases alone or with updates held outside the weights, as ``kind`` says.

        Random text uses all places that the rows have.
        """
        rule, matrix = self.rms, self.model.factored_tensor
        if "softmax" in kind:
            rule = rule.of([name for name in self.names if name == matrix or name.endswith("bias")])
        if kind.endswith("merged"):
            return MergedRule(rule, matrix, MERGE_EVERY, self.segment)
        if kind.endswith("used-rows"):
            shape = self.static[matrix].shape
            return UsedRowsRule(rule, matrix, (shape[0], shape[1]), USED_ROWS)
        return rule

    def text(self, lanes: int, segments: int = 1) -> Segment:
        shape = (2, lanes, segments * self.segment)
        inputs_BT, targets_BT = torch.randint(self.model.vocab_size, shape, generator=self.generator).numpy()
        goes_on, positions = np.zeros(lanes, dtype=bool), np.zeros((lanes, 2), dtype=np.int64)
        mask_BT = np.ones(inputs_BT.shape, dtype=bool)
        return Segment(inputs_BT, targets_BT, mask_BT, goes_on, goes_on, positions)

    def meta(self, kind: str) -> LearnedRule:
        """Return g with rates of each tensor alone, or with all features and resets, and slow weights if asked for."""
        if not kind.endswith("gated"):
            return LearnedRule(self.statistics, self.static, LR, DECAY, EPSILON)
        g = LearnedRuleOptions(features=[*FEATURES], importance=True, boundary_reset=True, slow="slow" in kind)
        return LearnedRule(self.statistics, self.static, LR, DECAY, EPSILON, g, self.model.output_tensor(self.names))

    def phi(self, meta: LearnedRule) -> Params:
        """Return a phi without zeros."""
        return {
            key: torch.full_like(tensor, 0.1) * (1 + torch.arange(len(tensor)).view(-1, *(1,) * (tensor.dim() - 1)))
            for key, tensor in meta.initial().items()
        }

    def straightforward(self) -> StraightforwardReader:
        return StraightforwardReader(self.model, self.static, self.statistics.rms, LR, DECAY, EPSILON)

    def dynamic_model(self, rule: Rule, native: bool = False) -> DynamicModel:
        engine = engine_for(self.model, EngineSettings(native=native))
        return DynamicModel(engine, self.static, rule, rule.tensors)


def read_observed(dynamic_model: DynamicModel, memory: Memory, text: Segment, observe: Sensitivities | None) -> Memory:
    """Read a segment, with the meta-gradients that ``observe`` carries along, as meta-training does."""
    if observe is not None:
        observe.begin_segment(dynamic_model, memory, text)
    nats_BT, memory = read_segment(dynamic_model, memory, text, observe)
    if observe is not None:
        observe.end_segment(nats_BT, text, np.zeros(len(nats_BT), dtype=bool))
    return memory


def call_of(setting: Setting, kind: str, lanes: int, native: bool) -> tuple[Callable[[], object], dict[str, Any]]:
    """Return a function that reads the next segment, or ``segments`` of them, and facts about it."""
    # Repeated text would be memorised, and arithmetic on denormal gradients is slow.
    texts = itertools.cycle([setting.text(lanes) for _ in range(2000)])
    about: dict[str, Any] = {"segments": 1}
    if kind == "straightforward":
        reading = setting.straightforward()

        def read() -> None:
            text = next(texts)
            reading.read(torch.from_numpy(text.inputs_BT), torch.from_numpy(text.targets_BT))

        return read, about
    meta = setting.meta(kind)
    phi = setting.phi(meta)
    rule = meta.rule(phi) if kind.startswith("meta") else LEVEL_1 if kind == "level-1" else setting.rms_of(kind)
    dynamic_model = setting.dynamic_model(rule, native)
    if kind == "level-1" and lanes == 1:  # As an evaluation reads it.
        about["segments"] = dynamic_model.engine.tokens_at_once(setting.static, setting.segment) // setting.segment
        texts = itertools.cycle([setting.text(lanes, about["segments"]) for _ in range(100)])
    memory = [dynamic_model.fresh_memory(lanes)]
    training = kind.startswith("meta-training")
    observe = Sensitivities(meta, phi, dynamic_model, memory[0]) if training else None

    def call() -> None:
        memory[0] = read_observed(dynamic_model, memory[0], next(texts), observe)

    call()
    return call, about | {"held_bytes": num_bytes(memory[0]) + dynamic_model.engine.scratch.bytes()}


def timed(kind: str, lanes: int = 1, native: bool = False, seconds: float = 2.0, config: str = "") -> dict[str, Any]:
    """Time a kind in its own process."""
    return _started(kind, lanes, native, seconds, config, threads=None)()


def timed_in_processes(
    kind: str, processes: int, lanes: int, native: bool, seconds: float, config: str
) -> dict[str, Any]:
    """Time several processes at once, one thread each; the time is that of one segment of all their lanes."""
    running = [_started(kind, lanes, native, seconds, config, threads=1) for _ in range(processes)]
    found = [wait() for wait in running]
    return {**found[0], "seconds": sum(one["seconds"] for one in found) / processes}


def _started(
    kind: str, lanes: int, native: bool, seconds: float, config: str, threads: int | None
) -> Callable[[], dict[str, Any]]:
    words = [sys.executable, "-m", "benchmarks.kinds", kind, "--lanes", str(lanes), "--seconds", str(seconds)]
    words += ["--config", config, *(["--native"] if native else [])]
    words += ["--threads", str(threads)] if threads else []
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def wait() -> dict[str, Any]:
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{' '.join(words)} ended with {process.returncode}")
        return json.loads(out)

    return wait


def largest_difference(setting: Setting, native: bool, segments: int = 60) -> float:
    """Return the largest difference of a token's loss from the straightforward reading, over ``segments`` segments."""
    slow, dynamic_model = setting.straightforward(), setting.dynamic_model(setting.rms, native)
    memory, largest = dynamic_model.fresh_memory(), 0.0
    for _ in range(segments):
        text = setting.text(1)
        wanted_BT = slow.read(torch.from_numpy(text.inputs_BT), torch.from_numpy(text.targets_BT))
        nats_BT, memory = read_segment(dynamic_model, memory, text)
        largest = max(largest, float((nats_BT - wanted_BT).abs().max()))
    return largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--native", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--segments", type=int, help="read this many segments without timing")
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    setting = Setting(options.config)
    if options.kind == "difference":
        print(json.dumps({"largest_difference": largest_difference(setting, options.native)}))
        return
    call, about = call_of(setting, options.kind, options.lanes, options.native)
    for _ in range(20 if options.segments is None else options.segments):
        call()
    early = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if options.segments is None:
        about["seconds"] = median_time(call, options.seconds) / about["segments"]
        about["peak_grew_bytes"] = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - early)
    print(json.dumps(about))


if __name__ == "__main__":
    main()
