"""Article boundaries of WikiText.

The format marks a title as `` = Title = `` and a section as `` = = Section = = ``, but texts hold other lines that look
like titles (formulas, mostly). A title stands between two blank lines: of the 629 lines in WikiText-2's training text
that look like titles, these are the 600 that are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from dynlm.data.sources.source import Article, ArticleText

_TITLE_LINE = re.compile(r" = (?!=)(\S.*?)(?<!=) =\s*")


def title_of(line: str) -> str | None:
    """Return the title if ``line`` looks like one, else None."""
    if not line.startswith(" = "):
        return None
    match = _TITLE_LINE.fullmatch(line)
    return match[1].strip() if match else None


def wikitext_articles(lines: Iterable[tuple[str, str]]) -> Iterator[Article]:
    """Yield the articles of WikiText, given as (location, line); their texts joined are the lines joined.

    An article begins with the blank line before its title and is located by the title's line. Text before the first
    title is an article without a title; blank lines alone are none. Raises UserError for an article that is too long.
    """
    title, where, text = "", "", ArticleText()
    before: str | None = None  # The previous line, which may begin the next article.
    for (location, line), (_, after) in pairwise(chain(lines, [("", "end")])):
        where = where or location
        if before is not None and not before.strip() and not after.strip() and (found := title_of(line)) is not None:
            if not text.blank:
                yield Article(title, str(text), where)
                text = ArticleText()
            title, where = found, location
        if before is not None:
            text.append(before, where)
        before = line
    if before is not None:
        text.append(before, where)
    if not text.blank:
        yield Article(title, str(text), where)
