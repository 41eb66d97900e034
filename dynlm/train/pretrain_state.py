"""Where level-1 training stands, and its checkpoints: they hold all processes' lanes, so that any number goes on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynlm.data.stream import StreamPosition
from dynlm.errors import UserError
from dynlm.models.lstm.model import Hidden, Params
from dynlm.run.folder import run_path
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.parsing import read_json
from dynlm.runtime.validation import fingerprint_options
from dynlm.train.config import Config, load_config
from dynlm.train.optimizers import Optimiser


@dataclass
class Progress:
    """Everything that a resumed training continues from, besides what is random.

    ``hidden`` is of this process's lanes; so are ``window_nats``, lost on ``window_tokens`` (of all processes) since
    the log's last line.
    """

    params: Params
    optimiser: Optimiser
    place: StreamPosition
    hidden: Hidden
    window_nats: Tensor
    window_tokens: int = 0
    step: int = 0
    seconds: float = 0.0


def checkpoints_of(config: Config) -> Checkpoints:
    """A run's checkpoints of level-1 training; that the text is the same, the run's provenance sees to."""
    return Checkpoints(run_path(config.run) / "checkpoints", "step", config.run.checkpoints_kept, _decisive(config))


def finished(config: Config, processes: Processes) -> dict[str, Any] | None:
    """The card of a run that was killed when only its checkpoints were left to drop, as they now are; None to train.

    Raises UserError for a run folder that was begun with other options, or is trained: it is never trained over.
    """
    folder, checkpoints = run_path(config.run), checkpoints_of(config)
    if (folder / "config.yaml").exists():
        earlier = _decisive(load_config(folder))
        for name, value in _decisive(config).items():
            if earlier[name] != value:
                raise UserError(
                    f"this run was begun with {name} {earlier[name]!r}, not {value!r}",
                    folder,
                    "choose another --run.name or remove the folder",
                )
    trained = (folder / "model.json").exists()
    # Asked of the first process, before it drops any.
    left = processes.gather_object(bool(checkpoints.paths()))[0]
    if trained and not left:
        raise UserError("this run is trained already", folder, "choose another --run.name or remove the folder")
    if not trained:
        return None
    if processes.is_main:
        checkpoints.drop()
    return dict(read_json(folder / "model.json"))


def _decisive(config: Config) -> dict[str, Any]:
    """The options that decide what is trained."""
    of_run = {"run.seed": config.run.seed, "run.precision": config.run.precision}
    return {
        **of_run,
        **fingerprint_options(config.corpus, config.tokenizer, config.model, config.regularisation, config.pretrain),
    }


def save(checkpoints: Checkpoints, at: Progress, generator: torch.Generator, processes: Processes) -> Path | None:
    """Keep training under way; returns the first process's file, once it is written."""
    tensors, state = at.optimiser.state()
    tensors |= {f"params/{name}": tensor for name, tensor in at.params.items()}
    tensors |= {"generator": generator.get_state(), "window_nats": processes.reduce(at.window_nats)}
    for index, (h_BH, c_BH) in enumerate(at.hidden):
        tensors[f"hidden/{index}/h"] = processes.gather_lanes(h_BH)
        tensors[f"hidden/{index}/c"] = processes.gather_lanes(c_BH)
    state |= {"place": at.place.to_dict(), "step": at.step, "seconds": at.seconds, "window_tokens": at.window_tokens}
    path = checkpoints.save(at.step, tensors, state) if processes.is_main else None
    # The others do not run ahead of a slow disk: they would take the first process for dead.
    processes.wait_for_everyone()
    return path


def resume(checkpoints: Checkpoints, at: Progress, generator: torch.Generator, processes: Processes) -> Path | None:
    """Take up the newest whole checkpoint, if there is one, and tell which. Raises UserError as its reader does."""
    found = checkpoints.newest_of(processes)
    if found is None:
        return None
    with found.taken_up() as (tensors, state), torch.no_grad():
        for name, tensor in at.params.items():
            tensor.copy_(tensors[f"params/{name}"])
        at.optimiser.load_state(tensors, state)
        generator.set_state(tensors["generator"])
        at.hidden = tuple(
            (_lanes(tensors[f"hidden/{index}/h"], processes), _lanes(tensors[f"hidden/{index}/c"], processes))
            for index in range(len(at.hidden))
        )
        if processes.is_main:
            at.window_nats = tensors["window_nats"].to(processes.device)
        at.place, at.step, at.seconds = StreamPosition.from_dict(state["place"]), state["step"], state["seconds"]
        at.window_tokens = state["window_tokens"]
    return found.path


def _lanes(every_BH: Tensor, processes: Processes) -> Tensor:
    return processes.local_lanes(every_BH).contiguous().to(processes.device)
