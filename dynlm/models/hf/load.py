"""Reading a pretrained model of ``transformers``: its weights, its configuration and its tokenizer."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dynlm.errors import UserError
from dynlm.models.hf.options import num_positions

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

    from dynlm.types import Params


class Pretrained(NamedTuple):
    """A pretrained model: configuration (JSON), weights, tokenizer, start token, size of the vocabulary, positions.

    ``positions`` is None where their number has no limit.
    """

    architecture: str
    params: Params
    tokenizer: Backend
    start: int
    vocab_size: int
    positions: int | None


def load_pretrained(source: str, dtype: str = "auto") -> Pretrained:
    """Load a folder, a name on the hub, or a GGUF file.

    Raises UserError if the extra ``dynlm[hf]`` is not installed, or if there is no causal language model with a fast
    tokenizer at ``source``.
    """
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UserError("pretrained models need more packages", source, "pip install dynlm[hf]") from error
    path, more = Path(source).expanduser(), {}
    if path.suffix.lower() == ".gguf":
        folder, more = path.parent, {"gguf_file": path.name}
        if not path.is_file():
            raise UserError("no such GGUF file", source, "name a folder, a file or a model on the hub")
    elif path.is_dir():
        folder = path
    elif path.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise UserError("no such folder", source, "name a folder, a GGUF file or a model on the hub")
    else:
        folder = Path(source)
    with _loading_errors(source):
        kind = "auto" if dtype == "auto" else getattr(torch, dtype)
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=kind, **more)
        tokenizer = AutoTokenizer.from_pretrained(folder, **more)
    return describe(module, tokenizer, source)


def describe(module: Any, tokenizer: Any, source: str) -> Pretrained:
    """Return what a model and its tokenizer are made of: the same tensors, detached, and the same tokenizer.

    Raises UserError for a tokenizer without a fast form or with tokens that the model does not have, and for weights
    that are not finite.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise UserError("its tokenizer has no fast form", source, "choose a model with a tokenizer.json")
    config = {"model_type": module.config.model_type, **module.config.to_diff_dict()}
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path"):  # it is dequantised, and copied
        config.pop(name, None)
    text = module.config.get_text_config(decoder=True)
    if (size := _tokens_of_text(tokenizer.backend_tokenizer)) > text.vocab_size:
        raise UserError(f"the tokenizer has {size:,} tokens, the model {text.vocab_size:,}", source, "give its own one")
    starts = (tokenizer.bos_token_id, text.bos_token_id, tokenizer.eos_token_id)
    start = next((token for token in starts if isinstance(token, int) and 0 <= token < text.vocab_size), 0)
    params = {name: tensor.detach() for name, tensor in module.named_parameters()}
    for name, tensor in params.items():
        if not bool(tensor.isfinite().all()):
            raise UserError(f"{name} is not finite", source, "restore the file")
    return Pretrained(
        json.dumps(config, sort_keys=True),
        params,
        tokenizer.backend_tokenizer,
        start,
        text.vocab_size,
        num_positions(module.config),
    )


def _tokens_of_text(tokenizer: Backend) -> int:
    """Return the number of tokens up to the last one that a text can have: special tokens are read as plain text."""
    special = {index for index, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    return max((index for index in tokenizer.get_vocab().values() if index not in special), default=-1) + 1


def hub_revision(source: str) -> str | None:
    """Return the commit of a model on the hub that ``load_pretrained`` has loaded; None for a folder or a file."""
    from huggingface_hub import try_to_load_from_cache

    if Path(source).expanduser().exists():
        return None
    found = try_to_load_from_cache(source, "config.json")
    return Path(found).parent.name if isinstance(found, str) else None


def describe_loaded(module: Any, tokenizer: Any) -> Pretrained:
    """Return what a model in memory is made of; see ``describe``.

    Raises UserError also for anything but a causal language model of ``transformers`` with weights of its own, on one
    device, and for a tokenizer of another model.
    """
    try:
        from transformers import PreTrainedModel
    except ImportError as error:
        raise UserError("pretrained models need more packages", do="pip install dynlm[hf]") from error
    what = type(module).__name__
    if not isinstance(module, PreTrainedModel) or module.get_output_embeddings() is None:
        raise UserError(f"a {what} is no causal language model of transformers", do="load an AutoModelForCausalLM")
    if getattr(module, "peft_config", None):
        raise UserError("the model has adapters of PEFT", what, "merge or unload them first")
    for name, parameter in module.named_parameters():
        if not parameter.is_floating_point():
            raise UserError(f"{name} is quantised ({parameter.dtype})", what, "load the model without quantisation")
        if parameter.is_inference():
            raise UserError("it was loaded in torch.inference_mode", what, "load it outside of that, or in no_grad")
    devices = sorted({str(parameter.device) for parameter in module.parameters()})
    if len(devices) > 1 or devices == ["meta"]:
        raise UserError(f"its weights are on {' and '.join(devices)}", what, "load the model to one device")
    return describe(module, tokenizer, what)


@contextlib.contextmanager
def _loading_errors(source: str) -> Iterator[None]:
    """Turn what ``transformers`` and the hub's client raise into a UserError; show no progress bars meanwhile."""
    from safetensors import SafetensorError
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"not a causal language model that can be loaded ({reason})", source) from error
    finally:
        if shown:
            logging.enable_progress_bar()
