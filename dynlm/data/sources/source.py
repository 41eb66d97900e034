"""What every source of articles offers the rest: a name, and a fresh iterator over each split it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from dynlm.data.article import Article

Articles = Callable[[], Iterator[Article]]
"""Starts reading a split from its first article."""

SPLIT_NAMES = {
    "train": "train",
    **dict.fromkeys(("valid", "validation", "val", "dev", "development"), "valid"),
    "test": "test",
}
"""How files, folders and hub data sets name the splits, and what they are called here."""


@dataclass(frozen=True)
class Source:
    """A corpus before meta articles and limits: ``splits`` maps train, valid and test, as far as there are such."""

    name: str
    splits: Mapping[str, Articles]
    not_read: Mapping[str, str] = field(default_factory=dict)
    """Files of a folder that are no part of the corpus, and why."""


def with_held_out(splits: Mapping[str, Articles], every: int) -> dict[str, Articles]:
    """Give splits without valid (and test) their own, from train: of each ``every`` articles the last is valid's.

    The last but one is test's, unless there is a test split. Neighbours are thus split, so that no part of a sorted
    source is missing from training. Splits that have a valid, or no train, stay as they are.
    """
    if "train" not in splits or "valid" in splits:
        return dict(splits)
    whole = splits["train"]
    held_out = {"valid": every - 1} if "test" in splits else {"valid": every - 1, "test": every - 2}

    def remaining() -> Iterator[Article]:
        return (article for i, article in enumerate(whole()) if i % every not in held_out.values())

    def every_nth(remainder: int) -> Articles:
        return lambda: (article for i, article in enumerate(whole()) if i % every == remainder)

    return {**splits, "train": remaining, **{split: every_nth(at) for split, at in held_out.items()}}
