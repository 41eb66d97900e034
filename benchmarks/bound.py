"""A lower bound of the time to read a segment on this machine, from its operations and its memory traffic.

    python -m benchmarks.bound [--config configs/wikitext-2-small.yaml]

Operations are those of the matrix products, at the rate of a large product; bytes are those that have to cross the
memory bus, at the rate of a large copy; the two are added, as if they never overlapped. On a machine whose caches hold
the weights a benchmark may exceed 100 %.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from benchmarks.machine import Machine, measure_machine
from dynlm.cli.config_files import load_options
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.train.config import Config

_FLOAT = 4


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of a segment of all lanes."""

    operations: float
    moved_bytes: float

    def least_seconds(self, machine: Machine) -> float:
        return self.operations / machine.product_rate + self.moved_bytes / machine.copy_rate


def multiplying_weights(model: LSTMLanguageModel) -> int:
    """Return the number of weights in the LSTM's matrices and the output layer, with which each token is multiplied."""
    return sum(4 * out * (wide + out) for wide, out in model.widths()) + model.vocab_size * model.widths()[-1][1]


def weights(model: LSTMLanguageModel) -> int:
    """All weights."""
    return sum(math.prod(shape) for shape in model.shapes().values())


def level_1_cost(model: LSTMLanguageModel, lanes: int, tokens: int) -> Cost:
    """The forward pass: two operations for each token and weight; the weights are read once for all lanes."""
    return Cost(2 * multiplying_weights(model) * tokens * lanes, _FLOAT * weights(model))


def learning_cost(model: LSTMLanguageModel, lanes: int, tokens: int, sensitivities: bool = False) -> Cost:
    """Forward, backward and update, in lanes with weights of their own.

    Three products of two operations for each token and weight. Of each lane the forward and the backward pass read the
    weights, the backward pass writes the gradient, the update reads gradient and weights and writes weights: six
    passes. theta_0 and the statistics R are read once for all lanes. The sensitivities of meta-training are read and
    written too.
    """
    passes = lanes * (6 + 2 * sensitivities) + 2
    return Cost(6 * multiplying_weights(model) * tokens * lanes, passes * _FLOAT * weights(model))


def training_cost(model: LSTMLanguageModel, tokens: int) -> Cost:
    """A batch of level-1 training: its matrix products alone."""
    return Cost(6 * multiplying_weights(model) * tokens, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    config = load_options(parser.parse_args().config, Config)
    model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
    machine, tokens = measure_machine(), config.memory.segment
    print(machine)
    print(f"{weights(model):,} weights, {multiplying_weights(model):,} of them multiply; segments of {tokens} tokens")
    kinds = {
        "level 1, 1 lane": (1, level_1_cost(model, 1, tokens)),
        "level 1, 16 lanes": (16, level_1_cost(model, 16, tokens)),
        "rms, 1 lane": (1, learning_cost(model, 1, tokens)),
        "rms, 16 lanes": (16, learning_cost(model, 16, tokens)),
        "meta-training, 1 lane": (1, learning_cost(model, 1, tokens, sensitivities=True)),
    }
    for name, (lanes, cost) in kinds.items():
        least = cost.least_seconds(machine)
        print(
            f"{name:24}{cost.operations / 1e9:8.3f} GFLOP{cost.moved_bytes / 1e6:9.1f} MB   at least "
            f"{least * 1e3:7.3f} ms, at most {lanes * tokens / least:10,.0f} tokens/s"
        )


if __name__ == "__main__":
    main()
