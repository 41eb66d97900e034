"""MAML and its kin: a start from which a few gradient steps are enough (Finn et al. 2017, arXiv 1703.03400).

    theta_i = theta - alpha * grad L_support(theta),    meta-loss = mean over tasks of L_query(theta_i)

FOMAML takes the inner gradients as constants; ANIL (Raghu et al. 2020, arXiv 1909.09157) moves the head alone; Meta-SGD
(Li et al. 2017, arXiv 1707.09835) learns a rate for each weight; MAML++ (Antoniou et al. 2019, arXiv 1810.09502) learns
a rate for each tensor and step, has batch norm of each step, weighs the query losses after all steps, and begins at
first order. Legend: T tasks, Q query examples, O outputs, K inner steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dynlm.fewshot.inner_loop import Squares, Through, for_each_task, forward, inner_steps
from dynlm.fewshot.learners.learner import Adapted, Learned, Learner, MetaStep
from dynlm.fewshot.nets import BatchStatistics, ConvNet, Net, initial_params
from dynlm.fewshot.options import LearnerConfig
from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.models.lstm.model import Params

_RATE = "rate."
_RUNNING = "running."
_MOMENTUM = 0.1


class Maml(Learner):
    """The learner of ``maml``, ``fomaml``, ``anil``, ``meta-sgd`` and ``maml++``.

    Meta-parameters are the network's, and ``rate.NAME`` where rates are learned. Buffers are ``running.NAME``: batch
    statistics of query sets after each step (K + 1, F), gathered where ``learner.statistics`` is running.
    """

    def __init__(self, config: LearnerConfig, net: Net, classifies: bool):
        super().__init__(classifies)
        self.config, self.net = config, net
        names = tuple(net.shapes())
        norms = tuple(name for name in names if name.startswith("norm."))
        self.per_step = norms if self.config.per_step_norm else ()
        self.moving = net.head if config.kind == "anil" else tuple(name for name in names if name not in self.per_step)

    def initial(self, generator: torch.Generator) -> Learned:
        config = self.config
        meta = initial_params(self.net, generator)
        for name in self.per_step:
            meta[name] = meta[name].expand(config.inner_steps + 1, -1).clone()
        for name in self.moving:
            if config.kind == "meta-sgd":
                meta[_RATE + name] = torch.full_like(meta[name], config.inner_rate)
            elif config.per_step_rates:
                meta[_RATE + name] = torch.full((config.inner_steps,), config.inner_rate)
        buffers: Params = {}
        if config.statistics == "running":
            assert isinstance(self.net, ConvNet)
            for name, shape in self.net.statistics_shapes().items():
                buffers[_RUNNING + name] = torch.full(
                    (config.inner_steps + 1, *shape), float(name.endswith("variance"))
                )
        return Learned(meta, buffers)

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        yield from self._adapt(learned, support, steps, Through.NOTHING)

    def _adapt(self, learned: Learned, support: Labelled, steps: int, through: Through) -> Iterator[Adapted]:
        tasks, meta = len(support.inputs), learned.meta
        own = for_each_task({name: meta[name] for name in self.moving}, tasks)
        shared = {name: meta[name] for name in self.net.shapes() if name not in self.moving}
        fixed = (lambda step: {name: meta[name][self._row(step)] for name in self.per_step}) if self.per_step else None
        for name in self.per_step:
            shared[name] = meta[name][0]
        every = inner_steps(
            self.net,
            self.loss,
            {**own, **shared},
            self.moving,
            lambda step: support,
            lambda step, name: self._rate(meta, step, name),
            steps,
            through,
            fixed=fixed,
        )
        for step, weights in enumerate(every):
            yield Adapted(weights, support, step)

    def _row(self, step: int) -> int:
        return min(step, self.config.inner_steps)

    def _rate(self, meta: Params, step: int, name: str) -> Tensor | float:
        if self.config.kind == "meta-sgd":
            return meta[_RATE + name]
        if self.config.per_step_rates:
            return meta[_RATE + name][min(step, self.config.inner_steps - 1)]
        return self.config.inner_rate

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        return self._outputs(learned, adapted, inputs_TQ)[0]

    def _outputs(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> tuple[Tensor, BatchStatistics]:
        """(outputs, batch statistics used): the query's own, the support's or the running ones."""
        if self.config.statistics == "transductive" or not isinstance(self.net, ConvNet):
            return forward(self.net, adapted.state, self.moving, inputs_TQ)
        if self.config.statistics == "inductive":
            _, statistics = forward(self.net, adapted.state, self.moving, adapted.support.inputs)
            return forward(self.net, adapted.state, self.moving, inputs_TQ, statistics)
        row = self._row(adapted.step)
        running = {name: learned.buffers[_RUNNING + name][row] for name in self.net.statistics_shapes()}
        return forward(self.net, adapted.state, self.moving, inputs_TQ, running, shared_statistics=True)

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        config = self.config
        first = config.kind == "fomaml" or progress < (config.first_order_share or 0.0)
        through = Through.WEIGHTS if first else Through.EVERYTHING
        shares = loss_shares(config.inner_steps, bool(config.multi_step_loss), progress, config.annealed_share)
        buffers = dict(learned.buffers)
        total = outputs_TQO = None
        for adapted in self._adapt(learned, episodes.support, config.inner_steps, through):
            if not shares[adapted.step]:
                continue
            if config.statistics == "running":
                # While it is trained each batch is normalised by itself, as everywhere; what it had is remembered.
                outputs_TQO, used = forward(self.net, adapted.state, self.moving, episodes.query.inputs)
                for name, value_TF in used.items():
                    running = buffers[_RUNNING + name].clone()
                    running[adapted.step].lerp_(value_TF.detach().mean(0), _MOMENTUM)
                    buffers[_RUNNING + name] = running
            else:
                outputs_TQO, _ = self._outputs(learned, adapted, episodes.query.inputs)
            share_of = shares[adapted.step] * self.loss(outputs_TQO, episodes.query.targets)
            total = share_of if total is None else total + share_of
        assert total is not None and outputs_TQO is not None
        return self.by_autograd(learned, total, outputs_TQO, episodes.query.targets, buffers)


def loss_shares(steps: int, multi_step: bool, progress: float, annealed: float) -> list[float]:
    """What the query loss after 0, 1, ..., ``steps`` steps counts for; they sum to 1.

    With ``multi_step`` those after each step count alike, throughout where ``annealed`` is 0, else at first: by
    ``progress`` = ``annealed`` the last counts alone.
    """
    done = 0.0 if multi_step else 1.0
    if multi_step and annealed:
        done = min(1.0, progress / annealed)
    return [0.0] + [(1 - done) / steps] * (steps - 1) + [done + (1 - done) / steps]


class RandomStart(Maml):
    """No meta-training: each task begins at random weights of its own and takes the same steps.

    Meta-parameters are none; each task's random weights come from its own generator.
    """

    def initial(self, generator: torch.Generator) -> Learned:
        return Learned({}, {})

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        fresh = [initial_params(self.net, generator) for generator in generators]
        weights = {name: torch.stack([own[name] for own in fresh]) for name in self.net.shapes()}
        squares = None
        if self.config.inner_optimizer == "adam":
            squares = Squares({name: torch.zeros_like(weights[name]) for name in self.moving}, 0)
        every = inner_steps(
            self.net,
            self.loss,
            weights,
            self.moving,
            lambda step: support,
            lambda step, name: self.config.inner_rate,
            steps,
            Through.NOTHING,
            squares,
        )
        for step, moved in enumerate(every):
            yield Adapted(moved, support, step)

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        raise NotImplementedError("a random start has nothing to train")
