"""Low-rank updates of a pretrained model's matrices (LoRA: Hu et al. 2021, arXiv 2106.09685), by PEFT's own layers.

A matrix W becomes W + scale * B A, with A (rank, in) and B (out, rank). B starts at zero, so the model starts as it is;
there the gradient of A is zero too, and the first step moves B alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from dynlm.models.hf.model import HFModel, skeleton_of
from dynlm.types import Params

_ADAPTER = "default"


@dataclass(frozen=True)
class LoRA:
    """Rank and scale of the factors: ``alpha / rank``, or ``alpha / sqrt(rank)`` (rsLoRA: Kalajdzievski 2023)."""

    rank: int
    alpha: float
    scaling: Literal["rank", "sqrt"] = "rank"

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / (self.rank if self.scaling == "rank" else math.sqrt(self.rank))


def matrices(model: HFModel) -> list[str]:
    """Return the names of the modules whose matrices can have factors; a tied output layer has none."""
    tied = model.module.get_output_embeddings() if model.config.tie_word_embeddings else None
    return [
        name
        for name, module in model.module.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not tied
    ]


def add_lora(model: HFModel, modules: Sequence[str], lora: LoRA, generator: torch.Generator) -> tuple[HFModel, Params]:
    """Return ``model`` with factors of the matrices of ``modules``, and the factors' initial values (float32)."""
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        use_rslora=lora.scaling == "sqrt",
        target_modules=list(modules),
        fan_in_fan_out=isinstance(model.module.get_submodule(modules[0]), Conv1D),
    )
    skeleton = inject_adapter_in_model(config, skeleton_of(model.module), _ADAPTER, low_cpu_mem_usage=True).eval()
    names = {_public(name): name for name, _ in skeleton.named_parameters()}
    factors = {}
    for name, inner in names.items():
        if ".lora_" in name:
            shape = skeleton.get_parameter(inner).shape
            factors[name] = torch.zeros(shape)
            if ".lora_A." in name:  # as PEFT starts it
                nn.init.kaiming_uniform_(factors[name], a=math.sqrt(5), generator=generator)
    return replace(model, module=skeleton, names=names), factors


def _public(inner: str) -> str:
    """Return a parameter's name as in the model without factors, or as PEFT stores a factor."""
    return inner.replace(".base_layer.", ".").replace(f".{_ADAPTER}.", ".")
