"""What a replay buffer holds and draws; ``test_forward`` compares a whole reading with a naive one."""

from __future__ import annotations

import collections

import pytest
import torch

from dynlm.adapt.options import LearnedRuleOptions
from dynlm.adapt.partners.replay import Replay, ReplayBuffer
from dynlm.data.stream import Batch
from dynlm.errors import UserError
from tests.adapt.readings import MODEL, nats_of, rule
from tests.adapt.readings import dynamic_model as build

LIKE = torch.empty(0, dtype=torch.float64)
BUSY_B = torch.tensor([True, True])


def state_of(*values: float) -> tuple[torch.Tensor]:
    return (torch.tensor(values, dtype=torch.float64)[:, None].expand(-1, 2),)


def batch_of(number: int, lanes: int = 2, tokens: int = 3) -> Batch:
    ids_BT = torch.full((lanes, tokens), number)
    never_B = torch.zeros(lanes, dtype=torch.bool)
    return Batch(ids_BT, ids_BT + 1, torch.ones(lanes, tokens, dtype=torch.float64), never_B, never_B)


def stored(replay: Replay, numbers: range) -> ReplayBuffer:
    buffer = replay.fresh(state_of(0, 0), LIKE)
    for number in numbers:
        buffer = buffer.store_(batch_of(number), state_of(number, number))
    return buffer


def test_what_is_drawn_is_a_stored_segment_with_the_state_before_it() -> None:
    replay = Replay(0.4, tokens=3, segments=8)
    batch, (state_BH,) = replay.draw(stored(replay, range(1, 7)), BUSY_B, LIKE)
    number = int(batch.inputs_BT[0, 0])
    assert 1 <= number < 7
    assert (batch.inputs_BT == number).all() and (batch.targets_BT == number + 1).all()
    assert (state_BH == number).all() and batch.mask_BT.all()


def test_the_latest_segments_are_held_and_drawn_evenly() -> None:
    replay, drawn = Replay(0.4, tokens=3, segments=10), collections.Counter[int]()
    buffer = stored(replay, range(200))
    for number in range(200, 1200):
        batch, _ = replay.draw(buffer, BUSY_B, LIKE)
        age = number - int(batch.inputs_BT[0, 0])
        assert 1 <= age <= 10
        drawn[age] += 1
        buffer = buffer.store_(batch_of(number), state_of(number, number))
    assert len(drawn) == 10 and min(drawn.values()) > 80


def test_lanes_that_hold_or_read_nothing_learn_nothing() -> None:
    replay = Replay(0.4, tokens=3, segments=4)
    assert replay.draw(replay.fresh(state_of(0, 0), LIKE), BUSY_B, LIKE) is None
    restarted = stored(replay, range(3)).start_articles(torch.tensor([True, False]))
    batch, _ = replay.draw(restarted, BUSY_B, LIKE)
    assert batch.mask_BT.tolist() == [[0, 0, 0], [1, 1, 1]]
    batch, _ = replay.draw(stored(replay, range(3)), torch.tensor([True, False]), LIKE)
    assert batch.mask_BT.tolist() == [[1, 1, 1], [0, 0, 0]]


def test_parts_of_segments_and_states_that_are_not_finite_are_not_stored() -> None:
    replay = Replay(0.4, tokens=3, segments=4)
    buffer = stored(replay, range(2)).store_(batch_of(7, tokens=2), state_of(7, 7))
    assert buffer.stored_B.tolist() == [2, 2]
    part = batch_of(8)
    part = part._replace(mask_BT=torch.tensor([[1.0, 1, 1], [1, 1, 0]], dtype=torch.float64))
    buffer = buffer.store_(part, state_of(8, 8)).store_(batch_of(9), state_of(torch.nan, 9))
    assert buffer.stored_B.tolist() == [3, 3]
    assert buffer.inputs_BNT[:, 2, 0].tolist() == [8, 9]


def test_no_article_learns_from_the_one_before() -> None:
    chosen = build("rms", "article")
    replayed = build("rms", "article", replay_rate=0.5)
    found, plain = nats_of(replayed), nats_of(chosen)
    # The first articles have 23 and 31 tokens in segments of 5; nothing can be replayed before the third segment.
    for begin in (0, 23):
        assert torch.equal(found[begin : begin + 10], plain[begin : begin + 10])
        assert (found[begin + 10 : begin + 20] != plain[begin + 10 : begin + 20]).all()


def test_a_model_of_large_states_is_refused() -> None:
    class Large(type(MODEL)):  # type: ignore[misc]
        has_small_state = False

    replaying = build("rms", replay_rate=0.5).rule
    with pytest.raises(UserError, match="replay holds the model's state before each of many segments"):
        Replay.of(replaying, Large(MODEL.options, MODEL.vocab_size), 5)
    assert Replay.of(rule("rms"), Large(MODEL.options, MODEL.vocab_size), 5) is None
    assert Replay.of(replaying, MODEL, 5) == Replay(0.5, 5)


@pytest.mark.parametrize("options", [{"base": "adam"}, {"momentum": 0.3}])
def test_running_means_of_gradients_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"g\.replay_rate does not go with running means of gradients"):
        LearnedRuleOptions(replay_rate=0.4, **options)  # type: ignore[arg-type]
