"""The networks that learners adapt: (params, inputs, statistics) -> (outputs, batch statistics), for one task.

Legend: N examples, H x W places, C channels, F filters, O outputs, D features.

They are written for one task and mapped over tasks with ``torch.func.vmap``. Batch norm has no hidden state: a forward
pass gives the statistics of its batch, and takes those that another batch had.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.fewshot.im2col import convolve, naive_convolve
from dynlm.models.lstm.model import Params

EPSILON = 1e-3
"""Added to variances."""

_ACTIVATIONS = {"relu": torch.relu, "silu": F.silu, "gelu": F.gelu, "tanh": torch.tanh}

BatchStatistics = Params
"""Mean and variance of each normalised layer, by name."""


class Net(Protocol):
    """A network as a function of its parameters."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, in a fixed order."""
        ...

    @property
    def head(self) -> tuple[str, ...]:
        """The parameters of the last layer."""
        ...

    def forward(
        self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None
    ) -> tuple[Tensor, BatchStatistics]:
        """(outputs (N, O), statistics used); without ``statistics`` they are those of this batch."""
        ...


def initial_params(net: Net, generator: torch.Generator, count: int | None = None) -> Params:
    """Fresh parameters, ``count`` sets of them along a first axis where it is given.

    Weights and biases of linear layers are uniform in +-1 / sqrt(inputs), as torch's are; convolutions in
    +-sqrt(3 / inputs) (variance 1 / inputs), an image network's head too; its bias and shifts are zero, scales one.
    A perceptron's ``gains`` are factors of its layers.
    """
    gains = net.gains if isinstance(net, Perceptron) else ()
    params: Params = {}
    for name, shape in net.shapes().items():
        full = shape if count is None else (count, *shape)
        layer, _, kind = name.rpartition(".")
        if kind == "weight" or layer.startswith("linear"):
            inputs = net.shapes()[f"{layer}.weight"][0]
            bound = math.sqrt((1 if layer.startswith("linear") else 3) / inputs)
            if gains:
                bound *= gains[int(layer.removeprefix("linear."))]
            params[name] = bound * (2 * torch.rand(full, generator=generator) - 1)
        else:
            params[name] = torch.full(full, 1.0 if kind == "scale" else 0.0)
    return params


@dataclass(frozen=True)
class Perceptron:
    """Linear layers with an activation between them, for curves (Finn et al. 2017: 1-40-40-1 with ReLU)."""

    widths: tuple[int, ...]
    activation: str = "relu"
    gains: tuple[float, ...] = ()
    """Factor of each layer's fresh parameters; none: 1."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (wide_in, wide_out) in enumerate(itertools.pairwise(self.widths)):
            shapes[f"linear.{index}.weight"] = (wide_in, wide_out)
            shapes[f"linear.{index}.bias"] = (wide_out,)
        return shapes

    @property
    def head(self) -> tuple[str, ...]:
        last = len(self.widths) - 2
        return (f"linear.{last}.weight", f"linear.{last}.bias")

    def forward(
        self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None
    ) -> tuple[Tensor, BatchStatistics]:
        activate = _ACTIVATIONS[self.activation]
        for index in range(len(self.widths) - 1):
            inputs = activate(inputs) if index else inputs
            inputs = torch.addmm(params[f"linear.{index}.bias"], inputs, params[f"linear.{index}.weight"])
        return inputs, {}

    def forward_tasks(self, params: Params, inputs_TN: Tensor) -> Tensor:
        """``forward`` of all tasks at once, every parameter having the tasks as its first axis: (T, N, 1)."""
        activate = _ACTIVATIONS[self.activation]
        for index in range(len(self.widths) - 1):
            inputs_TN = activate(inputs_TN) if index else inputs_TN
            bias_T1O, weight_TIO = params[f"linear.{index}.bias"][:, None], params[f"linear.{index}.weight"]
            inputs_TN = torch.baddbmm(bias_T1O, inputs_TN, weight_TIO)
        return inputs_TN


@dataclass(frozen=True)
class ConvNet:
    """Convolutions of 3x3, each with batch norm and ReLU, halved by stride or pooling, and a linear head.

    Vinyals et al. 2016 with max pooling; Finn et al. 2017 with stride 2 and the mean over places. Without ``outputs``
    it has no head, and gives features. A convolution's bias would be lost in batch norm, so there is none. The
    order is convolution, maximum, batch norm, ReLU, and not the published convolution, batch norm, ReLU, maximum: a
    quarter of the places is left to be normalised. It is another network. The maximum commutes with ReLU, and with an
    affine map of positive slope, but batch norm takes its statistics from the maxima here, not from all places, and its
    scales may become negative.
    """

    size: int
    channels: int
    filters: int
    layers: int
    pooling: bool = False
    readout: str = "mean"
    outputs: int | None = None
    fast: bool = True
    """Convolve by patches where the stride is 2; False takes torch's convolution, the reference."""

    def widths(self) -> list[tuple[int, int]]:
        """(input width, output width) of each convolution."""
        return [(self.filters if index else self.channels, self.filters) for index in range(self.layers)]

    @property
    def features(self) -> int:
        """Number of features D."""
        side = self.size
        for _ in range(self.layers):
            side = side // 2 if self.pooling else (side + 1) // 2
        return self.filters * (side**2 if self.readout == "flatten" else 1)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (wide_in, wide_out) in enumerate(self.widths()):
            shapes[f"convolution.{index}.weight"] = (9 * wide_in, wide_out)
            shapes[f"norm.{index}.scale"] = (wide_out,)
            shapes[f"norm.{index}.shift"] = (wide_out,)
        if self.outputs is not None:
            shapes["head.weight"] = (self.features, self.outputs)
            shapes["head.bias"] = (self.outputs,)
        return shapes

    @property
    def head(self) -> tuple[str, ...]:
        return () if self.outputs is None else ("head.weight", "head.bias")

    def statistics_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of the batch statistics."""
        return {
            f"norm.{index}.{kind}": (self.filters,) for index in range(self.layers) for kind in ("mean", "variance")
        }

    def forward(
        self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None
    ) -> tuple[Tensor, BatchStatistics]:
        """``inputs`` are images (N, H, W, C)."""
        maps_NHWF, used = inputs, {}
        for index in range(self.layers):
            weight_PF = params[f"convolution.{index}.weight"]
            if self.pooling:
                maps_NHWF = naive_convolve(maps_NHWF, weight_PF, stride=1)
                maps_NHWF = F.max_pool2d(maps_NHWF.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            else:
                maps_NHWF = (convolve if self.fast else naive_convolve)(maps_NHWF, weight_PF)
            name = f"norm.{index}"
            moments = None if statistics is None else (statistics[f"{name}.mean"], statistics[f"{name}.variance"])
            maps_NHWF, moments = batch_norm(maps_NHWF, params[f"{name}.scale"], params[f"{name}.shift"], moments)
            used[f"{name}.mean"], used[f"{name}.variance"] = moments
            maps_NHWF = torch.relu(maps_NHWF)
        features_ND = maps_NHWF.flatten(1) if self.readout == "flatten" else maps_NHWF.mean((1, 2))
        if self.outputs is None:
            return features_ND, used
        return torch.addmm(params["head.bias"], features_ND, params["head.weight"]), used


def batch_norm(
    maps: Tensor, scale_F: Tensor, shift_F: Tensor, moments: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """(normalised maps, (mean_F, variance_F) used); without ``moments`` those of all places of this batch."""
    if moments is None:
        places = tuple(range(maps.dim() - 1))
        mean_F = maps.mean(places)
        centred = maps - mean_F
        variance_F = centred.square().mean(places)  # torch's var_mean takes five times as long, over several axes
        return centred * (scale_F * torch.rsqrt(variance_F + EPSILON)) + shift_F, (mean_F, variance_F)
    mean_F, variance_F = moments
    factor_F = scale_F * torch.rsqrt(variance_F + EPSILON)
    return maps * factor_F + (shift_F - mean_F * factor_F), moments
