"""Joined texts hold every token of their articles once, in order; kinds of text have equal shares."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.joined import Piece, alternate, deal, join_articles, join_pieces, joined_rows
from dynlm.data.stream import Stream, read_as_one, read_in_order
from dynlm.data.tokenised_split import TokenisedSplit
from tests.data.test_stream import LENGTHS, START, all_segments, split_of


@settings(max_examples=60, deadline=None)
@given(data=st.data(), lengths=LENGTHS, segment=st.integers(1, 16))
def test_segments_run_across_articles_and_every_token_is_read_once(data, lengths, segment):
    split = split_of(lengths)
    order = data.draw(st.permutations(range(len(lengths))))
    rows, stream = joined_rows(split, order), read_as_one(split, segment, order)
    reads = [read for read, _ in all_segments(stream)]
    targets = np.concatenate([read.targets_BT[0] for read in reads])
    inputs = np.concatenate([read.inputs_BT[0] for read in reads])
    assert targets.tolist() == split.ids_N[rows].tolist() and sorted(rows) == list(range(sum(lengths)))
    assert inputs.tolist() == [START, *targets[:-1].tolist()]
    assert [read.tokens for read in reads[:-1]] == [segment] * (len(reads) - 1)
    assert [bool(read.starts_B[0]) for read in reads] == [True, *[False] * (len(reads) - 1)]
    assert stream.articles == order and read_in_order(split, segment, order).articles == order


def test_a_joined_text_is_what_the_articles_are_one_after_the_other():
    split = split_of([7, 6, 5], headings=[0, 5, 7, 12, 14])
    split = TokenisedSplit(**{**vars(split), "text": np.arange(18, dtype=np.uint8)})
    joined = join_articles(split, [2, 0])
    assert joined.articles == 1 and joined.titles == ["5"] and joined.start_token == START
    assert joined.ids_N.tolist() == joined.text.tolist() == [*range(13, 18), *range(7)]
    assert joined.headings.tolist() == [1, 5, 10]
    assert b"".join(joined.surfaces(0)) == joined.text.tobytes()
    assert joined.fingerprint != join_articles(split, [0, 2]).fingerprint


def test_texts_of_several_splits_are_joined():
    one, other = split_of([3, 4]), split_of([2, 6])
    joined = join_pieces([[Piece(one, 1), Piece(other, 0)], [Piece(other, 1)]])
    assert joined.ids_N.tolist() == [3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 7]
    assert joined.starts.tolist() == [0, 6, 12] and joined.titles == ["4", "6"]


def pieces_of(lengths):
    split = split_of(lengths)
    return [Piece(split, article) for article in range(split.articles)]


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(LENGTHS, min_size=2, max_size=4), seed=st.integers(0, 9))
def test_kinds_have_equal_shares_and_none_repeats_before_it_ends(kinds, seed):
    pieces = [pieces_of(lengths) for lengths in kinds]
    kind_of = {id(own[0].split): number for number, own in enumerate(pieces)}
    read, counts = [[] for _ in kinds], [0] * len(kinds)
    for piece in itertools.islice(alternate(pieces, seed), 60):
        kind = kind_of[id(piece.split)]
        read[kind].append(piece.article)
        counts[kind] += piece.tokens
        assert max(counts) - min(counts) <= 40  # the longest article
    for lengths, articles in zip(kinds, read, strict=True):
        for begin in range(0, len(articles), len(lengths)):
            once = articles[begin : begin + len(lengths)]
            assert len(set(once)) == len(once)


@settings(max_examples=40, deadline=None)
@given(kinds=st.lists(LENGTHS, min_size=2, max_size=4), seed=st.integers(0, 9), turn=st.integers(1, 90))
def test_a_turn_lasts_for_its_tokens(kinds, seed, turn):
    pieces = [pieces_of(lengths) for lengths in kinds]
    kind_of = {id(own[0].split): number for number, own in enumerate(pieces)}
    order = itertools.islice(alternate(pieces, seed, turn=turn), 80)
    turns = [[piece.tokens for piece in each] for _, each in itertools.groupby(order, lambda p: kind_of[id(p.split)])]
    for sizes in turns[:-1]:  # the last may be cut off; turns of one kind may follow each other
        assert sum(sizes) >= turn
        assert len(turns) > 2 or sum(sizes[:-1]) < 2 * turn + 40


def test_one_kind_is_in_the_order_of_a_shuffled_stream():
    split = split_of([3] * 7)
    stream = Stream(split, 1, 3, range(7), seed=4, repeat=True)
    told = [int(read.position_B2[0, 0]) for read, _ in all_segments(stream, limit=20)]
    pieces = alternate([[Piece(split, article) for article in range(7)]], 4)
    assert [piece.article for piece in itertools.islice(pieces, 20)] == told


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, lanes=st.integers(1, 4), tokens=st.integers(0, 200))
def test_articles_are_dealt_to_lanes_in_order(lengths, lanes, tokens):
    texts = deal(alternate([pieces_of(lengths)], 1), lanes, tokens)
    sizes = [sum(piece.tokens for piece in pieces) for pieces in texts]
    assert len(sizes) == lanes and min(sizes) >= max(1, tokens)
    assert max(sizes) - min(sizes) <= 40
    in_order = itertools.islice(alternate([pieces_of(lengths)], 1), sum(map(len, texts)))
    assert sorted(piece.article for piece in in_order) == sorted(p.article for pieces in texts for p in pieces)
