"""Checkpoints of a scoring, kept beside its score file: interrupted at any moment, it resumes from the newest.

Legend: B lanes, C columns of the score file, N tokens read (of all lanes, masked ones too).
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dynlm.adapt.reader import Reader
from dynlm.adapt.state import Memory
from dynlm.adapt.state_tensors import as_tensors, flaw_of_shapes, from_tensors
from dynlm.data.stream import StreamPosition
from dynlm.runtime.checkpoints import Checkpoints
from dynlm.runtime.distributed import Processes
from dynlm.runtime.signals import StopRequest, stop_requests

_MEMORY = "memory/"


@dataclass(frozen=True)
class ScoringState:
    """A scoring after N tokens.

    ``rows_N`` is each token's row in the score file (-1: masked), ``distance_B`` the distance from theta_0 of the
    weights that read the next segment.
    """

    memory: Memory
    position: StreamPosition
    rows_N: np.ndarray
    values_CN: Tensor
    distance_B: Tensor


class ScoringCheckpointer:
    """Saves the state of a scoring every ``seconds`` (0: after each segment), one file for each process.

    ``key`` stands for everything that decides on the score file ``path``: a checkpoint with another key is dropped.
    Within its ``with`` block Ctrl-C and SIGTERM request a checkpoint after the next segment, and then a stop.
    """

    def __init__(self, path: Path, key: str, seconds: float, processes: Processes):
        rank, world = processes.rank, processes.world
        stem = f".{path.stem}" if world == 1 else f".{path.stem}.{rank}-of-{world}"
        self._checkpoints = Checkpoints(path.parent, stem)
        self._key, self._seconds, self._last = key, seconds, time.monotonic()
        self._stack, self._request = ExitStack(), StopRequest()

    def __enter__(self) -> ScoringCheckpointer:
        self._request = self._stack.enter_context(stop_requests())
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def is_due(self) -> bool:
        """Whether it is time to save the state."""
        return self._request.requested or time.monotonic() - self._last >= self._seconds

    def save(self, state: ScoringState, reader: Reader) -> None:
        """Write a checkpoint. Raises UserError where it cannot be written, and Stopped where a stop was requested."""
        held = as_tensors(state.memory, reader, len(state.distance_B))
        tensors = {_MEMORY + name: tensor for name, tensor in held.items()}
        tensors |= {
            "rows": torch.from_numpy(state.rows_N),
            "values": state.values_CN,
            "distance": state.distance_B,
        }
        content = {"key": self._key, "position": state.position.to_dict()}
        saved = self._checkpoints.save(state.position.tokens, tensors, content)
        self._last = time.monotonic()
        if self._request.requested:
            self._request.stop(saved)

    def load(self, reader: Reader, lanes: int) -> ScoringState | None:
        """Load the newest checkpoint, or return None; a damaged one is named on standard error and skipped."""
        newest = self._checkpoints.newest()
        if newest is None or newest.state.get("key") != self._key or "position" not in newest.state:
            self.drop()
            return None
        device = reader.device
        tensors = {name: tensor.to(device) for name, tensor in newest.tensors.items()}
        state = {name[len(_MEMORY) :]: tensor for name, tensor in tensors.items() if name.startswith(_MEMORY)}
        assert flaw_of_shapes({n: tuple(t.shape) for n, t in state.items()}, reader, lanes) is None
        return ScoringState(
            from_tensors(state, reader, lanes),
            StreamPosition.from_dict(newest.state["position"]),
            newest.tensors["rows"].numpy(),
            tensors["values"],
            tensors["distance"],
        )

    def drop(self) -> None:
        """Remove the checkpoints."""
        self._checkpoints.drop()
