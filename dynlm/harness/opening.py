"""From arguments to a model that adapts while it reads: that of a run, or a pretrained one that is not copied."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dynlm.adapt.dynamic_model import DynamicModel
from dynlm.adapt.options import MemoryOptions, StepOptions
from dynlm.errors import UserError
from dynlm.harness.arguments import Arguments, changed
from dynlm.models.hf.options import HFOptions
from dynlm.models.registry import build_model
from dynlm.run.folder import TrainedModel
from dynlm.run.opening import open_dynamic_model
from dynlm.run.pretrained import default_segment, default_window, dtype_of, find_missing, trained_model
from dynlm.run.run import Run
from dynlm.runtime.distributed import Processes

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
    opened = _open_pretrained(arguments) if arguments.is_pretrained else _open_run(arguments)
    with _naming("model_args"):
        opened.memory.require_boundaries("the harness")
        opened.memory.require_merged("the harness")
    return opened


def _open_run(arguments: Arguments) -> Opened:
    device = _device(arguments.device)
    with _naming(f"run={arguments.source}"):
        run = Run.open(arguments.source, device=device)
        if arguments.seed is not None:
            run = run.with_sections(run.options.replace(seed=arguments.seed))
        own = run.section(MemoryOptions)
    with _naming("model_args"):
        memory = changed(own, arguments.memory, OWN)
    with _naming(f"run={arguments.source}"):
        run = run.with_sections(memory)
        opened = run.trained, memory, run.dynamic_model(), run.options.seed
        return Opened(*opened, run.store.tuned_on(memory))


def _open_pretrained(arguments: Arguments) -> Opened:
    if "rule" not in arguments.memory:
        do = "write rule=none for the static model, or a rule and its constants, such as rule=adam,lr=1e-3,lora_rank=8"
        raise UserError("model_args: pretrained is given without rule", do=do)
    with _naming("model_args"):
        memory = changed(StepOptions(), arguments.memory, OWN)
        _window(arguments, None)
    _check_constants(memory)
    device = _device(arguments.device) or Processes.start(cpu=False).device
    with _naming(f"pretrained={arguments.source}"):
        trained = _load(arguments, device)
    if "segment" not in arguments.memory:
        memory = memory.replace(segment=default_segment(trained.model))
    with _naming("model_args"):
        trained = trained.with_targets(memory.targets_of(arguments.seed or 0))
        dynamic_model = open_dynamic_model(Path(arguments.source), trained, memory)
    tuned_on = None if dynamic_model.is_static else [{"what": "rates", "how": "given"}]
    return Opened(trained, memory, dynamic_model, arguments.seed or 0, tuned_on)


def _window(arguments: Arguments, positions: int | None) -> HFOptions:
    """Return the options of a model with so many positions. Raises UserError for values that do not fit."""
    defaults = default_window(arguments.model.get("context"), positions)
    return changed(HFOptions(kind="hf").replace(**defaults), arguments.model)


def _load(arguments: Arguments, device: torch.device) -> TrainedModel:
    """Load a pretrained model without a run. Raises UserError as ``load_pretrained`` does."""
    from dynlm.models.hf.load import load_pretrained

    found = load_pretrained(arguments.source, arguments.model.get("dtype", "auto"))
    options = _window(arguments, found.positions).replace(architecture=found.architecture, dtype=dtype_of(found))
    model = build_model(options, found.vocab_size)
    found = found._replace(params={name: tensor.to(device) for name, tensor in found.params.items()})
    return trained_model(found, model, {"adopted_from": arguments.source})


def _check_constants(memory: MemoryOptions) -> None:
    """Raise UserError where the memory of a pretrained model needs what only a run keeps."""
    if (missing := find_missing(memory)) is not None:
        values = f"give {','.join(f'{name}=VALUE' for name in missing.names)}, or " if missing.names else ""
        do = f"{values}`dynlm adopt` the model, tune its memory, and give run="
        raise UserError(f"model_args: {missing.what}", do=do)


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
