"""Record a function of tensors once as a CUDA graph and replay it for other inputs.

A segment of a small model is hundreds of short kernels; on a GPU, starting them one by one takes longer than running
them. A recording is of one structure and one set of shapes, and runs over buffers of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dynlm.runtime.tree import clone, leaves, map_tensors


def capture(step: Callable[[Any], Any], inputs: Any, modified: Any) -> Callable[[Any], Any]:
    """Return ``step`` recorded for ``inputs``' structure and shapes; see ``Engine.capture``.

    Without a GPU nothing is recorded: ``step`` then runs over the same buffers, which is how this is tested.
    """
    buffers = clone(inputs)
    graph, outputs = _record(lambda: step(buffers), modified) if next(leaves(inputs))[1].is_cuda else (None, None)

    def replay(now: Any) -> Any:
        map_tensors(lambda buffer, tensor: buffer.copy_(tensor, non_blocking=True), buffers, now)
        if graph is None:
            return step(buffers)
        graph.replay()
        return clone(outputs)

    return replay


def _record(run: Callable[[], Any], modified: Any) -> tuple[torch.cuda.CUDAGraph, Any]:
    """Run once on a side stream, so that every buffer exists, then record; put ``modified`` back as it was."""
    before = clone(modified)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = run()
    map_tensors(Tensor.copy_, modified, before)
    return graph, outputs
