"""Spans of wiki markup that are left out whole: templates, tables, references, comments, formulas.

They nest in one another, hold most of a page's markup, and most of the time that a parser of all markup takes. One pass
over their marks finds them, in time linear in the text however they are nested or unclosed.
"""

from __future__ import annotations

import re
from collections import Counter

_DROPPED = (
    "ref references table math chem ce gallery graph imagemap inputbox score timeline categorytree templatedata "
    "templatestyles mapframe maplink indicator section includeonly hiero"
).split()
"""Tags that are left out with what they enclose."""
_LITERAL = "nowiki pre syntaxhighlight source".split()
"""Tags that enclose text without markup."""
_MARK = re.compile(
    r"(?P<comment><!--)|(?P<open>\{\{)|(?P<close>\}\})|^[ \t:]*(?P<table>\{\|)|^[ \t]*(?P<end>\|\})"
    rf"|<(?P<slash>/?)(?P<tag>{'|'.join(_DROPPED + _LITERAL)})\b(?P<rest>[^<>]*)>",
    re.IGNORECASE | re.MULTILINE,
)
_SPECIAL = re.compile(r"[^\w\s]")

_Edit = tuple[int, int, str]
"""Start and end of a span, and what replaces it."""


class _Spans:
    """Spans that opened and closed in what was scanned so far."""

    def __init__(self) -> None:
        self.edits: list[_Edit] = []
        """In order, none inside another."""
        self.open: list[tuple[str, int, int]] = []
        """Kind, start and end of the marks that have no counterpart yet."""
        self._open_kinds = Counter[str]()

    def begin(self, kind: str, start: int, end: int) -> None:
        self.open.append((kind, start, end))
        self._open_kinds[kind] += 1

    def finish(self, kind: str, start: int, end: int) -> None:
        """End the innermost span of this kind, and what is unclosed in it; without one, drop the mark alone."""
        if self._open_kinds[kind]:
            while True:
                opened, start, _ = self.open.pop()
                self._open_kinds[opened] -= 1
                if opened == kind:
                    break
        self.replace(start, end)

    def ends_table(self, markup: str, end: int) -> bool:
        """Return whether "|}" before ``end`` is the end of a table."""
        innermost = self.open[-1][0] if self.open else ""
        return innermost == "table" or (self._open_kinds["table"] > 0 and not markup.startswith("}", end))

    def replace(self, start: int, end: int, text: str = "") -> None:
        while self.edits and self.edits[-1][0] >= start:
            self.edits.pop()
        self.edits.append((start, end, text))


def drop_spans(markup: str) -> str:
    """Return ``markup`` without templates, tables, references, comments and the like.

    Of a mark without counterpart only the mark is dropped, as if the rest were text; an unclosed comment reaches to the
    end. Text in which markup has no effect (``<nowiki>``) is returned with entities in place of its punctuation.
    """
    spans, position = _Spans(), 0
    never_closed: set[str] = set()
    while mark := _MARK.search(markup, position):
        kind = mark.lastgroup if mark["tag"] is None else mark["tag"].lower()
        start, position = mark.span() if mark["tag"] is not None else mark.span(mark.lastgroup or 0)
        if kind == "comment":
            end = markup.find("-->", position)
            position = len(markup) if end < 0 else end + 3
            spans.replace(start, position)
        elif kind in ("open", "table"):
            spans.begin(kind, start, position)
        elif kind == "close":
            spans.finish("open", start, position)
        elif kind == "end":
            if spans.ends_table(markup, position):
                spans.finish("table", start, position)
            else:
                position = start + 1  # The bar may stand before the end of a template: "|}}".
        elif mark["slash"]:
            spans.finish(str(kind), start, position)
        elif mark["rest"].endswith("/"):
            spans.replace(start, position)
        elif kind in _LITERAL:
            closing = None if kind in never_closed else re.compile(rf"</{kind}\s*>", re.I).search(markup, position)
            if closing is None:
                never_closed.add(str(kind))
                spans.replace(start, position)
            else:
                spans.replace(start, closing.end(), _escaped(markup[position : closing.start()]))
                position = closing.end()
        else:
            spans.begin(str(kind), start, position)
    return _edited(markup, spans)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda found: f"&#{ord(found[0])};", text)


def _edited(markup: str, spans: _Spans) -> str:
    edits = list(spans.edits)
    for kind, start, end in spans.open:
        if kind == "table":  # Its attributes are on its first line.
            line_end = markup.find("\n", end)
            end = len(markup) if line_end < 0 else line_end
        edits.append((start, end, ""))
    parts, position = [], 0
    for start, end, text in sorted(edits):
        if start >= position:
            parts += [markup[position:start], text]
        position = max(position, end)
    return "".join([*parts, markup[position:]])
