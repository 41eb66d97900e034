"""Networks as functions of their parameters, written for one task and mapped over tasks with ``torch.func.vmap``.

Legend: N examples, B images, T tasks, H x W pixels, h = ceil(H / 2), w = ceil(W / 2), C channels, P = 9 * C, F filters,
O outputs, D features.

Batch norm has no hidden state: a forward pass returns the statistics of its batch, and accepts those of another.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dynlm.errors import UserError
from dynlm.runtime.validation import LARGEST_WIDTH, Section, bounded
from dynlm.types import Params

VARIANCE_EPSILON = 1e-3
"""Added to variances in batch norm."""
_ACTIVATIONS = {"relu": torch.relu, "silu": F.silu, "gelu": F.gelu, "tanh": torch.tanh}

BatchStatistics = Params
"""Mean and variance (F,) of each normalised layer, by name."""
Outputs = tuple[Tensor, BatchStatistics]
"""Outputs of a network, and the statistics that they were normalised by."""


def uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    """Return numbers drawn uniformly from -bound to bound."""
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
    """Linear layers with an activation between them; by default from one input to one output (Finn et al. 2017)."""

    def __init__(self, options: PerceptronOptions, inputs: int = 1, outputs: int = 1):
        self.widths, self.gains = (inputs, *options.hidden, outputs), options.gains or [1.0] * (len(options.hidden) + 1)
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
        bounds = [math.sqrt(1 / max(1, width)) * gain for width, gain in zip(self.widths, self.gains, strict=False)]
        shapes = self.shapes().items()
        return {name: uniform(shape, bounds[int(name.split(".")[1])], generator) for name, shape in shapes}

    def forward(self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None) -> Outputs:
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
                params[name] = uniform(shape, math.sqrt(3 / shape[0]), generator)
            else:
                params[name] = torch.full(shape, float(name.endswith("scale")))
        return params

    def init_statistics(self, *leading: int) -> BatchStatistics:
        """Return means of 0 and variances of 1 (*leading, F)."""
        names = [f"{norm}.{kind}" for norm in self.norms for kind in ("mean", "variance")]
        return {name: torch.full((*leading, self.options.filters), float(name.endswith("variance"))) for name in names}

    def forward(self, params: Params, inputs: Tensor, statistics: BatchStatistics | None = None) -> Outputs:
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


def convolve(images_BHWC: Tensor, weight_PF: Tensor) -> Tensor:
    """Convolve 3x3 with stride 2 and padding 1 (B, h, w, F); rows of ``weight_PF`` are (3, 3, C) flattened.

    If each task has its own weights, ``vmap`` of a convolution is a grouped convolution, whose kernels and second
    derivatives are slow. Extracting patches is linear, and its transpose sums patches into an image: each is the
    derivative of the other, to any order. ``torch.nn.functional.unfold`` gives the same bits, 20 to 30 % slower.
    """
    patches_BhwP: Tensor = _Im2Col.apply(images_BHWC)
    return patches_BhwP @ weight_PF


def torch_convolve(images_BHWC: Tensor, weight_PF: Tensor, stride: int) -> Tensor:
    """Convolve 3x3 with padding 1 by torch's own kernels, which suit large feature maps."""
    channels, filters = images_BHWC.shape[-1], weight_PF.shape[-1]
    weight_FC33 = weight_PF.reshape(3, 3, channels, filters).permute(3, 2, 0, 1).contiguous()
    maps_BFhw = F.conv2d(images_BHWC.permute(0, 3, 1, 2), weight_FC33, stride=stride, padding=1)
    return maps_BFhw.permute(0, 2, 3, 1)


def _offsets(height: int, width: int) -> list[tuple[slice, slice, slice]]:
    """Return, for each of the 9 kernel positions, the pixels of the padded images that it meets."""
    rows, columns = (height + 1) // 2 * 2 - 1, (width + 1) // 2 * 2 - 1
    return [(slice(None), slice(i, i + rows, 2), slice(j, j + columns, 2)) for i in range(3) for j in range(3)]


class _Im2Col(torch.autograd.Function):
    """Images (B, H, W, C) to their patches (B, h, w, P), with zeros around the border."""

    @staticmethod
    def forward(images: Tensor) -> Tensor:
        count, height, width, channels = images.shape
        padded = F.pad(images, (0, 0, 1, 1, 1, 1))
        patches = padded.new_empty(count, (height + 1) // 2, (width + 1) // 2, 9, channels)
        for position, pixels in enumerate(_offsets(height, width)):
            patches[:, :, :, position] = padded[pixels]
        return patches.flatten(3)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.size = inputs[0].shape[-3:-1]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Col2Im.apply(gradients[0], *ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], images: Tensor) -> tuple[Tensor, int]:
        images = images.movedim(in_dims[0], 0)
        return _Im2Col.apply(images.flatten(0, 1)).unflatten(0, images.shape[:2]), 0


class _Col2Im(torch.autograd.Function):
    """The transpose of ``_Im2Col``: patches summed into images of ``height`` x ``width`` pixels."""

    @staticmethod
    def forward(patches: Tensor, height: int, width: int) -> Tensor:
        patches = patches.unflatten(3, (9, -1))
        padded = patches.new_zeros(len(patches), height + 2, width + 2, patches.shape[-1])
        for position, pixels in enumerate(_offsets(height, width)):
            padded[pixels] += patches[:, :, :, position]
        return padded[:, 1:-1, 1:-1].contiguous()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, int], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Im2Col.apply(gradients[0]), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, patches: Tensor, height: int, width: int) -> tuple[Tensor, int]:
        patches = patches.movedim(in_dims[0], 0)
        return _Col2Im.apply(patches.flatten(0, 1), height, width).unflatten(0, patches.shape[:2]), 0
