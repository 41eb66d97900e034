"""The notation for articles of a split: ``31-60``, ``7``, ``31-``, ``-30``, several with commas, or ``all``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from dynlm.errors import UserError
from dynlm.runtime.validation import shortened

_RANGE = re.compile(r"([0-9]*)(-?)([0-9]*)")


def article_range(text: str | None, count: int, option: str = "articles") -> list[int]:
    """Return the articles that ``text`` names as sorted unique indices from 0 into ``count`` articles; None is all.

    Raises UserError, naming ``option``, for malformed text, a reversed range, or one past the last article.
    """
    if text is None or text == "all":
        return list(range(count))
    what = f"{option} is {shortened(text)}"
    chosen: set[int] = set()
    for part in text.split(","):
        if (found := _RANGE.fullmatch(part)) is None or part in ("", "-"):
            raise UserError(what, do="write FIRST-LAST counted from 1, several with commas between them, or all")
        first, dash, last = found.groups()
        # Python refuses to convert thousands of digits, and 20 are more than any count.
        low, high = (int(end.lstrip("0")[:20] or 0) if end else None for end in (first, last))
        low = 1 if low is None else low
        high = (count if dash else low) if high is None else high
        if not 1 <= low <= count or high > count:
            raise UserError(f"{what} but there are {count} articles", do=f"choose within 1-{count}")
        if high < low:
            raise UserError(f"{what}, which ends before it begins", do="write the lower number first")
        chosen.update(range(low - 1, high))
    return sorted(chosen)


def format_ranges(numbers: Iterable[int]) -> str:
    """Return article numbers, counted from 1, as ``31-60,62``."""
    ranges: list[list[int]] = []
    for number in sorted(set(numbers)):
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1].append(number)
        else:
            ranges.append([number])
    return ",".join(f"{first}-{rest[-1]}" if rest else str(first) for first, *rest in ranges)
