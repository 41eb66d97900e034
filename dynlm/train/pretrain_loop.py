"""The training loop of level 1, whose state between two steps is what a checkpoint holds.

Legend: B lanes, T tokens of a segment.

Gradients are of summed nats and divided once by the tokens they were summed over, so that accumulation and several
processes give the step that one batch with all their tokens would give.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from dynlm.data.stream import Stream, StreamPosition, to_batch
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.models.lstm.regularisers import Regularisers
from dynlm.models.protocol import SequenceModel
from dynlm.runtime.checkpoints import LANES, Checkpointer, State
from dynlm.runtime.distributed import Processes
from dynlm.runtime.perplexity import perplexity
from dynlm.runtime.tree import detach, leaves
from dynlm.train.config import Config
from dynlm.train.optimizers import Optimiser, lr_at
from dynlm.train.outer_loop import shared_stream
from dynlm.types import Params

_HIDDEN = f"{LANES}hidden"


@torch.no_grad()
def validate(
    model: SequenceModel, params: Params, split: TokenisedSplit, tokens: int, lanes: int = 8, width: int = 128
) -> tuple[float, int]:
    """Return level 1's sum of nats over about the first ``tokens`` tokens (0: all), and the number of tokens read.

    Articles are independent at level 1, so reading several at once changes losses by rounding only.
    """
    stream = Stream(split, lanes, width, range(split.articles))
    like = next(iter(params.values()))
    position, hidden = stream.begin(), model.init_state(lanes, like)
    nats = torch.zeros((), dtype=torch.float64, device=like.device)
    while True:
        segment, position = stream.next(position)
        if segment is None:
            break
        batch = to_batch(segment, like)
        hidden = model.reset_state(hidden, batch.starts_B, like)
        total, _, hidden = model.loss(params, hidden, batch.inputs_BT, batch.targets_BT, batch.mask_BT)
        nats += total
        if tokens and position.tokens >= tokens:
            break
    return float(nats), position.tokens


def validation_card(model: SequenceModel, params: Params, valid: TokenisedSplit) -> dict[str, float | None]:
    """Return what a model's card says of the loss on the whole validation split."""
    nats, tokens = validate(model, params, valid, 0)
    words = int(valid.words_N.sum(dtype="int64"))
    return {"valid_nats_per_token": nats / tokens, "valid_perplexity_per_word": perplexity(nats, words)}


class PretrainLoop:
    """Trains fresh parameters of ``model`` on the ``train`` split, validating on ``valid``."""

    def __init__(
        self,
        config: Config,
        model: SequenceModel,
        train: TokenisedSplit,
        valid: TokenisedSplit,
        accelerator: Accelerator,
        processes: Processes,
    ):
        self._options, seed, device = config.pretrain, config.run.seed, processes.device
        self._model, self._valid, self._accelerator, self._processes = model, valid, accelerator, processes
        fresh = model.init_params(torch.Generator().manual_seed(seed))
        self.params = {name: tensor.to(device).requires_grad_() for name, tensor in fresh.items()}
        self.optimizer = Optimiser(self.params, self._options)
        # The same in every process.
        self._generator = torch.Generator(device).manual_seed(seed + 1)
        regularisers = Regularisers(config.regularisation, self._generator, processes.rank, processes.world)
        self._regularised = model.regularised(regularisers)
        self._stream = shared_stream(train, self._options, self._options.segment, seed, processes)
        self._goal = max(1, round(self._options.epochs * len(train.ids_N)))
        self._like = next(iter(self.params.values())).detach()
        self._hidden = model.init_state(self._stream.local_lanes, self._like)
        self.position, self.step, self.seconds = self._stream.begin(), 0, 0.0
        # Since the last line of the log: nats of this process's lanes, tokens of all processes.
        self._window_nats, self._window_tokens = torch.zeros((), device=device), 0

    def run(self, checkpointer: Checkpointer, log: Callable[[int, dict[str, Any]], None], quiet: bool) -> None:
        """Train to the end; ``log`` gets a step's number and what is to be logged of it.

        Raises UserError where the training diverges.
        """
        options = self._options
        bar = tqdm(total=self._goal, unit="tok", unit_scale=True, desc="pretrain", disable=quiet)
        bar.update(self.position.tokens)
        begun = time.monotonic() - self.seconds
        while self.position.tokens < self._goal:
            lr = lr_at(self.step, self._expected_steps(), options)
            before = self.position.tokens
            nats = self._accumulate()
            tokens = self.position.tokens - before
            norm = self._mean_gradients(tokens)
            if not math.isfinite(norm):
                # Before the step: no checkpoint holds the weights that it would give.
                broken = [n for n, t in self.params.items() if t.grad is not None and not t.grad.isfinite().all()]
                where = f"step {self.step + 1}, {broken[0] if broken else 'all tensors together'}"
                raise UserError(f"training diverged: the gradient's norm is {norm}", where, "lower pretrain.lr")
            last = self.position.tokens >= self._goal
            logs = (self.step + 1) % options.log_every == 0 or last
            previous = {name: tensor.detach().clone() for name, tensor in self.params.items()} if logs else {}
            self.optimizer.step(lr)
            self.step += 1
            self.seconds = time.monotonic() - begun
            self._window_nats, self._window_tokens = self._window_nats + nats, self._window_tokens + tokens
            bar.update(tokens)
            if logs:
                loss = float(self._processes.reduce(self._window_nats)) / self._window_tokens
                if not math.isfinite(loss):
                    where = f"step {self.step}"
                    raise UserError("training diverged: the loss is not finite", where, "lower pretrain.lr")
                bar.set_postfix(nats=f"{loss:.3f}", rate=f"{lr:.1e}", refresh=False)
                line = {"loss": loss, "norm": norm, "rate": lr, "tokens": self.position.tokens, "seconds": self.seconds}
                for name, before_step in previous.items():
                    update, size = self.params[name].detach() - before_step, before_step.norm().clamp(min=1e-30)
                    line[f"update/{name}"] = float(update.norm() / size)
                log(self.step, line)
                self._window_nats, self._window_tokens = torch.zeros_like(self._window_nats), 0
            if self.step % options.validate_every == 0:
                params = self.optimizer.current()
                valid_nats, valid_tokens = validate(self._model, params, self._valid, options.validate_tokens)
                begins = self.optimizer.after_validation(valid_nats / valid_tokens)
                log(self.step, {"valid": valid_nats / valid_tokens, "averaging": begins})
            # At the last step too: what is measured after training may fail, and is not worth training again.
            checkpointer.after_step(self.step, last)
        bar.close()

    def _expected_steps(self) -> int:
        """Return how many steps the training will take; batches shrink a little where articles end."""
        if self.step == 0:
            return math.ceil(self._goal / (self._stream.lanes * self._stream.segment * self._options.accumulate))
        return math.ceil(self.step * self._goal / self.position.tokens)

    def _accumulate(self) -> Tensor:
        """Add the gradients of the next batches' summed nats to the parameters; returns this process's nats."""
        nats = torch.zeros((), device=self._processes.device)
        for _ in range(self._options.accumulate):
            before = self.position.tokens
            segment, self.position = self._stream.next(self.position)
            assert segment is not None, "a repeating stream has no end"
            batch = to_batch(segment, self._like)
            hidden = self._model.reset_state(self._hidden, batch.starts_B, self._like)
            with self._accelerator.autocast():
                # Penalties are means over lanes: this process's share of those of all lanes is as large as the others'.
                tokens = (self.position.tokens - before) / self._processes.world
                total, nats_BT, hidden = self._regularised.loss(
                    self.params, hidden, batch.inputs_BT, batch.targets_BT, batch.mask_BT, tokens
                )
            total.backward()
            self._hidden = detach(hidden)
            nats += (nats_BT * batch.mask_BT).sum()
        return nats

    def _mean_gradients(self, tokens: int) -> float:
        """Sum the gradients over processes, divide them by all tokens, clip; returns the norm before clipping.

        Non-finite gradients are not clipped: it would spread to all of them.
        """
        tensors, gradients = list(self.params.values()), list[Tensor]()
        for tensor in tensors:
            assert tensor.grad is not None
            tensor.grad = self._processes.reduce(tensor.grad)
            tensor.grad /= tokens
            gradients.append(tensor.grad)
        total = torch.nn.utils.get_total_norm(gradients)
        norm = float(total)
        if math.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(tensors, self._options.clip or math.inf, total)
        return norm

    def state_dict(self) -> State:
        tensors, values = self.optimizer.state_dict()
        tensors |= dict(leaves({"params": self.params, _HIDDEN: self._hidden}))
        tensors |= {"generator": self._generator.get_state(), "window_nats": self._processes.reduce(self._window_nats)}
        values |= {"step": self.step, "seconds": self.seconds, "window_tokens": self._window_tokens}
        return State(tensors, {**values, "position": self.position.to_dict()})

    def load_state_dict(self, state: State) -> None:
        tensors, values = state
        for name, tensor in leaves({"params": self.params, _HIDDEN: self._hidden}):
            tensor.copy_(tensors[name])
        self.optimizer.load_state_dict(state)
        self._generator.set_state(tensors["generator"])
        if self._processes.is_main:
            self._window_nats = tensors["window_nats"].to(self._processes.device)
        self.position, self.step = StreamPosition.from_dict(values["position"]), values["step"]
        self.seconds, self._window_tokens = values["seconds"], values["window_tokens"]
