"""Low-rank updates of a pretrained model's matrices (LoRA: Hu et al. 2021, arXiv 2106.09685), by PEFT's own layers.

A matrix W becomes W + scale * B A, with A (rank, in) and B (out, rank). B starts at zero, so the model starts as it is;
there the gradient of A is zero too: the first step moves B alone, and statistics of gradients at the start know only B.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from dynlm.models.hf.model import HFModel, skeleton_of
from dynlm.models.options import Targets
from dynlm.models.protocol import matching_names
from dynlm.types import Params

_ADAPTER = "default"


def lora_config(model: HFModel, targets: Targets) -> LoraConfig:
    """Return PEFT's description of the factors of the matrices that ``targets`` names.

    Raises UserError for a pattern that fits no matrix.
    """
    modules = matching_names(matrices(model), targets.patterns)
    return LoraConfig(
        r=targets.rank,
        lora_alpha=targets.alpha,  # type: ignore[arg-type]  # any number will do
        use_rslora=targets.scaling == "sqrt",
        target_modules=list(modules),
        fan_in_fan_out=isinstance(model.module.get_submodule(modules[0]), Conv1D),
        task_type="CAUSAL_LM",
    )


def matrices(model: HFModel) -> list[str]:
    """Return the names of the modules whose matrices can have factors: all linear layers but the output layer."""
    head = model.module.get_output_embeddings()
    modules = model.module.named_modules()
    return [name for name, module in modules if isinstance(module, (nn.Linear, Conv1D)) and module is not head]


def add_lora(model: HFModel, targets: Targets) -> tuple[HFModel, Params]:
    """Return ``model`` with factors, and the factors' initial values (float32) as PEFT draws them."""
    config, skeleton = lora_config(model, targets), skeleton_of(model.module)
    skeleton = inject_adapter_in_model(config, skeleton, _ADAPTER, low_cpu_mem_usage=True).eval()
    names = {_public(name): name for name, _ in skeleton.named_parameters()}
    factors = {}
    generator = torch.Generator().manual_seed(targets.seed)
    for name, inner in names.items():
        if ".lora_" in name:
            factors[name] = torch.zeros(skeleton.get_parameter(inner).shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(factors[name], a=math.sqrt(5), generator=generator)
    return replace(model, module=skeleton, names=names, targets=targets), factors


def _public(inner: str) -> str:
    """Return a parameter's name as in the model without factors, or as PEFT stores a factor."""
    return inner.replace(".base_layer.", ".").replace(f".{_ADAPTER}.", ".")
