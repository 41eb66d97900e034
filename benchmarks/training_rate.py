"""Level-1 training compared with the machine's matrix-product rate.

    python -m benchmarks.training_rate [--config configs/wikitext-2-small.yaml] [--seconds 20]

Counts the operations of the matrix products that a token needs (forward, and twice as many backward), and prints what
share of the measured rate of a large float32 product they are done at, optimiser and weight drop and all. Random
tokens, real shapes. Time nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.bound import training_cost
from benchmarks.machine import measure_machine, median_time
from dynlm.cli.config_files import load_options
from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.models.lstm.regularisers import Regularisers
from dynlm.runtime.tree import detach
from dynlm.train.config import Config
from dynlm.train.optimizers import Optimiser


def training_step(config: Config, precision: torch.dtype | None = None) -> Callable[[], float]:
    """Return a step of level-1 training on its next batch; it returns the sum of nats and penalties.

    ``precision``: that of autocast, as ``run.precision`` has it; none where None.
    """
    training = config.pretrain
    generator = torch.Generator().manual_seed(0)
    model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
    params = {name: tensor.requires_grad_() for name, tensor in model.init_params(generator).items()}
    regularised = model.regularised(Regularisers(config.regularisation, generator))
    optimiser = Optimiser(params, training)
    shape = (training.lanes, training.segment)
    share_BT = torch.ones(shape)
    state = [model.init_state(training.lanes, next(iter(params.values())).detach())]

    def step() -> float:
        inputs_BT, targets_BT = torch.randint(model.vocab_size, (2, *shape), generator=generator)
        with torch.autocast("cpu", precision, enabled=precision is not None):
            total, _, hidden = regularised.loss(params, state[0], inputs_BT, targets_BT, share_BT, share_BT.numel())
        total.backward()
        state[0] = detach(hidden)
        for tensor in params.values():
            assert tensor.grad is not None
            tensor.grad /= share_BT.numel()
        torch.nn.utils.clip_grad_norm_(list(params.values()), training.clip)
        optimiser.step(1e-4)
        return float(total.detach())

    return step


def measure(config_path: str = "configs/wikitext-2-small.yaml", seconds: float = 20.0) -> dict[str, float]:
    """Return tokens a second and the median time of a step with optimiser and weight drop."""
    config = load_options(config_path, Config)
    model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
    tokens = config.pretrain.lanes * config.pretrain.segment
    took = median_time(training_step(config), seconds)
    return {
        "step_seconds": took,
        "tokens_a_second": tokens / took,
        "operations_a_second": training_cost(model, tokens).operations / took,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    found, machine = measure(options.config, options.seconds), measure_machine()
    print(machine)
    print(
        f"{found['tokens_a_second']:,.0f} tokens/s ({found['step_seconds'] * 1e3:.1f} ms a step): "
        f"{found['operations_a_second'] / machine.product_rate:.1%} of the rate of a large matrix product"
    )


if __name__ == "__main__":
    main()
