"""Updates in used rows, held beside the matrix, are those of a matrix of the lane's own whose other rows stay."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from dynlm.adapt.dynamic_model import DynamicModel, constants_of, distance
from dynlm.adapt.loop import iter_segments
from dynlm.adapt.rules.gradient_step import gradient_step
from dynlm.adapt.rules.used_rows import UsedRowsRule
from dynlm.adapt.segment import shares
from dynlm.adapt.state_tensors import as_tensors, flaw, flaw_of_shapes, from_tensors
from dynlm.adapt.update_filter import UpdateFilter
from dynlm.data.stream import to_batch
from dynlm.models.lstm.engine import LSTMEngine
from dynlm.types import Params
from tests.adapt.readings import (
    MODEL,
    NAMES,
    assert_no_loss_depends_on_a_later_token,
    dynamic_model,
    nats_of,
    static_params,
    stream,
    text,
)

SEGMENT, MANY = 5, 17
BIASES = tuple(name for name in NAMES if name.endswith("bias"))


def reader(
    name: str = "rms", places: int = MANY, reset: str = "stream", moving: tuple[str, ...] = NAMES
) -> DynamicModel:
    plain = dynamic_model(name, reset)
    matrix = plain.static["embedding"]
    held = UsedRowsRule(plain.rule.of(moving), "embedding", tuple(matrix.shape), places)
    return dataclasses.replace(plain, rule=held, dynamic=moving)


class Reference:
    """The same in a dense matrix of one lane: rows move that are among the last ``places``, others are theta_0."""

    def __init__(self, chosen: DynamicModel):
        assert isinstance(chosen.rule, UsedRowsRule)
        self.rule, self.places, self.chosen = chosen.rule.rule, chosen.rule.places, chosen
        self.engine = LSTMEngine(MODEL)

    def nats(self) -> Tensor:
        theta, last, found = Params(), dict[int, int](), []
        text_stream, state = stream(), MODEL.init_state(1, self.chosen.like)
        position, theta = text_stream.begin(), {name: t.clone() for name, t in self.chosen.static.items()}
        number = 0
        while True:
            segment, position = text_stream.next(position)
            if segment is None:
                return torch.cat(found)
            batch, number = to_batch(segment, self.chosen.like), number + 1
            state = MODEL.reset_state(state, batch.starts_B, self.chosen.like)
            if segment.starts_B.any() and self.chosen.reset == "article":
                theta, last = {name: t.clone() for name, t in self.chosen.static.items()}, {}
            lanes = {name: tensor[None] for name, tensor in theta.items()}
            scored = self.engine.score(self.chosen.static, lanes, batch.inputs_BT, batch.targets_BT, state)
            state = scored.state
            found.append(scored.nats_BT[0][torch.from_numpy(segment.mask_BT[0])])
            gradients = {name: torch.zeros_like(tensor) for name, tensor in theta.items()}
            for gradient in self.engine.gradients(scored, shares(batch), theta.keys()):
                gradients[gradient.name][gradient.part] = gradient.tensor[0]
            last |= dict.fromkeys(np.concatenate([segment.inputs_BT, segment.targets_BT]).ravel().tolist(), number)
            # Of equally old ones those go first that came first, which no row's number decides.
            kept = sorted(last, key=lambda row: last[row])[-self.places :]
            last = {row: last[row] for row in last if row in kept}
            for name in self.rule.tensors:
                precondition = 1.0 if self.rule.precondition is None else self.rule.precondition[name]
                rates, anchor = self.rule.rates[name], self.chosen.static[name]
                moved = gradient_step(
                    theta[name], gradients[name], rates.lr, precondition, anchor, self.rule.beta[name]
                )
                if name == "embedding":
                    stays = torch.ones(len(moved), dtype=torch.bool)
                    stays[list(last)] = False
                    moved[stays] = anchor[stays]
                theta[name] = moved


@pytest.mark.parametrize("moving", [NAMES, ("embedding", *BIASES)])
@pytest.mark.parametrize("reset", ["stream", "article"])
@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms"])
def test_losses_are_those_of_a_dense_matrix_whose_unused_rows_stay(
    name: str, reset: str, moving: tuple[str, ...]
) -> None:
    chosen = reader(name, MANY, reset, moving)
    wanted = Reference(chosen).nats()
    assert (wanted - nats_of(dataclasses.replace(dynamic_model(name, reset)))).abs().max() > 1e-4
    torch.testing.assert_close(nats_of(chosen), wanted, rtol=1e-10, atol=1e-10)


def test_where_all_rows_are_used_the_losses_are_those_of_the_rule() -> None:
    """Once every token has occurred nothing is left out."""
    chosen = reader()
    memory = chosen.fresh_memory()
    memory.rule.lanes.use_(0, torch.arange(MODEL.vocab_size))
    found = torch.cat([read.nats_T for read in iter_segments(chosen, stream(), memory)])
    torch.testing.assert_close(found, nats_of(dynamic_model("rms")), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("places", [10, 12])
def test_rows_that_make_room_go_back_to_the_static_ones(places: int) -> None:
    """Places are those of the last tokens; all values are in the rows that the places name."""
    chosen = reader(places=places)
    memory = chosen.fresh_memory()
    seen: list[int] = []
    for read in iter_segments(chosen, stream(), memory):
        used = read.memory.rule.lanes
        mask_T = read.segment.mask_BT[0]
        now = {*read.segment.inputs_BT[0][mask_T].tolist(), *read.segment.targets_BT[0][mask_T].tolist()}
        seen = [row for row in seen if row not in now] + sorted(now)
        count = int(used.counts_B[0])
        rows = used.rows_BK[0, :count].tolist()
        assert count == min(len(seen), places) == len(set(rows))
        assert now <= set(rows)
        assert not used.values_BKH[0, count:].any()
        assert [int(used.slots_BV[0, row]) for row in rows] == list(range(count))
        assert int((used.slots_BV >= 0).sum()) == count
    assert len(seen) > places


@pytest.mark.parametrize("places", [10, MANY])
def test_lanes_equal_readings_one_by_one(places: int) -> None:
    chosen = reader("rms", places, "article")
    split = text((23, 31, 8, 17))
    found: dict[int, list[Tensor]] = {}
    for read in iter_segments(chosen, dataclasses.replace(stream(split), lanes=2)):
        for lane, (nats_T, mask_T) in enumerate(zip(read.nats_BT, read.segment.mask_BT, strict=True)):
            if mask_T.any():
                found.setdefault(int(read.segment.position_B2[lane, 0]), []).append(nats_T[torch.from_numpy(mask_T)])
    torch.testing.assert_close(torch.cat([torch.cat(found[n]) for n in sorted(found)]), nats_of(chosen, split))


@pytest.mark.parametrize("name", ["sgd", "sgd+decay", "rms"])
def test_rates_of_zero_give_the_losses_of_level_1(name: str) -> None:
    chosen = reader(name)
    still = dataclasses.replace(chosen, rule=chosen.rule.standing_still())
    assert torch.equal(nats_of(still), nats_of(dynamic_model("none")))


@pytest.mark.parametrize("places", [10, MANY])
def test_no_loss_depends_on_a_later_token(places: int) -> None:
    assert_no_loss_depends_on_a_later_token(reader(places=places), every=SEGMENT)


@pytest.mark.parametrize("synchronises", [True, False])
def test_a_rejected_update_is_not_taken(synchronises: bool) -> None:
    chosen = reader()
    limits = UpdateFilter.for_model(chosen.static, NAMES, MODEL.vocab_size)
    for limit, taken in ((1e-9, False), (1e9, True)):
        filter_ = dataclasses.replace(limits, limits=dict.fromkeys(NAMES, limit), synchronises=synchronises)
        filtered = dataclasses.replace(chosen, filter=filter_)
        last = [read.memory for read in iter_segments(filtered, stream())][-1]
        assert last.filter is not None and bool(last.filter.counts_BC[0, :-1].all()) != taken
        wanted = nats_of(chosen if taken else dynamic_model("none"))
        torch.testing.assert_close(nats_of(filtered), wanted, rtol=1e-12, atol=1e-12)


def test_a_memory_as_tensors_reads_on_bit_for_bit() -> None:
    chosen = reader(places=12)
    whole, memory, position = nats_of(chosen), None, None
    for number, read in enumerate(iter_segments(chosen, stream())):
        if number == 5:
            tensors = as_tensors(read.memory, chosen)
            shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
            assert flaw_of_shapes(shapes, chosen) is None and flaw(tensors, chosen) is None
            memory, position = from_tensors(tensors, chosen), read.position
            break
    rest = torch.cat([read.nats_T for read in iter_segments(chosen, stream(), memory, position)])
    assert torch.equal(rest, whole[-len(rest) :])


def test_the_distance_counts_the_rows_that_are_held() -> None:
    chosen = reader(moving=("embedding", *BIASES))
    memory = [read.memory for read in iter_segments(chosen, stream())][-1]
    dense = memory.rule.lanes.displacement().dense()[0]
    away = [dense, *(memory.params[name][0] - chosen.static[name] for name in BIASES)]
    size = torch.stack([static_params()[name].square().sum() for name in ("embedding", *BIASES)]).sum().sqrt()
    wanted = torch.stack([tensor.square().sum() for tensor in away]).sum().sqrt() / size
    torch.testing.assert_close(distance(memory, chosen)[0], wanted)


def test_constants_tell_the_rules_apart() -> None:
    assert len({constants_of(chosen) for chosen in (reader(places=12), reader(places=13), dynamic_model("rms"))}) == 3
