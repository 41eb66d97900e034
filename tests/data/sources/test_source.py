"""Held-out splits partition train by interleaving, and existing splits are kept."""

from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.article import Article
from dynlm.data.sources.source import with_held_out


def numbered(count: int):
    return lambda: (Article(str(i), "text", "") for i in range(count))


def read(splits) -> dict[str, list[int]]:
    return {name: [int(article.title) for article in articles()] for name, articles in splits.items()}


def test_held_out_splits_are_interleaved():
    splits = with_held_out({"train": numbered(9)}, 4)
    assert read(splits) == {"train": [0, 1, 4, 5, 8], "test": [2, 6], "valid": [3, 7]}
    assert read(splits) == read(splits), "each call starts again"


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(3, 20))
def test_held_out_splits_are_a_partition(count, every):
    parts = read(with_held_out({"train": numbered(count)}, every))
    assert sorted(i for part in parts.values() for i in part) == list(range(count))
    assert len(parts["valid"]) == count // every


def test_existing_splits_are_kept():
    given_splits = {"train": numbered(9), "valid": numbered(2)}
    assert read(with_held_out(given_splits, 3)) == read(given_splits)
    assert read(with_held_out({"test": numbered(3)}, 3)) == {"test": [0, 1, 2]}
    assert read(with_held_out({"train": numbered(5), "test": numbered(1)}, 3)) == {
        "train": [0, 1, 3, 4],
        "test": [0],
        "valid": [2],
    }
