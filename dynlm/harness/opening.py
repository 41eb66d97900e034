"""From arguments to a model that adapts while it reads: that of a run, or a pretrained one that is not copied."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.adapt.rules.registry import RULES
from dynlm.data.options import TokenizerOptions
from dynlm.errors import UserError
from dynlm.harness.arguments import Arguments, changed
from dynlm.models.hf.options import HFOptions
from dynlm.models.registry import build_model
from dynlm.run.folder import TrainedModel
from dynlm.run.memory_store import given_constants
from dynlm.run.opening import open_dynamic_model
from dynlm.run.run import Run
from dynlm.runtime.distributed import Processes
from dynlm.runtime.tensors import params_fingerprint

SEGMENT = 128
"""Tokens between two updates of a pretrained model where they are not given, as of one that is adopted."""
OWN = ("run", "pretrained", "device", "seed")
"""Arguments that are no options of a section."""


class Opened(NamedTuple):
    """A model, the options of its memory, the seed, and ``tuned_on``: what the rule's constants come from."""

    trained: TrainedModel
    memory: MemoryOptions
    dynamic_model: DynamicModel
    seed: int
    tuned_on: list[dict[str, Any]] | None


def open_model(arguments: Arguments) -> Opened:
    """Load the model that ``arguments`` name. Raises UserError, naming the argument, for what does not fit."""
    return _open_pretrained(arguments) if arguments.is_pretrained else _open_run(arguments)


def _open_run(arguments: Arguments) -> Opened:
    device = _device(arguments.device)
    with _naming(f"run={arguments.source}"):
        run = Run.open(arguments.source, device=device)
        if arguments.seed is not None:
            run = run.with_sections(run.options.replace(seed=arguments.seed))
        own = run.section(MemoryOptions)
    memory = changed(own, arguments.memory, OWN)
    with _naming(f"run={arguments.source}"):
        run = run.with_sections(memory)
        opened = run.trained, memory, run.dynamic_model(), run.options.seed
        return Opened(*opened, run.store.tuned_on(memory))


def _open_pretrained(arguments: Arguments) -> Opened:
    if "rule" not in arguments.memory:
        do = "write rule=none for the static model, or a rule and its constants, such as rule=adam,lr=1e-3,lora_rank=8"
        raise UserError("model_args: pretrained is given without rule", do=do)
    memory = changed(StepOptions(), arguments.memory, OWN)
    _check_constants(memory)
    options = changed(HFOptions(kind="hf"), arguments.model)
    device = _device(arguments.device) or Processes.start(cpu=False).device
    with _naming(f"pretrained={arguments.source}"):
        trained = _load(arguments, options, device)
    if "segment" not in arguments.memory:
        window: Any = trained.model.options
        memory = memory.replace(segment=min(SEGMENT, window.stride))
    with _naming("model_args"):
        trained = trained.with_targets(memory.targets_of(arguments.seed or 0))
        dynamic_model = open_dynamic_model(Path(arguments.source), trained, memory)
    tuned_on = None if dynamic_model.is_static else [{"what": "rates", "how": "given"}]
    return Opened(trained, memory, dynamic_model, arguments.seed or 0, tuned_on)


def _load(arguments: Arguments, options: HFOptions, device: torch.device) -> TrainedModel:
    """Load a pretrained model without a run. Raises UserError as ``load_pretrained`` does."""
    from dynlm.data.tokenizers.pretrained import PretrainedTokenizer
    from dynlm.models.hf.load import load_pretrained

    found = load_pretrained(arguments.source, options.dtype if "dtype" in arguments.model else "auto")
    kind = str(next(iter(found.params.values())).dtype).removeprefix("torch.")
    model: Any = build_model(options.replace(architecture=found.architecture, dtype=kind), found.vocab_size)
    positions = getattr(model.config, "max_position_embeddings", None) or options.context
    if options.context > positions:
        if "context" in arguments.model:
            what = f"context is {options.context}, and the model has {positions} positions"
            raise UserError(what, do="choose at most as many")
        stride = arguments.model.get("stride", max(1, positions // 2))
        model = dataclasses.replace(model, options=model.options.replace(context=positions, stride=stride))
    tokens = TokenizerOptions(kind="pretrained", vocab_size=model.vocab_size)
    params = {name: tensor.to(device) for name, tensor in found.params.items()}
    card = {
        "adopted_from": arguments.source,
        "parameters": sum(tensor.numel() for tensor in params.values()),
        "fingerprint": params_fingerprint(params),
    }
    return TrainedModel(model, params, PretrainedTokenizer(tokens, found.tokenizer, found.start), card)


def _check_constants(memory: MemoryOptions) -> None:
    """Raise UserError where the memory of a pretrained model needs what only a run keeps."""
    kind, do = RULES[memory.rule], "`dynlm adopt` the model, tune its memory, and give run="
    if kind.learned or kind.needs_statistics:
        what = "parameters that were learned" if kind.learned else "gradient statistics"
        raise UserError(f"model_args: rule={memory.rule} needs {what}, which a run keeps", do=do)
    constants = kind.constants(memory)
    for name in kind.searched:
        if constants[name] is None:
            raise UserError(f"model_args: rule={memory.rule} needs {name}", do=f"give {name}=VALUE, or {do}")
    if memory.cache != "none":
        missing = [f"cache_{name}" for name, value in given_constants(memory).items() if value is None]
        if memory.cache == "learned" or missing:
            what = "a gate that was learned" if memory.cache == "learned" else missing[0]
            raise UserError(f"model_args: cache={memory.cache} needs {what}", do=do)


def _device(name: str | None) -> torch.device | None:
    """Return the device of this name; None where none is named, and for a GPU (the harness's default) without one."""
    if name is None or (name.startswith("cuda") and not torch.cuda.is_available()):
        return None
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts what it was built with
        reason = str(error).partition("\n")[0]
        raise UserError(f"model_args: device is {name!r} ({reason})", do="choose cpu or cuda") from error
    return device


@contextlib.contextmanager
def _naming(argument: str) -> Iterator[None]:
    """Begin a UserError of the block with the argument that it is about."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{argument}: {error}") from error
