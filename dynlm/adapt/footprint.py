"""How much memory a reading needs: foretold before it starts, counted after."""

from __future__ import annotations

import dataclasses
import os

import torch

from dynlm.adapt.reader import Reader
from dynlm.adapt.segment import lanes_at_a_time, score_and_learn
from dynlm.adapt.state import Memory
from dynlm.data.batch import Batch
from dynlm.errors import UserError
from dynlm.models.lstm.native import NativeKernels
from dynlm.models.scratch import Scratch


def held_bytes(reader: Reader, memory: Memory) -> int:
    """Bytes of a reading's lanes (dynamic weights, LSTM state, cache) and of the working space that they share."""
    return _state_bytes(memory) + reader.scratch.bytes()


def foretold_bytes(reader: Reader, lanes: int, segment: int) -> int:
    """``held_bytes`` of a reading in ``lanes`` lanes by segments of ``segment`` tokens, with none of it allocated.

    The very code that reads is run once on torch's meta device, whose tensors have shapes and no data, for as many
    lanes as are read at a time; what each lane keeps is then counted for all.
    """
    static = {name: tensor.to("meta") for name, tensor in reader.static.items()}
    gates = reader.rule.gates and reader.rule.gates.to("meta")
    coordinates = reader.rule.coordinates and {name: t.to("meta") for name, t in reader.rule.coordinates.items()}
    rule = dataclasses.replace(reader.rule, scale=None, shape=None, gates=gates, coordinates=coordinates)
    native = None if reader.native is None else _KernelsOnPaper()
    cache = reader.cache and reader.cache.to("meta")
    on_paper = dataclasses.replace(reader, static=static, rule=rule, native=native, cache=cache, scratch=Scratch())
    some = min(lanes, lanes_at_a_time(reader, segment))
    memory, like = on_paper.fresh_memory(some), static["embedding"]
    ids_BT = like.new_zeros(some, segment, dtype=torch.int64)
    every_B = like.new_ones(some, dtype=torch.bool)
    opening = Batch(ids_BT, ids_BT, like.new_ones(some, segment), every_B, every_B)
    if reader.guard is not None and reader.guard.waits:
        # What has no values cannot be waited for; such a guard takes no space while all is well.
        on_paper = dataclasses.replace(on_paper, guard=None)
    # On a GPU gradients come whole.
    _, memory = score_and_learn(on_paper, memory, opening, whole=reader.static["embedding"].is_cuda)
    return _state_bytes(memory) // some * lanes + on_paper.scratch.bytes()


def _state_bytes(memory: Memory) -> int:
    hidden = memory.hidden if memory.hedge is None else (*memory.hidden, *memory.hedge.hidden)
    state = [*memory.weights.values(), *memory.home.values(), *memory.velocity.values()]
    state += memory.coordinates.values()
    state += [
        *(memory.guarded or ()),
        *(memory.pace or ()),
        *(memory.cache or ()),
        *(tensor for layer in hidden for tensor in layer),
    ]
    if memory.hedge is not None:
        state.append(memory.hedge.log_weights_B2)
    return sum(tensor.nbytes for tensor in state)


class _KernelsOnPaper(NativeKernels):
    """Kernels allocate nothing, so on paper they do nothing."""

    @staticmethod
    def lstm_forward(*_: object) -> None:
        pass

    @staticmethod
    def lstm_backward(*_: object) -> None:
        pass

    @staticmethod
    def step_(*_: object) -> None:
        pass


def refuse_what_does_not_fit(needed: int, lanes: int, device: torch.device) -> None:
    """Raise UserError where ``needed`` bytes are more than the device has (a GPU: has left)."""
    if device.type == "cuda":
        left = torch.cuda.mem_get_info(device)[0]
    elif {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        # What other programs hold they may give back, so this counts all of the machine's memory.
        left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    else:
        return
    if needed > left:
        raise UserError(
            f"memory.lanes is {lanes}, which needs {needed / 1e6:,.1f} MB of memory, and there are {left / 1e6:,.1f}",
            do=f"choose at most {max(1, lanes * left // needed)}",
        )
