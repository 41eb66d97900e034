"""Reading by a recording: the kernels of one segment, captured once as a CUDA graph and replayed for every other.

A segment of a small model is hundreds of short kernels; on a GPU, starting them one by one takes longer than running
them. A recording is of one shape, of one rule's rates and of one reading's weights, which it moves in place. Off a GPU
there is nothing to record: the same code then runs over the same buffers, which is how it is tested. It was not
measured on a GPU yet.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from dynlm.adapt.loop import begin_articles
from dynlm.adapt.reader import Reader
from dynlm.adapt.segment import score_and_learn
from dynlm.adapt.state import Memory
from dynlm.data.batch import Batch
from dynlm.data.stream import Segment
from dynlm.models.lstm.model import Hidden


class Recording:
    """One segment of B lanes and T tokens, read by ``reader`` into the weights of ``memory``."""

    def __init__(self, reader: Reader, memory: Memory, length: int):
        like = reader.static["embedding"]
        lanes = len(memory.hidden[0][0])
        self._reader, self._weights = reader, memory.weights
        self._batch = Batch(
            like.new_zeros(lanes, length, dtype=torch.int64),
            like.new_zeros(lanes, length, dtype=torch.int64),
            like.new_zeros(lanes, length),
            like.new_zeros(lanes, dtype=torch.bool),
            like.new_zeros(lanes, dtype=torch.bool),
            like.new_zeros(lanes, 2, dtype=torch.int64),
        )
        self._guarded = memory.guarded
        self._hidden = reader.model.initial_hidden(lanes, like)
        self._graph = self._captured() if like.is_cuda else None

    def read(self, memory: Memory, segment: Segment) -> tuple[Tensor, Memory]:
        """``read_segment`` of ``memory``, whose weights have to be those that the recording was made for.

        The nats of a segment that is shorter than the recording are filled up with what means nothing.
        """
        assert memory.weights is self._weights, "a recording moves the weights that it was made for, and no others"
        starts_B = torch.from_numpy(segment.starts_B)
        if segment.starts_B.any():
            memory = begin_articles(self._reader, memory, segment.starts_B, self._sent(starts_B))
        assert self._batch.position_B2 is not None
        self._batch.position_B2.copy_(self._sent(torch.from_numpy(segment.position_B2)), non_blocking=True)
        length = segment.mask_BT.shape[1]
        arrays = (segment.inputs_BT, segment.targets_BT, segment.mask_BT)
        for buffer, array in zip(self._batch[:3], arrays, strict=True):
            buffer[:, length:].zero_()
            buffer[:, :length].copy_(self._sent(torch.from_numpy(array)), non_blocking=True)
        for held, state in zip(self._hidden, memory.hidden, strict=True):
            for buffer, tensor in zip(held, state, strict=True):
                buffer.copy_(tensor)
        if self._graph is None:
            nats_BT, hidden = self._run()
        else:
            self._graph.replay()
            nats_BT, hidden = self._nats_BT.clone(), tuple((h.clone(), c.clone()) for h, c in self._after)
        return nats_BT[:, :length], memory._replace(hidden=hidden)

    def _run(self) -> tuple[Tensor, Hidden]:
        memory = Memory(self._weights, self._hidden, guarded=self._guarded)
        nats_BT, memory = score_and_learn(self._reader, memory, self._batch)
        return nats_BT, memory.hidden

    def _captured(self) -> torch.cuda.CUDAGraph:
        """Run once beside, so that every buffer is made, then record; the weights are put back as they were."""
        before = {name: tensor.clone() for name, tensor in self._weights.items()}
        counted = self._guarded and self._guarded.copy()
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            self._run()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._nats_BT, self._after = self._run()
        for name, tensor in self._weights.items():
            tensor.copy_(before[name])
        for tensor, earlier in zip(self._guarded or (), counted or (), strict=True):
            tensor.copy_(earlier)
        return graph

    def _sent(self, tensor: Tensor) -> Tensor:
        """On the reader's device, without waiting for it."""
        device = self._hidden[0][0].device
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def recorded(reader: Reader) -> Reader:
    """The same reader, reading by recordings, whose guard cannot wait for a tensor's value."""
    guard = reader.guard and dataclasses.replace(reader.guard, waits=False)
    return dataclasses.replace(reader, record=Recording, guard=guard)
