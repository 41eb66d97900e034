"""WikiText's articles: where one ends and the next begins.

The format marks a title as `` = Title = `` and a section as `` = = Section = = ``, but texts hold other lines that look
like titles (formulas, mostly). A title stands between two empty lines; of the 629 look-alikes in WikiText-2's
training text, these are the 600 that are titles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from dynlm.data.article import Article, Lines

_TITLE_LINE = re.compile(r" = (?!=)(\S.*?)(?<!=) =\s*")


def title_of(line: str) -> str | None:
    """The title in a line that looks like one, ``None`` in any other; the lines around it are not known here."""
    if not line.startswith(" = "):
        return None
    match = _TITLE_LINE.fullmatch(line)
    return match[1].strip() if match else None


def wikitext_articles(lines: Iterable[str], name: str) -> Iterator[Article]:
    """The articles of WikiText lines, read one at a time; their texts joined are the lines joined.

    An article begins with the empty line before its title. Text before the first title is an article without one;
    lines that are all empty are none. ``where`` is ``name`` and the number of the title's line. Raises UserError for an
    article over ``text.LARGEST_TEXT``.
    """
    title, title_number = "", 1
    held, last = Lines(), list[str]()  # the last two lines may be the next article's
    maybe: str | None = None  # the last line's title, if the line to come is empty

    for number, line in enumerate(lines, 1):
        empty = not line.strip()
        if maybe is not None and empty:
            if not held.blank:
                yield Article(title, held.text, f"{name}:{title_number}")
                held = Lines()
            title, title_number = maybe, number - 1
        maybe = title_of(line) if last and not last[-1].strip() else None
        last.append(line)
        if len(last) > 2:
            held.append(last.pop(0), f"{name}:{title_number}")
    held.extend(last, f"{name}:{title_number}")
    if not held.blank:
        yield Article(title, held.text, f"{name}:{title_number}")
