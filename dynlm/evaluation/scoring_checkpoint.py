"""A scoring under way, kept from time to time beside its score file: killed at any moment, it goes on from there."""

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
from dynlm.runtime.signals import StopRequest, stop_requests

_MEMORY = "memory/"


@dataclass(frozen=True)
class ScoringState:
    """What a scoring of C columns has after N tokens (of all lanes, masked ones too)."""

    memory: Memory
    place: StreamPosition
    places_N: np.ndarray
    """Each token's row in the score file; -1 for what is masked."""
    costs_CN: Tensor
    moved_B: Tensor
    """The distance of the weights that the next segment is read with."""
    held: int
    """Bytes that the reading held at most."""


class ScoringCheckpointer:
    """Keeps a scoring that takes longer than ``seconds``, each time that these have passed (0: after each segment).

    ``key`` stands for everything that decides on the score file: what was kept under another is not gone on with.
    ``path`` is the score file; of several processes each keeps its own part. Within its ``with`` block Ctrl-C and
    SIGTERM make the next segment one to keep the scoring at, and then to stop.
    """

    def __init__(self, path: Path, key: str, seconds: float, rank: int, world: int):
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
        """Whether it is time to keep what is there."""
        return self._request.asked or time.monotonic() - self._last >= self._seconds

    def keep(self, underway: ScoringState, reader: Reader) -> None:
        """Write it down. Raises UserError where that cannot be done, and then Stopped where that was asked for."""
        fresh = reader.fresh_memory(len(underway.moved_B))
        tensors = {_MEMORY + name: tensor for name, tensor in as_tensors(underway.memory, fresh, reader.static).items()}
        tensors |= {
            "places": torch.from_numpy(underway.places_N),
            "costs": underway.costs_CN,
            "moved": underway.moved_B,
        }
        state = {"key": self._key, "place": underway.place.to_dict(), "held": underway.held}
        saved = self._checkpoints.save(underway.place.tokens, tensors, state)
        self._last = time.monotonic()
        if self._request.asked:
            self._request.stop(saved)

    def kept(self, reader: Reader, lanes: int) -> ScoringState | None:
        """The scoring as it was last kept, or None. What is not whole is named on standard error, and passed over."""
        newest = self._checkpoints.newest()
        if newest is None or newest.state.get("key") != self._key:
            self.drop()
            return None
        device = reader.static["embedding"].device
        tensors = {name: tensor.to(device) for name, tensor in newest.tensors.items()}
        state = {name[len(_MEMORY) :]: tensor for name, tensor in tensors.items() if name.startswith(_MEMORY)}
        fresh = reader.fresh_memory(lanes)
        assert flaw_of_shapes({n: tuple(t.shape) for n, t in state.items()}, fresh, reader.static) is None
        return ScoringState(
            from_tensors(state, fresh, reader.static),
            StreamPosition.from_dict(newest.state["place"]),
            newest.tensors["places"].numpy(),
            tensors["costs"],
            tensors["moved"],
            newest.state["held"],
        )

    def drop(self) -> None:
        """Remove what was kept."""
        self._checkpoints.drop()
