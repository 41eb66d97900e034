"""Streams read every token once and in order, and resume at any position."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.stream import Stream, StreamPosition, read_in_order
from dynlm.data.tokenised_split import TokenisedSplit, Tokens

START = 99_999


def split_of(lengths, headings=()):
    """Return articles whose token ids count through the split: an id is the token's index."""
    ids = np.arange(sum(lengths), dtype=np.int32)
    ones, text = np.ones(len(ids), dtype=np.int32), np.zeros(len(ids), dtype=np.uint8)
    tokens = Tokens(ids, ones, ones.astype(np.int16), np.array(headings), text, np.array(lengths))
    return TokenisedSplit.from_tokens(tokens, [str(n) for n in lengths], START)


def all_segments(stream, position=None, limit=10_000):
    position = stream.begin() if position is None else position
    for _ in range(limit):
        segment, position = stream.next(position)
        if segment is None:
            return
        yield segment, position


LENGTHS = st.lists(st.integers(2, 40), min_size=1, max_size=8)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, lanes=st.integers(1, 5), segment=st.integers(1, 16))
def test_one_pass_reads_every_token_once_with_its_predecessor_as_input(lengths, lanes, segment):
    split = split_of(lengths)
    seen = []
    for read, _ in all_segments(Stream(split, lanes, segment, range(len(lengths)))):
        for row in range(lanes):
            targets = read.targets_BT[row][read.mask_BT[row]]
            inputs = read.inputs_BT[row][read.mask_BT[row]]
            if not len(targets):
                continue
            article = read.position_B2[row, 0]
            assert read.position_B2[row, 1] == targets[0] - split.starts[article]
            assert read.starts_B[row] == (targets[0] == split.starts[article])
            assert inputs[0] == (START if read.starts_B[row] else targets[0] - 1)
            assert (inputs[1:] == targets[:-1]).all()
            assert (targets < split.starts[article + 1]).all()
            seen.extend(targets.tolist())
    assert sorted(seen) == split.ids_N.tolist()


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, segment=st.integers(1, 16))
def test_one_lane_reads_in_order_without_padding(lengths, segment):
    split = split_of(lengths)
    reads = [read for read, _ in all_segments(read_in_order(split, segment, range(len(lengths))))]
    assert np.concatenate([read.targets_BT[0] for read in reads]).tolist() == split.ids_N.tolist()
    assert all(read.mask_BT.all() for read in reads)


def test_long_pieces_are_cut_where_an_article_has_as_many_tokens_left():
    split = split_of([34, 14])
    stream = Stream(split, 1, 5, [0, 1], longest=15)
    reads = list(all_segments(stream))
    assert [len(read.targets_BT[0]) for read, _ in reads] == [15, 15, 4, 5, 5, 4]
    assert np.concatenate([read.targets_BT[0] for read, _ in reads]).tolist() == split.ids_N.tolist()
    assert [read.starts_B.item() for read, _ in reads] == [True, False, False, True, False, False]
    after_first = reads[0][1]
    assert [len(read.targets_BT[0]) for read, _ in all_segments(stream, after_first)] == [15, 4, 5, 5, 4]


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, lanes=st.integers(1, 4), stop=st.integers(1, 12))
def test_a_saved_position_resumes_exactly(lengths, lanes, stop):
    stream = Stream(split_of(lengths), lanes, 5, range(len(lengths)), seed=3, repeat=True)
    whole = list(all_segments(stream, limit=24))
    position = StreamPosition.from_dict(json.loads(json.dumps(whole[stop - 1][1].to_dict())))
    for (resumed, _), (read, _) in zip(all_segments(stream, position, limit=24 - stop), whole[stop:], strict=True):
        assert np.array_equal(resumed.targets_BT, read.targets_BT)
        assert np.array_equal(resumed.inputs_BT, read.inputs_BT)
        assert np.array_equal(resumed.mask_BT, read.mask_BT)


def test_each_epoch_is_a_new_permutation():
    stream = Stream(split_of([3] * 12), 1, 3, range(12), seed=0, repeat=True)
    order = [int(read.position_B2[0, 0]) for read, _ in all_segments(stream, limit=24)]
    assert sorted(order[:12]) == sorted(order[12:]) == list(range(12))
    assert order[:12] != order[12:]


def test_all_ranks_together_read_what_one_process_reads():
    split = split_of([7, 9, 4, 12, 6])
    options = {"lanes": 4, "segment": 4, "order": range(5), "seed": 1, "repeat": True}
    whole = [read for read, _ in all_segments(Stream(split, **options), limit=10)]
    ranks = [
        [read for read, _ in all_segments(Stream(split, **options, rank=rank, world=2), limit=10)] for rank in range(2)
    ]
    for step, read in enumerate(whole):
        for lane in range(4):
            part = ranks[lane % 2][step]
            assert np.array_equal(part.targets_BT[lane // 2], read.targets_BT[lane])


def test_empty_lanes_are_masked():
    reads = [read for read, _ in all_segments(Stream(split_of([2, 9]), 3, 4, range(2)))]
    assert reads[0].mask_BT.sum(axis=1).tolist() == [2, 4, 0]
    assert reads[0].position_B2[:, 0].tolist() == [0, 1, -1]
    assert not reads[0].starts_B[2]


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_position_counts_the_tokens_of_all_lanes(lanes):
    stream = Stream(split_of([5, 6, 7]), lanes, 4, range(3))
    *_, (_, position) = all_segments(stream)
    assert position.tokens == 18


def test_the_order_of_an_epoch_is_drawn_once(monkeypatch):
    split = split_of([3] * 20)
    stream = Stream(split, 2, 4, range(20), seed=11, repeat=True)
    drawn = [segment.position_B2[:, 0].tolist() for segment, _ in all_segments(stream, limit=15)]
    expected = np.concatenate([np.random.default_rng([11, epoch]).permutation(np.arange(20)) for epoch in (0, 1)])
    assert np.concatenate(drawn).tolist() == expected[:30].tolist()
    seen = []
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seen.append(seed))
    assert [segment.position_B2[:, 0].tolist() for segment, _ in all_segments(stream, limit=15)] == drawn
    assert not seen


def test_segments_flag_completed_headings():
    stream = read_in_order(split_of([7, 6], headings=[0, 5, 7, 12]), 3, range(2))
    found = [(int(s.position_B2[0, 1]), bool(s.headings_B[0])) for s, _ in all_segments(stream)]
    # Segments begin at 0, 3, 6 and 0, 3 of the two articles: tokens 0-2, 3-5, 6, 7-9 and 10-12 of the split.
    assert found == [(0, True), (3, True), (6, False), (0, True), (3, True)]
