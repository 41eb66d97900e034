"""Networks as functions of their parameters, written for one task and mapped over tasks with ``torch.func.vmap``.

Legend: N examples, T tasks, H x W pixels, C channels, F filters, O outputs, D features, P = 9 * input channels.

Batch norm has no hidden state: a forward pass returns the statistics of its batch, and accepts those of another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.errors import UserError
from dynlm.fewshot.im2col import convolve, torch_convolve
from dynlm.runtime.validation import LARGEST_WIDTH, Section, bounded
from dynlm.types import Params

VARIANCE_EPSILON = 1e-3
"""Added to variances in batch norm."""
_ACTIVATIONS = {"relu": torch.relu, "silu": F.silu, "gelu": F.gelu, "tanh": torch.tanh}

BatchStatistics = Params
"""Mean and variance (F,) of each normalised layer, by name."""


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return bound * (2 * torch.rand(shape, generator=generator) - 1)


@dataclass
class PerceptronOptions(Section):
    """Options of the network for curves."""

    SECTION = "learner"

    hidden: list[int] = field(default_factory=lambda: [40, 40], metadata={"bounds": (1, LARGEST_WIDTH)})
    """Widths of the hidden layers of a regression network."""
    activation: Literal["relu", "silu", "gelu", "tanh"] = "relu"
    """Activation between the layers of a regression network."""
    gains: list[float] | None = None
    """Factor of the initial weights and biases of each layer of a regression network; unset: 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gains is not None and len(self.gains) != len(self.hidden) + 1:
            raise UserError(
                f"learner.gains has {len(self.gains)} factors, for {len(self.hidden) + 1} layers",
                do="give one for each hidden layer and one for the last",
            )


class Perceptron:
    """Linear layers from one input to one output with an activation between them (Finn et al. 2017: ReLU)."""

    def __init__(self, options: PerceptronOptions):
        self.widths, self.gains = (1, *options.hidden, 1), options.gains or [1.0] * (len(options.hidden) + 1)
        self.activate: Callable[[Tensor], Tensor] = _ACTIVATIONS[options.activation]
        last = len(options.hidden)
        self.head = (f"linear.{last}.weight", f"linear.{last}.bias")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in a fixed order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for index, (width_in, width_out) in enumerate(itertools.pairwise(self.widths)):
            shapes |= {f"linear.{index}.weight": (width_in, width_out), f"linear.{index}.bias": (width_out,)}
        return shapes

    def init_params(self, generator: torch.Generator) -> Params:
        """Return weights and biases uniform in +-gain / sqrt(inputs), as ``torch.nn.Linear`` has them for gain 1."""
        params: Params = {}
        for name, shape in self.shapes().items():
            layer = int(name.split(".")[1])
            bound = math.sqrt(1 / self.widths[layer]) * self.gains[layer]
            params[name] = _uniform(shape, bound, generator)
        return params

    def forward(
        self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None
    ) -> tuple[Tensor, BatchStatistics]:
        """Return (outputs (N, O), no statistics)."""
        for index in range(len(self.widths) - 1):
            inputs = self.activate(inputs) if index else inputs
            inputs = torch.addmm(params[f"linear.{index}.bias"], inputs, params[f"linear.{index}.weight"])
        return inputs, {}

    def forward_tasks(self, params: Params, inputs_TN: Tensor) -> Tensor:
        """Return ``forward`` of all tasks (T, N, O); every parameter has the tasks as its first axis."""
        for index in range(len(self.widths) - 1):
            inputs_TN = self.activate(inputs_TN) if index else inputs_TN
            bias_T1O, weight_TIO = params[f"linear.{index}.bias"][:, None], params[f"linear.{index}.weight"]
            inputs_TN = torch.baddbmm(bias_T1O, inputs_TN, weight_TIO)
        return inputs_TN


@dataclass
class ConvNetOptions(Section):
    """Options of the network for images."""

    SECTION = "learner"

    filters: int = bounded(64, 1, LARGEST_WIDTH)
    """Filters of each convolution."""
    layers: int = bounded(4, 1, 100)
    """Number of 3x3 convolutions, each followed by batch norm and ReLU."""
    pooling: bool = False
    """Halve maps by max pooling after each convolution (prototypical networks) instead of by its stride (MAML)."""
    readout: Literal["mean", "flatten"] = "mean"
    """How the last map becomes features: its mean over pixels, or all of it."""


class ConvNet:
    """3x3 convolutions, each with batch norm and ReLU and halved by stride or max pooling, and a linear head.

    Vinyals et al. 2016 with max pooling; Finn et al. 2017 with stride 2 and the mean over pixels. With ``outputs`` None
    it has no head and returns features. Convolutions have no bias, which batch norm would cancel. The maximum comes
    before batch norm, not after ReLU as in the papers: normalising a quarter of the pixels is faster. The statistics
    are then those of the maxima, so that it is another network.
    """

    def __init__(self, options: ConvNetOptions, input_shape: tuple[int, ...], outputs: int | None):
        self.options, self.outputs = options, outputs
        side, _, self.channels = input_shape
        for _ in range(options.layers):
            side = side // 2 if options.pooling else (side + 1) // 2
        self.features = options.filters * (side**2 if options.readout == "flatten" else 1)
        self.norms = [f"norm.{index}" for index in range(options.layers)]
        self.head = () if outputs is None else ("head.weight", "head.bias")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every parameter by name, in a fixed order."""
        shapes: dict[str, tuple[int, ...]] = {}
        filters = self.options.filters
        for index, norm in enumerate(self.norms):
            shapes[f"convolution.{index}.weight"] = (9 * (filters if index else self.channels), filters)
            shapes[f"{norm}.scale"] = shapes[f"{norm}.shift"] = (filters,)
        if self.outputs is not None:
            shapes |= {"head.weight": (self.features, self.outputs), "head.bias": (self.outputs,)}
        return shapes

    def init_params(self, generator: torch.Generator) -> Params:
        """Return weights of variance 1 / inputs, uniform; scales are 1, shifts and the head's bias 0."""
        params: Params = {}
        for name, shape in self.shapes().items():
            if name.endswith("weight"):
                params[name] = _uniform(shape, math.sqrt(3 / shape[0]), generator)
            else:
                params[name] = torch.full(shape, float(name.endswith("scale")))
        return params

    def init_statistics(self, *leading: int) -> BatchStatistics:
        """Return means of 0 and variances of 1 (*leading, F)."""
        names = [f"{norm}.{kind}" for norm in self.norms for kind in ("mean", "variance")]
        return {name: torch.full((*leading, self.options.filters), float(name.endswith("variance"))) for name in names}

    def forward(
        self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None
    ) -> tuple[Tensor, BatchStatistics]:
        """Return (outputs (N, O) or features (N, D), statistics used) of images (N, H, W, C).

        ``statistics`` None stands for those of this batch.
        """
        maps_NHWF, used = inputs, {}
        for index, norm in enumerate(self.norms):
            weight_PF = params[f"convolution.{index}.weight"]
            if self.options.pooling:
                maps_NHWF = torch_convolve(maps_NHWF, weight_PF, stride=1)
                maps_NHWF = F.max_pool2d(maps_NHWF.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            else:
                maps_NHWF = convolve(maps_NHWF, weight_PF)
            moments = None if statistics is None else (statistics[f"{norm}.mean"], statistics[f"{norm}.variance"])
            maps_NHWF, moments = batch_norm(maps_NHWF, params[f"{norm}.scale"], params[f"{norm}.shift"], moments)
            used[f"{norm}.mean"], used[f"{norm}.variance"] = moments
            maps_NHWF = torch.relu(maps_NHWF)
        features_ND = maps_NHWF.flatten(1) if self.options.readout == "flatten" else maps_NHWF.mean((1, 2))
        if self.outputs is None:
            return features_ND, used
        return torch.addmm(params["head.bias"], features_ND, params["head.weight"]), used


Net = Perceptron | ConvNet
"""A network as a function of its parameters."""


def batch_norm(
    maps: Tensor, scale_F: Tensor, shift_F: Tensor, moments: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Return (normalised maps, (mean_F, variance_F) used); ``moments`` None stands for those of this batch."""
    if moments is None:
        axes = tuple(range(maps.dim() - 1))
        mean_F = maps.mean(axes)
        centred = maps - mean_F
        variance_F = centred.square().mean(axes)  # torch.var_mean takes five times as long over several axes.
        return centred * (scale_F * torch.rsqrt(variance_F + VARIANCE_EPSILON)) + shift_F, (mean_F, variance_F)
    mean_F, variance_F = moments
    factor_F = scale_F * torch.rsqrt(variance_F + VARIANCE_EPSILON)
    return maps * factor_F + (shift_F - mean_F * factor_F), moments
