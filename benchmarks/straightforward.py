"""Dynamic evaluation as it is usually written: ``nn.LSTM`` under autograd, then a loop over tensors.

The reference for losses and time in `benchmarks/kinds.py`. The rule is that of Krause et al. (2018).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynlm.models.lstm.model import LSTMLanguageModel
from dynlm.types import Params


class StraightforwardReader(nn.Module):
    """One stream read segment by segment; the parameters are the dynamic weights."""

    def __init__(self, model: LSTMLanguageModel, static: Params, rms: Params, lr: float, decay: float, epsilon: float):
        super().__init__()
        options = model.options
        assert options.tied and options.layers == 1 and options.hidden == options.embedding
        self.embedding = nn.Embedding(model.vocab_size, options.embedding)
        self.lstm = nn.LSTM(options.embedding, options.hidden, batch_first=True)
        self.bias = nn.Parameter(torch.zeros(model.vocab_size))
        pairs: dict[str, Any] = {
            "embedding": self.embedding.weight,
            "lstm.0.input": self.lstm.weight_ih_l0,
            "lstm.0.recurrent": self.lstm.weight_hh_l0,
            "lstm.0.bias": self.lstm.bias_ih_l0,
            "output.bias": self.bias,
        }
        with torch.no_grad():
            for name, parameter in pairs.items():
                parameter.copy_(static[name])
            nn.init.zeros_(self.lstm.get_parameter("bias_hh_l0"))
        # torch's LSTM has a second bias, which dynlm's LSTM lacks: it stays at zero.
        self.lstm.get_parameter("bias_hh_l0").requires_grad_(False)
        self.moving = pairs
        self.static, self.rms = static, rms
        self.lr, self.decay, self.epsilon = lr, decay, epsilon
        self.hidden: tuple[Tensor, Tensor] | None = None

    def read(self, inputs_BT: Tensor, targets_BT: Tensor) -> Tensor:
        """Return the loss of each token in nats; then update the weights."""
        features_BTH, hidden = self.lstm(self.embedding(inputs_BT), self.hidden)
        logits_BTV = F.linear(features_BTH, self.embedding.weight, self.bias)
        nats_BT = F.cross_entropy(logits_BTV.transpose(1, 2), targets_BT, reduction="none")
        self.zero_grad()
        nats_BT.mean().backward()
        self.hidden = tuple(state.detach() for state in hidden)
        mean = torch.stack([rms.mean() for rms in self.rms.values()]).mean()
        with torch.no_grad():
            for name, parameter in self.moving.items():
                ratio = self.rms[name] / mean
                toward = self.decay * ratio.clamp(max=1 / self.decay) * (self.static[name] - parameter)
                parameter += toward - self.lr * parameter.grad / (self.rms[name] + self.epsilon)
        return nats_BT.detach()
