"""A memory as an adapter folder: what servers load, and the memory itself, with which reading goes on.

    adapter_model.safetensors, adapter_config.json   the weights that moved, as PEFT keeps them (models/hf/adapter)
    dynlm.safetensors                                the memory file, with the rule's state; private as that is
    dynlm.json                                       what the folder holds, for people and for ``memory_file_of``

The factors of a low-rank memory are the adapter, exactly. Weights that moved as a whole are approximated by factors.
The adapter is named by its content: servers that keep keys and values of earlier prompts know an adapter by its name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dynlm
from dynlm.adapt.dynamic_model import DynamicModel, Memory
from dynlm.adapt.memory_file import About, SavedMemory, load_about, save_memory
from dynlm.adapt.options import MemoryOptions
from dynlm.errors import UserError
from dynlm.runtime.parsing import read_json, write_json
from dynlm.runtime.tensors import load_tensors, params_fingerprint
from dynlm.types import Params

if TYPE_CHECKING:
    from dynlm.models.hf.adapter import Adapter, Base
    from dynlm.models.hf.truncation import Truncation

MEMORY, DESCRIPTION = "dynlm.safetensors", "dynlm.json"
FORMAT = 1
_AGAIN = "export the memory again"


class AdapterOptions(NamedTuple):
    """How a memory becomes an adapter.

    ``name`` precedes the fingerprint in the adapter's name. ``rank``: of factors that approximate weights which moved
    as a whole. ``drop`` leaves out tensors that moved and have no place in an adapter, which are an error otherwise.
    ``named``: the folder is made, by the adapter's name, in the folder that is given.
    """

    name: str = "memory"
    rank: int = 16
    drop: bool = False
    named: bool = False


@dataclass(frozen=True)
class MemoryAdapter:
    """An adapter made of a memory; ``truncation`` where its weights moved as a whole; ``rank`` without padding."""

    adapter: Adapter
    name: str
    rank: int
    truncation: Truncation | None = None

    @property
    def dropped(self) -> list[str]:
        """The tensors that moved and are not in the adapter."""
        return [] if self.truncation is None else list(self.truncation.dropped)


def require_transformer(dynamic_model: DynamicModel) -> None:
    """Raise UserError for a model that is no pretrained transformer."""
    if (kind := dynamic_model.model.options.kind) != "hf":
        what = f"the model is of kind {kind!r}, and adapters are of pretrained transformers"
        raise UserError(what, do="read with a run that `dynlm adopt` made")


def current_params(memory: Memory, dynamic_model: DynamicModel) -> Params:
    """Return all parameters of a memory's model with its dynamic weights (one lane)."""
    return {**dynamic_model.static, **{name: theta[0] for name, theta in memory.params.items()}}


def adapter_of_memory(memory: Memory, dynamic_model: DynamicModel, how: AdapterOptions) -> MemoryAdapter:
    """Return the weights of ``memory`` (one lane) as an adapter.

    Raises UserError for a model that is no pretrained transformer, for a memory without dynamic weights, where no
    linear layer moved, and for tensors that moved and have no place in an adapter unless ``how.drop``.
    """
    require_transformer(dynamic_model)
    from dynlm.models.hf.adapter import adapter_of
    from dynlm.models.hf.model import HFModel
    from dynlm.models.hf.truncation import truncate

    model = dynamic_model.model
    assert isinstance(model, HFModel)
    if not memory.params:
        raise UserError("this memory has no weights that move", do="read with a memory.rule other than none")
    truncation = None
    if model.targets.rank:
        adapter = adapter_of(model, current_params(memory, dynamic_model))
    else:
        moved = {name: theta[0] for name, theta in memory.params.items()}
        try:
            truncation = truncate(model, dynamic_model.static, moved, how.rank)
        except ValueError as error:
            raise UserError(str(error), do="read with memory.targets that name linear layers") from error
        adapter, dropped = truncation.adapter, list(truncation.dropped)
        if dropped and not how.drop:
            what = f"an adapter of linear layers has no place for {len(dropped)} tensors that moved"
            shown = ", ".join(dropped[:20]) + (f" and {len(dropped) - 20} more" if len(dropped) > 20 else "")
            raise UserError(f"{what} ({shown})", do="give --drop to leave them out, or read with other memory.targets")
    padded = adapter.padded()
    name = re.sub(r"[^\w.-]+", "-", how.name).strip("-.") or "memory"
    return MemoryAdapter(padded, f"{name}-{padded.fingerprint}", adapter.rank, truncation)


def save_memory_folder(
    folder: Path,
    saved: SavedMemory,
    dynamic_model: DynamicModel,
    options: MemoryOptions,
    base: Base,
    how: AdapterOptions = AdapterOptions(),  # noqa: B008 - a constant
) -> tuple[Path, MemoryAdapter]:
    """Write a memory of ``dynamic_model``, which has ``options``, as an adapter folder that reading can go on from.

    It appears whole or not at all; only its owner can read the tensors. Returns where it is, and the adapter. Raises
    UserError as ``adapter_of_memory``, ``save_adapter`` and ``save_memory`` do.
    """
    made = adapter_of_memory(saved.memory, dynamic_model, how)
    from dynlm.models.hf.adapter import save_adapter

    def add_memory(staged: Path) -> None:
        about = save_memory(staged / MEMORY, saved, dynamic_model, options, base.fingerprint)
        write_json(staged / DESCRIPTION, _describe(made, about, dynamic_model, base))

    folder = folder / made.name if how.named else folder
    save_adapter(folder, made.adapter, base, add_memory)
    return folder, made


def memory_file_of(folder: Path) -> Path:
    """Return the memory file in an adapter folder, whose adapter is still the one that was made of it.

    Raises UserError for a folder that is damaged, has no memory, or whose adapter was changed since.
    """
    from dynlm.models.hf.adapter import CONFIG, TENSORS

    path = folder / DESCRIPTION
    if not path.exists():
        raise UserError("no adapter folder with a memory", folder, "name one that `dynlm memory export` wrote")
    match read_json(path):
        case {"format": int(version)} if version > FORMAT:
            raise UserError(f"of format {version}, newer than this dynlm reads ({FORMAT})", path, "upgrade dynlm")
        case {"adapter": {"tensors": str(tensors), "config": dict(config)}, "memory": {"content": str(content)}}:
            pass
        case _:
            raise UserError("not a description of a memory's adapter", path, _AGAIN)
    if load_about(folder / MEMORY)[0].content != content:
        raise UserError("the memory is not the one that dynlm.json describes", folder, _AGAIN)
    if params_fingerprint(load_tensors(folder / TENSORS)[0]) != tensors or read_json(folder / CONFIG) != config:
        what = "the adapter was changed since it was made of the memory, which does not know of it"
        raise UserError(what, folder, _AGAIN)
    return folder / MEMORY


def not_carried_over(saved: SavedMemory, dynamic_model: DynamicModel) -> list[str]:
    """Return what of a memory an adapter does not hold, beside the rule: a server does not learn."""
    parts = {
        "the cache": saved.memory.cache is not None,
        "the mixture with the static model (memory.no_regret)": saved.memory.mixture is not None,
        "the text of the unfinished article": saved.unfinished is not None,
        "the return to the static weights at each article (memory.reset article)": dynamic_model.reset == "article",
    }
    return [what for what, applies in parts.items() if applies]


def _describe_truncation(truncation: Truncation) -> dict[str, Any]:
    return {"relative_error": truncation.error, "errors": truncation.errors, "dropped": truncation.dropped}


def _describe(made: MemoryAdapter, about: About, dynamic_model: DynamicModel, base: Base) -> dict[str, Any]:
    """Return the content of ``dynlm.json``."""
    adapter, truncation = made.adapter, made.truncation
    model = {name: value for name, value in vars(dynamic_model.model.options).items() if name != "architecture"}
    return {
        "format": FORMAT,
        "dynlm": dynlm.__version__,
        "name": made.name,
        "adapter": {
            "fingerprint": adapter.fingerprint,
            "tensors": params_fingerprint(adapter.tensors()),
            "config": adapter.config(base),
            "rank": made.rank,
            "made_of": "factors" if truncation is None else "whole weights",
            **({} if truncation is None else _describe_truncation(truncation)),
        },
        "base": base._asdict(),
        "model": model,
        "memory": {
            "content": about.content,
            "constants": about.constants,
            "options": about.options,
            "rule": about.rule,
            "tokens": about.tokens,
            "articles": about.articles,
            "unfinished": about.unfinished,
        },
    }
