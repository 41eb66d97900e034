"""Memory of a meta-gradient against its horizon: forward sensitivities beside the unrolls of reverse mode.

`python -m benchmarks.horizon [--out FILE.png]`: each measurement in its own process, the peak above the memory before
the first segment. Random weights and text, in the shape of configs/wikitext-2-small.yaml.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from benchmarks.kinds import Setting, read_observed
from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.options import FEATURES
from dynlm.data.stream import read_in_order
from dynlm.data.tokenised_split import TokenisedSplit, Tokens
from tests.adapt.meta_gradient.reverse import unrolled_meta_gradient

WAYS = {"forward": "forward, exact to first order", "first": "unroll, first order", "second": "unroll, second order"}
HORIZONS = (1, 2, 4, 8, 16, 32)


def text_of(setting: Setting, segments: int) -> TokenisedSplit:
    count = segments * setting.segment
    ids = np.random.default_rng(0).integers(0, setting.model.vocab_size, count).astype(np.int32)
    ones, text = np.ones(count, dtype=np.int32), np.zeros(count, dtype=np.uint8)
    tokens = Tokens(ids, ones, ones.astype(np.int16), np.zeros(0, dtype=np.int64), text, np.array([count]))
    return TokenisedSplit.from_tokens(tokens, ["made up"], 0)


def peak_megabytes(way: str, segments: int, config: str) -> float:
    """Return the peak memory of this process above that after setting up."""
    setting = Setting(config)
    meta = setting.meta("meta-gated")
    phi = setting.phi(meta)
    dynamic_model = setting.dynamic_model(meta.rule(phi))
    stream = read_in_order(text_of(setting, segments + 1), setting.segment, [0])
    memory, position = dynamic_model.fresh_memory(), stream.begin()
    sensitivities = Sensitivities(meta, phi, dynamic_model, memory)
    assert len(meta.g.features) == len(FEATURES)
    begun = _held()
    if way != "forward":
        unrolled_meta_gradient(dynamic_model, meta, phi, stream, segments, second_order=way == "second")
        return _peak() - begun
    for _ in range(segments):
        segment, position = stream.next(position)
        assert segment is not None
        memory = read_observed(dynamic_model, memory, segment, sensitivities)
    return _peak() - begun


def _held() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def measured(way: str, segments: int, config: str) -> float:
    """Measure it in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.horizon", "--way", way, "--segments", str(segments), "--config", config]
    return float(json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--way", choices=list(WAYS))
    parser.add_argument("--segments", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a picture of it")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(peak_megabytes(options.way, options.segments, options.config)))
        return
    table = {way: [measured(way, horizon, options.config) for horizon in HORIZONS] for way in WAYS}
    print(f"{'MB, segments:':32}" + "".join(f"{horizon:>8}" for horizon in HORIZONS))
    for way, told in WAYS.items():
        print(f"{told:32}" + "".join(f"{megabytes:8.0f}" for megabytes in table[way]))
    if options.out:
        draw(table, options.out)


def draw(table: dict[str, list[float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for (way, told), colour, marker in zip(WAYS.items(), ("#0072b2", "#d55e00", "#009e73"), "osD", strict=True):
        axes.plot(HORIZONS, table[way], marker=marker, color=colour, label=told)
    axes.set_xscale("log", base=2)
    axes.set_xticks(HORIZONS, [str(horizon) for horizon in HORIZONS])
    axes.set_yscale("log")
    axes.set_xlabel("horizon (segments of 20 tokens)")
    axes.set_ylabel("memory (MB)")
    axes.set_title("Forward meta-gradients take the same memory at any horizon", loc="left")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
