"""Level-1 training beside PyTorch's `word_language_model` example, on as many tokens of the same shapes.

    python -m benchmarks.example_training [--config configs/wikitext-2-small.yaml] [--seconds 20] [--json]

The example is written anew after github.com/pytorch/examples: `nn.Embedding`, `nn.LSTM` and a tied `nn.Linear` with
dropout, a log-softmax over all logits, gradients clipped and plain SGD. `dynlm` trains with all that the config asks
for: dropout and weight drop, AdamW; in bfloat16 too, as `run.precision bf16` has it. All have one size, batch and
length, and random tokens; they are timed by turns in one process. Run nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import side_by_side
from benchmarks.training_rate import training_step
from dynlm.cli.config_files import load_options
from dynlm.train.config import Config

DROPOUT, CLIP, LR = 0.2, 0.25, 20.0
"""The example's own defaults."""


class ExampleModel(nn.Module):
    """The example's LSTM language model with tied embeddings; gives log probabilities (T * B, V)."""

    def __init__(self, vocab_size: int, width: int, layers: int):
        super().__init__()
        self.dropout, self.embedding = nn.Dropout(DROPOUT), nn.Embedding(vocab_size, width)
        self.lstm = nn.LSTM(width, width, layers, dropout=DROPOUT if layers > 1 else 0.0)
        self.output = nn.Linear(width, vocab_size)
        self.output.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.output.bias)

    def forward(self, inputs_TB: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x_TBH, state = self.lstm(self.dropout(self.embedding(inputs_TB)), state)
        return F.log_softmax(self.output(self.dropout(x_TBH)).flatten(0, 1), dim=1), state


def example_step(config: Config) -> Callable[[], float]:
    """Return a step of the example's training on its next batch; it returns the loss, in nats per token."""
    options, training, vocab_size = config.model, config.pretrain, config.tokenizer.vocab_size
    torch.manual_seed(0)
    model = ExampleModel(vocab_size, options.embedding, options.layers)
    generator, loss_of = torch.Generator().manual_seed(0), nn.NLLLoss()
    zeros = torch.zeros(options.layers, training.lanes, options.embedding)
    state = [(zeros, zeros)]

    def step() -> float:
        inputs_TB, targets_TB = torch.randint(vocab_size, (2, training.segment, training.lanes), generator=generator)
        model.zero_grad()
        h, c = state[0]
        log_probabilities_NV, state[0] = model(inputs_TB, (h.detach(), c.detach()))
        loss = loss_of(log_probabilities_NV, targets_TB.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-LR)
        return loss.item()

    return step


def measure(config_path: str = "configs/wikitext-2-small.yaml", seconds: float = 20.0) -> dict[str, float]:
    """Return tokens a second of each, and how many times as fast as the example dynlm is.

    Raises ValueError for a model that the example has no form of.
    """
    config = load_options(config_path, Config)
    if not config.model.tied or config.model.hidden != config.model.embedding:
        raise ValueError(f"{config_path}: the example ties an embedding and an output layer of one width")
    calls = {
        "example": example_step(config),
        "dynlm": training_step(config),
        "dynlm_bf16": training_step(config, torch.bfloat16),
    }
    medians = side_by_side(calls, seconds, burst=4)
    tokens = config.pretrain.lanes * config.pretrain.segment
    found = {f"{name}_tokens_a_second": tokens / median for name, median in medians.items()}
    return found | {f"{name}_times_the_example": medians["example"] / medians[name] for name in list(calls)[1:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/wikitext-2-small.yaml")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.config, options.seconds)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{torch.get_num_threads()} thread(s); the example: {found['example_tokens_a_second']:,.0f} tokens/s")
    for name in ("dynlm", "dynlm_bf16"):
        speed, times = found[f"{name}_tokens_a_second"], found[f"{name}_times_the_example"]
        print(f"  {name:12}{speed:10,.0f} tokens/s, {times:.2f} times the example's")


if __name__ == "__main__":
    main()
