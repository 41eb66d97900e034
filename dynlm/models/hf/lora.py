"""Low-rank updates of a pretrained model's matrices (LoRA: Hu et al. 2021, arXiv 2106.09685).

A matrix W becomes W + scale * B A, with A (rank, in) and B (out, rank). B starts at zero, so the model starts as it is;
there the gradient of A is zero too: the first step moves B alone, and statistics of gradients at the start know only B.
The names of the factors, their initial values and the scale are PEFT's.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dynlm.models.hf.low_rank import LowRankLinear
from dynlm.models.hf.model import HFModel, skeleton_of
from dynlm.models.options import Targets
from dynlm.models.protocol import matching_names
from dynlm.types import Params


def matrices(model: HFModel) -> list[str]:
    """Return the names of the modules whose matrices can have factors: all linear layers but the output layer."""
    head, kinds = model.module.get_output_embeddings(), (nn.Linear, Conv1D, LowRankLinear)
    modules = [(name, each) for name, each in model.module.named_modules() if isinstance(each, kinds)]
    return [name for name, each in modules if each is not head and not name.endswith((".lora_A", ".lora_B"))]


def add_lora(model: HFModel, targets: Targets) -> tuple[HFModel, Params]:
    """Return ``model`` with factors beside the matrices that ``targets`` names, and their initial values (float32).

    Raises UserError for a pattern that fits no matrix.
    """
    skeleton = skeleton_of(model.module)
    for name in matching_names(matrices(model), targets.patterns):
        parent, _, last = name.rpartition(".")
        layer = LowRankLinear(skeleton.get_submodule(name), targets.rank, targets.scale)
        setattr(skeleton.get_submodule(parent), last, layer)
    factors = {}
    generator = torch.Generator().manual_seed(targets.seed)
    for name, parameter in skeleton.named_parameters():
        if ".lora_" in name:
            factors[name] = torch.zeros(parameter.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(factors[name], a=math.sqrt(5), generator=generator)
    return replace(model, module=skeleton, targets=targets), factors
