"""Estimated cost of large corpora on 1, 8 and 64 GPUs, from measurements on this machine: the table of docs/scaling.md.

    python -m benchmarks.scaling [--measured runs/benchmarks.json] [--config configs/wikitext-103.yaml]

No GPU was measured. Its data sheet gives its rates; the shares of a machine's rates that training, scoring and reading
reach are those of the measured file. `GPU`, `CORPORA` and what is assumed of networks stand below, to be changed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bound import Cost, learning_cost, level_1_cost, training_cost, weights
from benchmarks.machine import Machine
from dynlm.cli.config_files import load_options
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.runtime.parsing import read_json
from dynlm.train.config import Config

GPU = Machine(threads=0, product_rate=312e12, copy_rate=2.0e12)
"""NVIDIA A100 80 GB SXM, by its data sheet: dense bf16 products with float32 sums; HBM2e."""
GPU_BYTES = 80e9
GPUS_A_NODE, IN_NODE_RATE, BETWEEN_NODES_RATE = 8, 300e9, 25e9
"""Bytes a second of an all-reduce's slowest link: NVLink one way, and a 200 Gbit/s network card."""
LANES = 256
"""Articles side by side on each GPU."""


@dataclass(frozen=True)
class Text:
    """A corpus: bytes of UTF-8, and how often level-1 training reads it."""

    name: str
    text_bytes: float
    epochs: float


CORPORA = (Text("WikiText-103", 0.54e9, 10), Text("English Wikipedia (20231101.en)", 20.2e9, 1))
BYTES_A_TOKEN = 4.3
"""Of English under some 16,000 pieces; WikiText-2 has 3.6 under 6,000 (measured)."""


def all_reduce_seconds(moved_bytes: float, gpus: int) -> float:
    """A ring's time: each link carries the tensor nearly twice."""
    if gpus == 1:
        return 0.0
    rate = IN_NODE_RATE if gpus <= GPUS_A_NODE else BETWEEN_NODES_RATE
    return 2 * (gpus - 1) / gpus * moved_bytes / rate


def human(seconds: float) -> str:
    """Two digits and a unit."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}" if seconds < 99 * size else f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.2g} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path("runs/benchmarks.json"))
    parser.add_argument("--config", default="configs/wikitext-103.yaml")
    options = parser.parse_args()
    rows = {row["name"]: row for row in read_json(options.measured)["rows"]}
    config = load_options(options.config, Config)
    model, segment = LSTMLanguageModel(config.model, config.tokenizer.vocab_size), config.memory.segment
    lane_bytes = 4 * weights(model)
    training, level_1, reading = (
        rows[name]["of_bound"] for name in ("level-1 training", "level 1, 32 lanes", "rms, 16 lanes")
    )
    meta = rows["meta-training"]["value"] / rows["rms"]["value"]
    print(f"{weights(model):,} weights; a lane's own weights {lane_bytes / 1e6:.0f} MB, so that {LANES} lanes take")
    print(f"{LANES * lane_bytes / 1e9:.0f} of a GPU's {GPU_BYTES / 1e9:.0f} GB. Shares of the bound, as measured:")
    print(f"training {training:.0%}, level 1 {level_1:.0%}, reading {reading:.0%}.")

    def each_token(cost: Cost, share: float, lanes: int) -> float:
        return cost.least_seconds(GPU) / share / (lanes * segment)

    reading_cost = learning_cost(model, LANES, segment)
    print(f"Of reading's least time {reading_cost.moved_bytes / GPU.copy_rate / reading_cost.least_seconds(GPU):.0%}")
    print("is moving weights.\n")
    print("| | 1 GPU | 8 GPUs | 64 GPUs |\n|---|---:|---:|---:|")
    for text in CORPORA:
        tokens = text.text_bytes / BYTES_A_TOKEN
        print(f"| **{text.name}**, {tokens / 1e6:,.0f} M tokens | | | |")
        batch = config.pretrain.lanes * config.pretrain.segment
        steps = text.epochs * tokens / batch
        step = training_cost(model, batch).least_seconds(GPU) / training
        times = {
            f"level-1 training, {text.epochs:g} epoch{'s' if text.epochs > 1 else ''}": [
                steps * (step / n + all_reduce_seconds(lane_bytes, n)) for n in (1, 8, 64)
            ],
            "of which adding up gradients": [steps * all_reduce_seconds(lane_bytes, n) for n in (1, 8, 64)],
            "scoring at level 1": [
                tokens * each_token(level_1_cost(model, LANES, segment), level_1, LANES) / n for n in (1, 8, 64)
            ],
            f"reading with rms, article policy, {LANES} lanes a GPU": [
                tokens * each_token(reading_cost, reading, LANES) / n for n in (1, 8, 64)
            ],
            "meta-training on as many tokens": [
                tokens * each_token(reading_cost, reading, LANES) / meta / n for n in (1, 8, 64)
            ],
            "reading as one stream (cannot be shared)": [
                tokens * each_token(learning_cost(model, 1, segment), reading, 1) for n in (1, 8, 64)
            ],
        }
        for name, seconds in times.items():
            print(f"| {name} | {' | '.join(human(value) if value else '-' for value in seconds)} |")
    rate = rows["tokenising, bpe, num_proc 1"]["value"]
    print(
        "\nTokenising on one core, as measured: "
        + "; ".join(f"{text.name} {human(text.text_bytes / 1e6 / rate)}" for text in CORPORA)
    )


if __name__ == "__main__":
    main()
