"""All speeds of dynlm in one run, each beside the bound of the machine and the result of the last run.

    python -m benchmarks [--config configs/wikitext-2-small.yaml] [--out runs/benchmarks.json] [--only reading]

Writes JSON, with which the next run compares. Run nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import example_training, parts, startup, tokenising, training_rate
from benchmarks.bound import Cost, learning_cost, level_1_cost
from benchmarks.kinds import timed, timed_in_processes
from benchmarks.machine import Machine, measure_machine
from dynlm.cli.config_files import load_options
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.runtime.parsing import read_json, write_json
from dynlm.train.config import Config

LANES, LEVEL_1_LANES = 16, 32


@dataclass(frozen=True)
class Row:
    """One figure; ``of_bound`` is its share of the bound, ``note`` a comparison."""

    name: str
    value: float
    unit: str
    of_bound: float | None = None
    note: str = ""


class Readings:
    """Times of the ways to read, measured in turn, so that a slow phase of the machine affects all of them."""

    def __init__(self, config_path: str, rounds: int, seconds: float):
        config = load_options(config_path, Config)
        self.model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
        self.segment, self.path, self.seconds = config.memory.segment, config_path, seconds
        self.rounds = rounds

    def measure(self, machine: Machine) -> list[Row]:
        kinds = {
            "straightforward": ("straightforward", 1, False, 1),
            "rms": ("rms", 1, False, 1),
            "rms, merged": ("rms-merged", 1, False, 1),
            "rms, used rows": ("rms-softmax-used-rows", 1, False, 1),
            "meta": ("meta", 1, False, 1),
            "meta-training": ("meta-training", 1, False, 1),
            f"rms, {LANES} lanes": ("rms", LANES, False, 1),
            f"rms, {LANES} lanes in 2 processes": ("rms", LANES, False, 2),
            f"rms, merged, {LANES} lanes": ("rms-merged", LANES, False, 1),
            f"rms, used rows, {LANES} lanes": ("rms-softmax-used-rows", LANES, False, 1),
            "rms, native": ("rms", 1, True, 1),
            "rms, merged, native": ("rms-merged", 1, True, 1),
            "rms, used rows, native": ("rms-softmax-used-rows", 1, True, 1),
            "meta-training, native": ("meta-training", 1, True, 1),
            f"rms, {LANES} lanes, native": ("rms", LANES, True, 1),
            f"rms, {LANES} lanes in 2 processes, native": ("rms", LANES, True, 2),
            f"rms, used rows, {LANES} lanes, native": ("rms-softmax-used-rows", LANES, True, 1),
            "level 1": ("level-1", 1, False, 1),
            "level 1, native": ("level-1", 1, True, 1),
            f"level 1, {LEVEL_1_LANES} lanes": ("level-1", LEVEL_1_LANES, False, 1),
        }
        if not _can_compile():
            kinds = {name: kind for name, kind in kinds.items() if not kind[2]}
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
        for _ in range(self.rounds):
            for name, (kind, lanes, native, processes) in kinds.items():
                found[name].append(self._once(kind, lanes, native, processes))
        seconds = {name: statistics.median(one["seconds"] for one in of_kind) for name, of_kind in found.items()}
        rows = []
        for name, (kind, lanes, _, _) in kinds.items():
            tokens_a_second = lanes * self.segment / seconds[name]
            least = None if kind == "straightforward" else self._cost(kind, lanes).least_seconds(machine)
            share = None if least is None else least / seconds[name]
            rows.append(Row(name, tokens_a_second, "tokens/s", share, self._note(name, lanes, seconds, found)))
        for native in (False, True) if _can_compile() else (False,):
            name = f"largest difference of a loss from the straightforward's{', native' if native else ''}"
            rows.append(Row(name, timed("difference", 1, native, 0, self.path)["largest_difference"], "nats"))
        return rows

    def _once(self, kind: str, lanes: int, native: bool, processes: int) -> dict[str, Any]:
        if processes > 1:
            each = lanes // processes
            return timed_in_processes(kind, processes, each, native, self.seconds, self.path)
        return timed(kind, lanes, native, self.seconds, self.path)

    def _cost(self, kind: str, lanes: int) -> Cost:
        if kind == "level-1":
            return level_1_cost(self.model, lanes, self.segment)
        return learning_cost(self.model, lanes, self.segment, sensitivities=kind == "meta-training")

    def _note(self, name: str, lanes: int, seconds: dict[str, float], found: dict[str, list[dict[str, Any]]]) -> str:
        native = ", native" if name.endswith(", native") else ""
        rms = seconds[f"rms{native}"]
        if name.removesuffix(native) in ("rms", "rms, merged", "rms, used rows"):
            return f"{seconds['straightforward'] / seconds[name]:.2f} times the straightforward"
        if name.startswith("meta"):
            grew = max(one["peak_grew_bytes"] for one in found[name]) / 1e6
            return f"{seconds[name] / rms:.2f} times the time of rms{native}; memory grew by {grew:.1f} MB"
        if name.startswith("rms"):
            one = found[name][0]
            share = lanes // (2 if "processes" in name else 1)
            held = one["held_bytes"] / share / 1e6
            faster = lanes * rms / seconds[name]
            return f"{faster:.2f} times one lane{native}; a lane takes {held:.2f} MB"
        return ""


def _can_compile() -> bool:
    from dynlm.errors import UserError
    from dynlm.models.native import native_kernels

    try:
        native_kernels()
    except UserError as error:
        print(f"without native kernels: {error}")
        return False
    return True


def part_rows(config_path: str) -> list[Row]:
    """Return the time of each part of a segment, on one thread and on all, beside that many threads' own rates."""
    rows = []
    for threads in sorted({1, torch.get_num_threads()}):
        for native in (False, True) if _can_compile() else (False,):
            label = f"rms, {threads} thread{'s' * (threads > 1)}{', native' * native}"
            found = parts.measure(config_path, threads, native)["parts"]
            total = sum(one["seconds"] for one in found)
            for one in sorted(found, key=lambda one: -one["seconds"]):
                bound = one["bound_seconds"]
                share = None if bound is None else bound / one["seconds"]
                rows.append(Row(f"{label}: {one['part']}", 1e3 * one["seconds"], "ms a segment", share))
            rows.append(Row(f"{label}: all parts", 1e3 * total, "ms a segment"))
    return rows


def training_rows(machine: Machine, config_path: str) -> list[Row]:
    found = training_rate.measure(config_path)
    share = found["operations_a_second"] / machine.product_rate
    beside = example_training.measure(config_path)
    rows = [Row("level-1 training", found["tokens_a_second"], "tokens/s", share, "of the product rate alone")]
    rows.append(Row("level-1 training, PyTorch's example", beside["example_tokens_a_second"], "tokens/s"))
    for name, label in (("dynlm", "in turns with it"), ("dynlm_bf16", "in turns with it, bf16")):
        note = f"{beside[f'{name}_times_the_example']:.2f} times the example"
        rows.append(Row(f"level-1 training, {label}", beside[f"{name}_tokens_a_second"], "tokens/s", note=note))
    return rows


def tokenising_rows() -> list[Row]:
    found = tokenising.measure()
    return [
        Row(f"tokenising, {kind}, num_proc {n}", found[f"{kind}_{n}_processes_mb_a_second_a_core"], "MB/s a core")
        for kind in tokenising.KINDS
        for n in tokenising.PROCESSES
    ]


def startup_rows(config_path: str) -> list[Row]:
    found = startup.measure(config_path)
    return [
        Row("dynlm score, to its first token", found["score_seconds"], "s"),
        Row("of which importing torch", found["torch_import_seconds"], "s"),
    ]


def table(rows: list[Row], before: dict[str, Any]) -> str:
    """Return aligned text; the last column is the change since the last run."""
    known = {row["name"]: row["value"] for row in before.get("rows", [])}
    lines = [f"{'':58}{'':>12} {'':12}{'of bound':>9}{'last run':>10}"]
    for row in rows:
        value = f"{row.value:,.0f}" if row.value >= 100 else f"{row.value:.3g}"
        share = "" if row.of_bound is None else f"{row.of_bound:.0%}"
        change = f"{row.value / known[row.name] - 1:+.0%}" if known.get(row.name) else ""
        lines.append(f"{row.name:58}{value:>12} {row.unit:12}{share:>9}{change:>10}")
        if row.note:
            lines.append(f"  {row.note}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks.json"))
    parser.add_argument("--only", choices=["reading", "parts", "training", "tokenising", "startup"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way to read, in each round")
    options = parser.parse_args()
    before = read_json(options.out) if options.out.exists() else {}
    machine = measure_machine()
    groups: dict[str, Callable[[], list[Row]]] = {
        "reading": lambda: Readings(options.config, options.rounds, options.seconds).measure(machine),
        "parts": lambda: part_rows(options.config),
        "training": lambda: training_rows(machine, options.config),
        "tokenising": tokenising_rows,
        "startup": lambda: startup_rows(options.config),
    }
    rows = [row for name, group in groups.items() if options.only in (None, name) for row in group()]
    print(machine)
    print(table(rows, before))
    content = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": {**asdict(machine), "processor": platform.processor() or platform.machine()},
        "torch": torch.__version__,
        "config": options.config,
        "rows": [asdict(row) for row in rows],
    }
    write_json(options.out, content)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
