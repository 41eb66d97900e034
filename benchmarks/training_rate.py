"""How close level-1 training comes to the machine's matrix-product rate.

    python benchmarks/training_rate.py [--config configs/wikitext-2-small.yaml] [--seconds 20]

Counts the operations of the matrix products that a token needs (forward, and twice as many backward), and prints what
share of the measured rate of a large float32 product they are done at, optimiser and all. Random tokens, real shapes.
Time nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from dynlm.cli import load_config
from dynlm.model.lstm import LSTMLanguageModel, detached
from dynlm.model.regularisers import Regularisers
from dynlm.training.optimisers import Optimiser


def matrix_product_rate(seconds: float = 3.0, size: int = 2048) -> float:
    """The best rate of a large float32 matrix product, in operations a second."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = a @ b
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - begun))
    return best


def operations_a_token(model: LSTMLanguageModel) -> int:
    """Operations of all matrix products of forward and backward: six for each weight that multiplies."""
    multiplying = sum(4 * out * (wide + out) for wide, out in model.widths())
    return 6 * (multiplying + model.vocabulary * model.widths()[-1][1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    config = load_config(options.config)
    training = config.pretrain
    generator = torch.Generator().manual_seed(0)
    model = LSTMLanguageModel(config.model, config.tokenizer.vocab_size)
    params = {name: tensor.requires_grad_() for name, tensor in model.initial_params(generator).items()}
    regularisers = Regularisers(config.regularisation, generator)
    optimiser = Optimiser(params, training)
    shape = (training.lanes, training.segment)
    share_BT = torch.ones(shape)
    hidden = model.initial_hidden(training.lanes, params["embedding"].detach())
    times: list[float] = []
    end = time.perf_counter() + options.seconds
    while time.perf_counter() < end or len(times) < 8:
        inputs_BT, targets_BT = torch.randint(model.vocabulary, (2, *shape), generator=generator)
        begun = time.perf_counter()
        total, _, hidden = model.loss(params, inputs_BT, targets_BT, share_BT, hidden, regularisers)
        total.backward()
        hidden = detached(hidden)
        for tensor in params.values():
            assert tensor.grad is not None
            tensor.grad /= share_BT.numel()
        torch.nn.utils.clip_grad_norm_(list(params.values()), training.clip)
        optimiser.step(1e-4)
        times.append(time.perf_counter() - begun)
    rate = matrix_product_rate()
    step = statistics.median(times[3:])
    tokens = share_BT.numel() / step
    result = {
        "threads": torch.get_num_threads(),
        "matrix_product_gflops": round(rate / 1e9, 1),
        "operations_a_token": operations_a_token(model),
        "step_ms": round(step * 1e3, 1),
        "tokens_a_second": round(tokens),
        "share_of_matrix_product_rate": round(tokens * operations_a_token(model) / rate, 3),
    }
    if options.json:
        print(json.dumps(result))
    else:
        print(
            f"{result['tokens_a_second']:,} tokens/s ({result['step_ms']} ms a step of {share_BT.numel()} tokens, "
            f"{result['threads']} threads): {result['share_of_matrix_product_rate']:.1%} of the "
            f"{result['matrix_product_gflops']} GFLOP/s of a large matrix product"
        )


if __name__ == "__main__":
    main()
