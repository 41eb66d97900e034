"""Gradient checkpointing (Chen et al. 2016, arXiv 1604.06174): the backward pass computes a layer's activations again.

``transformers`` drops the key-value cache where it checkpoints, and computes again with the weights that a module then
holds; here the cache stays as it was before the layer, and the weights those of the forward pass.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map as map_tree
from torch.utils.checkpoint import checkpoint
from transformers import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from dynlm.errors import UserError


class CheckpointedLayer(nn.Module):
    """A layer that keeps its inputs alone for the backward pass. Other attributes are the layer's."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)

    def forward(self, *args: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return self.layer(*args, **options)
        weights = {**dict(self.layer.named_parameters()), **dict(self.layer.named_buffers())}
        before = map_tree(_snapshot, (args, options))
        runs: list[None] = []

        def run(*args: Any) -> Any:
            # The first run writes to the cache; the others find it as it was before.
            own, named = map_tree(_snapshot, before) if runs else (args, options)
            runs.append(None)
            return torch.func.functional_call(self.layer, weights, own, named)

        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)


def with_checkpointing(module: nn.Module) -> nn.Module:
    """Return a copy of ``module``, of the same parameters, whose layers are checkpointed.

    Raises UserError for a model without layers that ``transformers`` marks for it.
    """
    copied: nn.Module = copy.deepcopy(module, {id(parameter): parameter for parameter in module.parameters()})
    layers = [name for name, each in copied.named_modules() if isinstance(each, GradientCheckpointingLayer)]
    if not layers:
        raise UserError("model.checkpointing: this model has no layers for it", do="leave the option out")
    for name in layers:
        parent, _, last = name.rpartition(".")
        setattr(copied.get_submodule(parent), last, CheckpointedLayer(copied.get_submodule(name)))
    return copied


def _snapshot(value: Any) -> Any:
    """Return a cache that updates of this one, which replace tensors, leave as it is; other values as they are."""
    if not isinstance(value, Cache):
        return value
    taken = copy.copy(value)
    taken.layers = [copy.copy(layer) for layer in value.layers]
    return taken
