"""The outer loop of everything that is learned while a rule reads.

    window of segments -> meta-gradients, summed over processes, per segment -> Adam -> Polyak average

Candidates are the start and the averages halfway and at the end; the one that reads the tuning articles best is kept.
Several processes share the lanes; all of them take the same steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.loop import read_segment
from dynlm.adapt.meta_gradient.learner import MetaGradient
from dynlm.adapt.rules.base import StepEvent
from dynlm.adapt.update_filter import counts_of
from dynlm.data.stream import Stream, StreamPosition
from dynlm.data.tokenised_split import TokenisedSplit
from dynlm.errors import UserError
from dynlm.run.run import Run
from dynlm.runtime.checkpoints import LANES, Checkpointer, Checkpoints, State
from dynlm.runtime.distributed import Processes
from dynlm.runtime.tree import clone, detach, leaves
from dynlm.train.optimizers import load_optimizer_tensors, optimizer_tensors
from dynlm.train.options import FinetuneOptions, MetatrainOptions, PretrainOptions
from dynlm.types import Params

LoopOptions = MetatrainOptions | FinetuneOptions


class AveragedAdam:
    """Adam on groups of parameters, each with its learning rate, and the Polyak average of all of them."""

    def __init__(self, groups: Sequence[tuple[Params, float]], decay: float):
        self.groups = [params for params, _ in groups]
        self.average: list[Params] = clone(detach(self.groups))
        self.steps, self._decay = 0, decay
        self._adam = torch.optim.Adam([{"params": list(params.values()), "lr": lr} for params, lr in groups])

    def step(self, gradients: Sequence[Params]) -> None:
        """Move the parameters in place."""
        for params, found in zip(self.groups, gradients, strict=True):
            for name, tensor in params.items():
                tensor.grad = found[name]
        self._adam.step()

    @torch.no_grad()
    def update_average(self) -> None:
        """Take the parameters after a step into the average."""
        self.steps += 1
        # At first this is the plain mean, so that the start does not outweigh what was learned.
        weight = max(1 - self._decay, 1 / (self.steps + 1))
        for (_, mean), (_, tensor) in zip(leaves(self.average), leaves(self.groups), strict=True):
            mean.lerp_(tensor, weight)

    def state_dict(self) -> State:
        tensors = dict(leaves({"params": self.groups, "average": self.average}))
        return State(tensors | optimizer_tensors(self._adam, self._flat()), {"steps": self.steps})

    def load_state_dict(self, state: State) -> None:
        for name, tensor in leaves({"params": self.groups, "average": self.average}):
            tensor.copy_(state.tensors[name])
        load_optimizer_tensors(self._adam, self._flat(), state.tensors)
        self.steps = int(state.values["steps"])

    def _flat(self) -> Params:
        return dict(leaves(self.groups))


class OuterLoop:
    """Reads ``stream`` with ``dynamic_model`` and moves what its learners learn after each window."""

    def __init__(
        self, run: Run, dynamic_model: DynamicModel, stream: Stream, options: LoopOptions, processes: Processes
    ):
        self.dynamic_model, self._run, self._options, self._processes = dynamic_model, run, options, processes
        self.stream = stream
        self.memory = dynamic_model.fresh_memory(self.stream.local_lanes)
        self.position, self.seconds = self.stream.begin(), 0.0
        self.learners, self._halfway = list[MetaGradient](), list[Params]()

    def learn(
        self, learners: Mapping[MetaGradient, float], checkpoints: Checkpoints, quiet: bool, **logged: Any
    ) -> dict[str, list[Params]]:
        """Resume, and read up to ``options.tokens`` tokens; returns the averages ``halfway`` and as ``learned``.

        Each holds the parameters of every learner; a learner's value is its learning rate. The log of the run has a
        line for each window, with the fields ``logged``.
        """
        options, run, event = self._options, self._run, self._options.SECTION
        self.learners = list(learners)
        self.optimizer = AveragedAdam([(each.params, lr) for each, lr in learners.items()], options.average)
        every = options.checkpoint_every if isinstance(options, MetatrainOptions) else 0
        with Checkpointer(checkpoints, self, self._processes, every, run.options.checkpoint_seconds) as checkpointer:
            resumed = checkpointer.resume()
            if resumed is not None and self._processes.is_main:
                run.log(event="resumed", checkpoint=resumed.name, tokens=self.position.tokens)
            bar = tqdm(total=options.tokens, desc=event, unit="tok", unit_scale=True, disable=quiet)
            bar.update(self.position.tokens)
            while self.position.tokens < options.tokens:
                begun = time.monotonic()
                nats, segments = self._window(math.ceil(options.window / options.lanes))
                self.seconds += time.monotonic() - begun
                bar.update(self.position.tokens - bar.n)
                if self._processes.is_main:
                    run.log(event=event, segments_of_window=segments, **logged, nats_of_window=nats, **self._fields())
                if not self._halfway and self.position.tokens >= options.tokens / 2:
                    self._halfway = clone(self.optimizer.average)
                checkpointer.after_step(self.optimizer.steps, last=self.position.tokens >= options.tokens)
            bar.close()
        return {**({"halfway": self._halfway} if self._halfway else {}), "learned": self.optimizer.average}

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"tokens": self.position.tokens}
        for learner in self.learners:
            fields |= learner.log_fields()
        if self.memory.filter is not None:
            fields["update_filter"] = counts_of(self.memory.filter, self.dynamic_model.dynamic)
        return fields

    def _window(self, segments: int) -> tuple[float, float]:
        """Read so many segments of each lane and take a step; returns (nats, segments read) of all processes."""
        total, reduce = torch.zeros(2, dtype=torch.float64, device=self._processes.device), self._processes.reduce
        for _ in range(segments):
            total += self._read_segment()
        count, nats = reduce(total).tolist()
        found = [{key: reduce(t) / count for key, t in learner.gradients().items()} for learner in self.learners]
        self.optimizer.step(found)
        self._update()
        self.optimizer.update_average()
        return nats, count

    def _read_segment(self) -> Tensor:
        """Returns (lanes that read something, nats)."""
        segment, self.position = self.stream.next(self.position)
        assert segment is not None, "a repeating stream has no end"
        for learner in self.learners:
            learner.begin_segment(self.dynamic_model, self.memory, segment)

        def observe(event: StepEvent) -> None:
            for learner in self.learners:
                learner(event)

        before_B = self._restored()
        nats_BT, self.memory = read_segment(self.dynamic_model, self.memory, segment, observe)
        restored_B = (self._restored() > before_B).cpu().numpy()
        for learner in self.learners:
            learner.end_segment(nats_BT, segment, restored_B)
        mask_BT = torch.from_numpy(segment.mask_BT).to(nats_BT.device, non_blocking=True)
        return torch.stack([mask_BT.any(1).sum(), (nats_BT.double() * mask_BT).sum()])

    def _restored(self) -> Tensor:
        """Return how often the update filter has restored the weights of each lane."""
        state = self.memory.filter
        return torch.zeros(self.stream.local_lanes) if state is None else state.restored_B.clone()

    def _update(self) -> None:
        for learner in self.learners:
            self.dynamic_model = learner.update(self.dynamic_model, self.memory)

    def state_dict(self) -> State:
        tensors, values = self.optimizer.state_dict()
        tensors |= dict(leaves({"halfway": self._halfway, f"{LANES}memory": self.memory}))
        for learner in self.learners:
            tensors |= learner.state_dict()
        return State(tensors, {**values, "position": self.position.to_dict(), "seconds": self.seconds})

    def load_state_dict(self, state: State) -> None:
        self.optimizer.load_state_dict(state)
        for name, tensor in leaves({f"{LANES}memory": self.memory}):
            tensor.copy_(state.tensors[name])
        for learner in self.learners:
            learner.load_state_dict(state.tensors)
        if any(name.startswith("halfway/") for name in state.tensors):
            self._halfway = clone(self.optimizer.groups)
            for name, tensor in leaves({"halfway": self._halfway}):
                tensor.copy_(state.tensors[name])
        self.position = StreamPosition.from_dict(state.values["position"])
        self.seconds = state.values["seconds"]
        self._update()


def shared_stream(
    split: TokenisedSplit, options: LoopOptions | PretrainOptions, segment: int, seed: int, processes: Processes
) -> Stream:
    """Return the articles of a split, again and again, in ``options.lanes`` lanes that all processes share.

    Raises UserError where the lanes cannot be shared evenly.
    """
    check_lanes(options, processes)
    order, rank, world = range(split.articles), processes.rank, processes.world
    return Stream(split, options.lanes, segment, order, seed, repeat=True, rank=rank, world=world)


def check_lanes(options: LoopOptions | PretrainOptions, processes: Processes) -> None:
    """Raise UserError where the processes cannot share the lanes evenly."""
    if options.lanes % processes.world:
        what = f"{options.SECTION}.lanes is {options.lanes}"
        raise UserError(what, do=f"choose a multiple of the {processes.world} processes")


def best_of(nats: Mapping[str, float]) -> str:
    """Return the name of the lowest loss; a non-finite one is treated as infinite."""
    return min(nats, key=lambda name: nats[name] if math.isfinite(nats[name]) else math.inf)
