"""Text of wiki pages without their markup, in the form of WikiText.

Templates, tables, references and formulas are dropped (``markup_spans``); links, tags, lists and entities are parsed by
``mwparserfromhell`` (extra ``dynlm[wikipedia]``), a paragraph at a time, since the time that it takes grows with the
square of what is unclosed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dynlm.data.sources.markup_spans import drop_spans
from dynlm.errors import UserError

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Tag, Wikilink
    from mwparserfromhell.wikicode import Wikicode

Namespaces = Mapping[str, int]
"""Numbers of a wiki's namespaces by their names in its language, case-folded."""
_CANONICAL = {"media": -2, "file": 6, "image": 6, "category": 14}
"""Names that every wiki understands."""
_NOT_SHOWN = {-2, 6, 14}
_MEDIA = tuple(".jpg .jpeg .png .svg .gif .tif .tiff .webp .webm .ogg .oga .ogv .mp3 .mp4 .pdf .djvu".split())
"""Wikis have more names for the file namespace than dumps list."""
_INTERLANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*|simple")
_HEADING = re.compile(r"(={1,6})(.+?)(={1,6})\s*")
_BLOCK_CHARACTERS = 2000
_MOST_MARKS = 3000
_MARKS = re.compile(r"</?[^\W\d_][^<>]*>|'{2,}|\[\[|\]\]|\{\{+|\}\}+|__[^\W\d_a-z]{3,}__")
"""Marks without counterpart, and switches such as __NOTOC__."""
_WIDE = "\uff08", "\uff09", "\uff0c\uff1b\uff1a\u3001"
"""Brackets and separators of Chinese and Japanese."""
_BRACKETS = re.compile(rf"[ \u00a0]?[({_WIDE[0]}][\s,;:{_WIDE[2]}]*[){_WIDE[1]}]")
"""What dropped templates leave of "Bern (pronounced ...)"."""
_AFTER_BRACKET = re.compile(rf"(?<=[({_WIDE[0]}])[\s,;:{_WIDE[2]}]+")
_PLAIN_LINK = re.compile(r"\[\[([^][{}|<>:&#'\n]+)(?:\|([^][{}|<>\n]+))?\]\]")
"""Most links; the parser takes half of its time for them."""
_FOR_PARSER = re.compile(r"[][<&]|//|^(?:[*#:;]|----)", re.MULTILINE)
"""Without any of these, marks are all that is left."""


class MarkupError(ValueError):
    """Markup that cannot be parsed; the message completes "5 pages ..."."""


def require_parser(path: Path) -> None:
    """Raise UserError if the extra that reading a dump needs is not installed."""
    try:
        import mwparserfromhell  # noqa: F401
    except ImportError as error:
        what = f"a MediaWiki dump needs one more package ({error})"
        raise UserError(what, path, "pip install 'dynlm[wikipedia]'") from error


def plain_text(markup: str, title: str, namespaces: Namespaces) -> str:
    """Return the text of a page with its title and headings as lines of WikiText; empty if nothing is left of it.

    A paragraph or an item of a list is a line. Sections without text are left out. Raises MarkupError.
    """
    blocks: list[tuple[int, str]] = []
    for level, block in _blocks(drop_spans(markup)):
        text = _shown(block, namespaces)
        lines = [" ".join(text.split())] if level else _lines(text)
        blocks += [(level, line) for line in lines if line]
    kept: list[str] = []
    below = 7  # Level of the last heading kept, from the end; text keeps all that are above it.
    for level, line in reversed(blocks):
        if not level:
            kept.append(f"{line}\n")
            below = 7
        elif kept and level < below:
            kept.append(_heading(level, line))
            below = level
    return "".join([_heading(1, " ".join(title.split())), *reversed(kept)]) if kept else ""


def _heading(level: int, title: str) -> str:
    marks = " ".join("=" * level)
    return f"\n {marks} {title} {marks} \n\n"


def _blocks(markup: str) -> Iterator[tuple[int, str]]:
    """Yield (level, markup) of headings, and (0, markup) of paragraphs and of parts of long lists."""
    block: list[str] = []
    size = 0
    for line in markup.split("\n"):
        heading = _HEADING.fullmatch(line)
        if block and (heading or not line.strip() or size > _BLOCK_CHARACTERS):
            yield 0, "\n".join(block)
            block, size = [], 0
        if heading:
            # One "=" would be a second title.
            yield max(2, min(len(heading[1]), len(heading[3]))), heading[2].strip("= \t")
        elif line.strip():
            block.append(line)
            size += len(line)
    if block:
        yield 0, "\n".join(block)


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a paragraph with single spaces, without rows of unclosed tables."""
    for line in text.split("\n"):
        if not line.lstrip().startswith("|"):
            yield " ".join(_AFTER_BRACKET.sub("", _BRACKETS.sub("", line)).split())


def _shown(markup: str, namespaces: Namespaces) -> str:
    """Return what a reader sees of markup without templates and tables."""
    markup = _PLAIN_LINK.sub(lambda link: link[2] or link[1], markup)
    if not _FOR_PARSER.search(markup):
        return _MARKS.sub("", markup)
    import mwparserfromhell
    from mwparserfromhell.parser import ParserError

    if markup.count("<") + markup.count("[") > _MOST_MARKS:
        raise MarkupError(f"with over {_MOST_MARKS:,} marks in a paragraph")
    try:
        return _text_of(mwparserfromhell.parse(markup, skip_style_tags=True), namespaces)
    except (ParserError, RecursionError, SystemError) as error:
        raise MarkupError("whose markup cannot be parsed") from error


def _text_of(code: Wikicode, namespaces: Namespaces) -> str:
    from mwparserfromhell import nodes

    parts = []
    for node in code.nodes:
        if isinstance(node, nodes.Text):
            parts.append(_MARKS.sub("", node.value))
        elif isinstance(node, nodes.Wikilink):
            parts.append(_link_text(node, namespaces))
        elif isinstance(node, nodes.HTMLEntity):
            parts.append(html.unescape(str(node)))
        elif isinstance(node, nodes.ExternalLink):
            shown = node.title if node.brackets else node.url
            parts.append(_text_of(shown, namespaces) if shown is not None else "")
        elif isinstance(node, nodes.Tag):
            parts.append(_tag_text(node, namespaces))
    return "".join(parts)


def _link_text(link: Wikilink, namespaces: Namespaces) -> str:
    """Return the text of a link; none for files, categories and the same page in other languages."""
    target = str(link.title).strip()
    prefix, colon, rest = target.partition(":")
    if colon and prefix:
        name = prefix.strip().replace("_", " ").casefold()
        if namespaces.get(name, _CANONICAL.get(name)) in _NOT_SHOWN or rest.lower().endswith(_MEDIA):
            return ""
        if link.text is None and _INTERLANGUAGE.fullmatch(prefix):
            return ""
    shown = _text_of(link.text, namespaces) if link.text is not None else ""
    return shown or _text_of(link.title, namespaces).strip().removeprefix(":")


def _tag_text(tag: Tag, namespaces: Namespaces) -> str:
    name = str(tag.tag).strip().lower()
    if name in ("br", "hr"):
        return "\n"
    if name == "dd" and tag.wiki_markup:  # "; term : definition" on one line.
        return " "
    return _text_of(tag.contents, namespaces) if tag.contents is not None else ""
