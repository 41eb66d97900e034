"""Low-rank updates of a pretrained model's linear layers as an adapter folder of PEFT, which servers load too.

    adapter_model.safetensors   lora_A (rank, in) and lora_B (out, rank) of each layer, float32
    adapter_config.json         rank, scale, layers, the base model

A layer's weights W (out, in) become W + scale * B A. Only linear layers have updates: no output layer, embedding, bias
or norm gain, which servers refuse. The scale is always ``lora_alpha / r``: some tools ignore ``use_rslora``. Ranks are
padded with zeros to those that servers are configured for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.pytorch_utils import Conv1D

from dynlm.errors import UserError
from dynlm.models.hf.low_rank import LowRankLinear
from dynlm.models.hf.model import HFModel
from dynlm.runtime.files import commit_dir, exclusive, staging_dir
from dynlm.runtime.hashing import fingerprint
from dynlm.runtime.parsing import write_json
from dynlm.runtime.tensors import params_fingerprint, save_tensors
from dynlm.types import Params

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank``; text-generation-inference pads others, and scales what it padded wrongly."""
TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."


class LowRank(NamedTuple):
    """The factors of one layer's update B A: ``a`` (rank, in) and ``b`` (out, rank)."""

    a: Tensor
    b: Tensor


class Base(NamedTuple):
    """The model that an adapter belongs to: its static parameters and its tokenizer by their fingerprints.

    ``name``: its folder, or its name on the hub; ``revision``: a commit there.
    """

    fingerprint: str
    tokenizer: str = ""
    name: str | None = None
    revision: str | None = None


@dataclass(frozen=True)
class Adapter:
    """The updates of linear layers by the name of the module, all of one rank."""

    layers: Mapping[str, LowRank]
    scale: float
    target_modules: tuple[str, ...]
    """What selects the layers among all modules of the base model: last parts of their names, or whole names."""
    transposed: bool = False
    """Whether the base model stores W as (in, out): the ``Conv1D`` of GPT-2."""

    @property
    def rank(self) -> int:
        return len(next(iter(self.layers.values())).a)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the factors and of their scale: it changes whenever predictions may."""
        return fingerprint(params_fingerprint(self.tensors()), repr(self.scale))

    def tensors(self) -> Params:
        """Return the factors by the names that PEFT gives them in a file."""
        return {
            f"{_PREFIX}{name}.lora_{factor}.weight": tensor.detach().float()
            for name, layer in self.layers.items()
            for factor, tensor in zip("AB", layer, strict=True)
        }

    def config(self, base: Base) -> dict[str, Any]:
        """Return the content of ``adapter_config.json``."""
        alpha = self.scale * self.rank
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base.name,
            "revision": base.revision,
            "r": self.rank,
            "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
            "lora_dropout": 0.0,
            "use_rslora": False,
            "use_dora": False,
            "bias": "none",
            "fan_in_fan_out": self.transposed,
            "init_lora_weights": True,
            "target_modules": list(self.target_modules),
            "modules_to_save": None,
            "inference_mode": True,
        }

    def padded(self) -> Adapter:
        """Return the same updates with zeros up to the next of ``RANKS``; above the last of them, as they are."""
        more = next((rank for rank in RANKS if rank >= self.rank), self.rank) - self.rank
        layers = {name: LowRank(pad(a, (0, 0, 0, more)), pad(b, (0, more))) for name, (a, b) in self.layers.items()}
        return replace(self, layers=layers) if more else self

    def merged(self, static: Params) -> Params:
        """Return the weights of the layers with their updates; ``static`` has the base model's."""
        merged = {}
        for name, (a, b) in self.layers.items():
            update = self.scale * (b.float() @ a.float())
            merged[f"{name}.weight"] = static[f"{name}.weight"].float() + (update.T if self.transposed else update)
        return merged


def adapter_of(model: HFModel, params: Params) -> Adapter:
    """Return the low-rank factors of ``model`` (``add_lora``) as an adapter; ``params`` has their values.

    Factors that did not move are part of it. Raises ValueError for a model without factors.
    """
    targets, layers = model.targets, {}
    for name in model.shapes():
        module, dot, _ = name.partition(".lora_B.")
        if dot:
            layers[module] = LowRank(params[f"{module}.lora_A.weight"], params[name])
    if not layers:
        raise ValueError("a model without low-rank factors")
    return make_adapter(model, layers, targets.scale)


def make_adapter(model: HFModel, layers: Mapping[str, LowRank], scale: float) -> Adapter:
    """Return the adapter of ``layers``, linear layers of ``model``, which may have factors itself."""
    modules = {name: module for name, module in model.module.named_modules() if _is_of_base(name)}
    last = {name.rpartition(".")[2] for name in layers}
    selected = {name for name in modules if name.rpartition(".")[2] in last}
    transposed = {is_transposed(modules[name]) for name in layers}
    if len(transposed) > 1:
        raise UserError("some of these layers store their weights transposed", do="choose memory.targets of one kind")
    return Adapter(layers, scale, tuple(sorted(last if selected == set(layers) else layers)), transposed.pop())


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a linear layer, with or without factors, stores its weights as (in, out)."""
    return layer.inputs_first if isinstance(layer, LowRankLinear) else isinstance(layer, Conv1D)


def _is_of_base(name: str) -> bool:
    """Return whether a module of a model with factors is one of the model without them."""
    return not name.endswith((".lora_A", ".lora_B"))


def save_adapter(
    folder: Path, adapter: Adapter, base: Base, add_files: Callable[[Path], object] = lambda staged: None
) -> None:
    """Write the adapter folder ``folder``, which appears whole or not at all; only its owner can read the tensors.

    ``add_files`` is called with the folder under its temporary name, to write more files into it. Raises UserError if
    ``folder`` holds files, cannot be written, or the adapter is not finite.
    """
    tensors = adapter.tensors()
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"no adapter is written: {name} is not finite", folder, "lower the rule's rate")
    with exclusive(folder, "this adapter"):
        refuse_existing(folder)
        with staging_dir(folder.parent, folder) as staged:
            save_tensors(staged / TENSORS, tensors, private=True, metadata={"format": "pt"})
            write_json(staged / CONFIG, adapter.config(base))
            add_files(staged)
            commit_dir(staged, folder)


def refuse_existing(folder: Path) -> None:
    """Raise UserError if ``folder`` is a file, or a folder that is not empty."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise UserError("there is something already", folder, "choose another folder")
