"""Working space that is made once and used again for every segment."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class Scratch:
    """Buffers by name. They hold nothing from one segment to the next, so a Scratch is no state, only saved time.

    What ``take`` returns is good until the same name is taken again; nothing of it may be kept. Not to be shared by
    threads.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._built: dict[Hashable, Any] = {}

    def take(self, name: str, shape: tuple[int, ...], like: Tensor, zeroed: bool = False) -> Tensor:
        """Return a tensor of ``shape``, of the device and type of ``like``, with what the last user left in it.

        With ``zeroed`` it is zero when first made; every user has to leave zeros in it.
        """
        size = math.prod(shape)
        buffer = self._buffers.get(name)
        if buffer is None or buffer.numel() < size or buffer.device != like.device or buffer.dtype != like.dtype:
            make = torch.zeros if zeroed else torch.empty
            buffer = self._buffers[name] = make(size, dtype=like.dtype, device=like.device)
            self._built.clear()
        return self.once((name, shape), lambda: buffer[:size].view(shape))

    def once(self, key: Hashable, build: Callable[[], Any]) -> Any:
        """Return what ``build`` makes of buffers (views of them), made again only after a buffer was made anew."""
        built = self._built.get(key)
        if built is None:
            built = self._built[key] = build()
        return built

    def bytes(self) -> int:
        """Bytes of all buffers made so far."""
        return sum(buffer.nbytes for buffer in self._buffers.values())
