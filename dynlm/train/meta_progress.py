"""Where meta-training stands, between two windows, and its checkpoints: they hold all processes' lanes."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from dynlm.adapt.meta_gradient.forward import Sensitivities
from dynlm.adapt.state import Memory, leaves
from dynlm.data.stream import StreamPosition
from dynlm.models.lstm.model import Params
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.train.optimizers import load_state_of, state_of


class MetaProgress(NamedTuple):
    """What is learned, and what is read: ``memory`` and ``sensitivities`` are of this process's lanes.

    ``mean`` is phi's Polyak average, ``averages`` what that was at some times. The sensitivities' meta-gradients were
    taken: they are zero.
    """

    phi: Params
    mean: Params
    adam: torch.optim.Optimizer
    averages: dict[str, Params]
    memory: Memory
    sensitivities: Sensitivities
    place: StreamPosition
    steps: int = 0


def save(checkpoints: Checkpoints, at: MetaProgress, processes: Processes) -> Path | None:
    """Keep meta-training under way; returns the first process's file, once it is written."""
    tensors = state_of(at.adam, at.phi)
    tensors |= dict(leaves({"phi": at.phi, "mean": at.mean, "averages": at.averages}))
    for name, tensor in _of_lanes(at):
        tensors[name] = processes.gather_lanes(tensor)
    path = None
    if processes.is_main:
        path = checkpoints.save(at.steps, tensors, {"place": at.place.to_dict(), "steps": at.steps})
    # The others do not run ahead of a slow disk: they would take the first process for dead.
    processes.wait_for_everyone()
    return path


def resume(checkpoints: Checkpoints, fresh: MetaProgress, processes: Processes) -> tuple[MetaProgress, Path | None]:
    """What the newest whole checkpoint holds, and its file; where there is none, ``fresh`` (which is used up).

    Raises UserError as ``Checkpoints.newest`` does.
    """
    found = checkpoints.newest_of(processes)
    if found is None:
        return fresh, None
    averages: dict[str, Params] = {}
    with found.taken_up() as (tensors, state):
        for name, tensor in leaves({"phi": fresh.phi, "mean": fresh.mean}):
            tensor.copy_(tensors[name])
        load_state_of(fresh.adam, fresh.phi, tensors)
        for name, tensor in _of_lanes(fresh):
            tensor.copy_(processes.local_lanes(tensors[name]))
        for name, tensor in tensors.items():
            kind, _, rest = name.partition("/")
            if kind == "averages":
                when, _, key = rest.partition("/")
                averages.setdefault(when, {})[key] = tensor.to(fresh.phi[key].device)
        taken_up = fresh._replace(
            averages=averages, place=StreamPosition.from_dict(state["place"]), steps=int(state["steps"])
        )
    return taken_up, found.path


def _of_lanes(at: MetaProgress) -> list[tuple[str, torch.Tensor]]:
    return list(leaves({"memory": at.memory, "sensitivities": at.sensitivities.carried()}))
