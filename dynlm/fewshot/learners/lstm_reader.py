"""An LSTM that reads (input, target) pairs and then answers for an input alone.

Hochreiter, Younger & Conwell 2001; Santoro et al. 2016 without their external memory. The LSTM's state after the
support set is what it knows of a task. Each query is answered from that state, independently of the others.

Legend: T tasks, S support and Q query examples, O outputs, D features, E = D + O + 1, H width of the LSTM's state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.learners.embedding import EmbeddingLearner
from dynlm.fewshot.learners.learner import Adapted, Learned, LearnerOptions, MetaStep, register_learner
from dynlm.fewshot.nets import ConvNetOptions
from dynlm.fewshot.tasks.episodes import Episodes, Labelled
from dynlm.models.lstm.model import Params, fused_layer
from dynlm.runtime.validation import LARGEST_WIDTH, bounded


@dataclass
class LstmReaderOptions(ConvNetOptions, LearnerOptions):
    """Options of an LSTM that reads."""

    kind: str = "lstm-reader"
    reader_hidden: int = bounded(128, 1, LARGEST_WIDTH)
    """Width of the LSTM's state (lstm-optimiser: 20 in the paper)."""


@register_learner
class LstmReader(EmbeddingLearner):
    """LSTM that reads labelled examples. Images pass through a convolutional network first."""

    options_type = LstmReaderOptions
    label = "LSTM that reads"

    @property
    def query_statistics(self) -> str:
        return "running"

    def initial(self, generator: torch.Generator) -> Learned:
        hidden, outputs = self.options.reader_hidden, self.problem.num_outputs
        bound = 1 / math.sqrt(hidden)

        def uniform(*shape: int) -> Tensor:
            return bound * (2 * torch.rand(shape, generator=generator) - 1)

        meta, buffers = super().initial(generator)
        meta |= {
            "reader.input": uniform(4 * hidden, (self.net.features if self.net else 1) + outputs + 1),
            "reader.recurrent": uniform(4 * hidden, hidden),
            "reader.bias": torch.zeros(4 * hidden).index_fill(0, torch.arange(hidden, 2 * hidden), 1.0),
            "reader.output.weight": uniform(hidden, outputs),
            "reader.output.bias": torch.zeros(outputs),
        }
        return Learned(meta, buffers)

    def adapt(
        self, learned: Learned, support: Labelled, steps: int, generators: Sequence[torch.Generator]
    ) -> Iterator[Adapted]:
        state = self._read(learned.meta, self.features(learned, support.inputs), support.targets)
        yield Adapted(state, support, 0)

    def predict(self, learned: Learned, adapted: Adapted, inputs_TQ: Tensor) -> Tensor:
        return self._answer(learned.meta, adapted.state, self.features(learned, inputs_TQ))

    def meta_step(self, learned: Learned, episodes: Episodes, progress: float, generator: torch.Generator) -> MetaStep:
        support_TSD, query_TQD, buffers = self.training_features(learned, episodes)
        state = self._read(learned.meta, support_TSD, episodes.support.targets)
        outputs_TQO, targets_TQ = self._answer(learned.meta, state, query_TQD), episodes.query.targets
        loss = self.problem.loss(outputs_TQO, targets_TQ)
        return self.differentiate(learned, loss, outputs_TQO, targets_TQ, buffers)

    def _read(self, meta: Params, features_TSD: Tensor, targets_TS: Tensor) -> Params:
        targets_TSO = targets_TS
        if self.problem.classifies:
            targets_TSO = F.one_hot(targets_TS, self.problem.num_outputs).to(features_TSD)
        is_query_TS1 = torch.zeros_like(features_TSD[..., :1])
        pairs_STE = torch.cat([features_TSD, targets_TSO, is_query_TS1], -1).transpose(0, 1)
        zeros_TH = features_TSD.new_zeros(len(features_TSD), self.options.reader_hidden)
        _, (h_TH, c_TH) = _lstm(meta, pairs_STE, zeros_TH, zeros_TH)
        return {"h": h_TH, "c": c_TH}

    def _answer(self, meta: Params, state: Params, features_TQD: Tensor) -> Tensor:
        tasks, queries, _ = features_TQD.shape
        blank_TQO = features_TQD.new_zeros(tasks, queries, self.problem.num_outputs)
        queries_TQE = torch.cat([features_TQD, blank_TQO, torch.ones_like(features_TQD[..., :1])], -1)
        h, c = (state[name].repeat_interleave(queries, 0) for name in ("h", "c"))
        hidden_1NH, _ = _lstm(meta, queries_TQE.flatten(0, 1)[None], h, c)
        outputs_NO = hidden_1NH[0] @ meta["reader.output.weight"] + meta["reader.output.bias"]
        return outputs_NO.unflatten(0, (tasks, queries))


def _lstm(meta: Params, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return fused_layer(x, (h, c), meta["reader.input"], meta["reader.recurrent"], meta["reader.bias"])
