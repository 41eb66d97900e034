"""Pages of MediaWiki XML dumps, such as ``enwiki-20260901-pages-articles.xml.bz2``, as articles.

The format is that of ``Special:Export`` (https://www.mediawiki.org/wiki/Help:Export, any version): ``siteinfo`` names
the wiki's namespaces in its own language, and each ``page`` has revisions, of which the last one is read. Files are
parsed as they are unpacked, a page at a time.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from dynlm.data.sources.lines import open_unpacked
from dynlm.data.sources.markup import MarkupError, plain_text
from dynlm.data.sources.source import Article, ArticleText, Skipped
from dynlm.errors import UserError

_READ_BYTES = 1 << 16
_LONGEST_TAG = 1 << 20
"""Bytes; expat holds a tag in memory until it ends."""
_FIELDS = {
    ("mediawiki", "siteinfo", "namespaces", "namespace"),
    *(("mediawiki", "page", name) for name in ("title", "ns")),
    *(("mediawiki", "page", "revision", name) for name in ("model", "text")),
}
"""Elements whose text is used."""
_REDIRECT = re.compile(r"\s*#\w+\s*:?\s*\[\[")
"""How the text of a redirect begins in any language; dumps before 2010 do not mark them."""


class Page(NamedTuple):
    """A page with its last revision."""

    title: str
    namespace: int
    """0 for articles."""
    is_redirect: bool
    model: str
    """Content model: ``wikitext``, or that of code and data."""
    text: str
    where: str


class _Dump:
    """The pages of a dump, parsed from its bytes."""

    def __init__(self, path: Path):
        self.namespaces: dict[str, int] = {}
        self.pages: list[Page] = []
        """Pages that ended in what was parsed so far."""
        self._path: list[str] = []
        self._file, self._parsed = path, 0
        self._page: dict[str, str] = {}
        self._key, self._text = 0, ArticleText()
        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.StartDoctypeDeclHandler = self._doctype

    def parse(self, data: bytes, last: bool = False) -> None:
        """Parse the next bytes. Raises UserError for what is no dump and for a text that is too long."""
        self._parsed += len(data)
        try:
            self._expat.Parse(data, last)
        except expat.ExpatError as error:
            what = f"cut short or damaged ({expat.ErrorString(error.code)})"
            raise UserError(what, f"{self._file}:{error.lineno}", "download or create the file again") from error
        if self._parsed - self._expat.CurrentByteIndex > _LONGEST_TAG:
            raise UserError(f"a tag of more than {_LONGEST_TAG:,} bytes", self._where(), "is it a MediaWiki dump?")

    def _where(self) -> str:
        return f"{self._file}:{self._expat.CurrentLineNumber}"

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if not self._path and name != "mediawiki":
            what = f"XML of another kind: it begins with <{name[:40]}>, not <mediawiki>"
            raise UserError(what, self._file, "name a dump of pages, such as enwiki-...-pages-articles.xml.bz2")
        self._path.append(name)
        if name == "page":
            self._page = {"where": self._where()}
        elif name == "redirect":
            self._page["redirect"] = "yes"
        elif name == "namespace":
            key = attributes.get("key", "")
            self._key = int(key) if re.fullmatch(r"-?\d{1,6}", key) else 0
        if tuple(self._path) in _FIELDS:
            self._text = ArticleText()
            self._expat.CharacterDataHandler = self._characters

    def _characters(self, text: str) -> None:
        self._text.append(text, self._page.get("where", str(self._file)))

    def _end(self, name: str) -> None:
        if self._expat.CharacterDataHandler is not None:
            self._expat.CharacterDataHandler = None
            if name == "namespace":
                self.namespaces[str(self._text).casefold()] = self._key
            else:
                self._page[name] = str(self._text)
        self._path.pop()
        if name == "page":
            self.pages.append(self._made())

    def _made(self) -> Page:
        page = self._page
        title, text = page.get("title", ""), page.get("text", "")
        namespace = page.get("ns", "")
        if not re.fullmatch(r"-?\d{1,6}", namespace):  # Dumps before 2012 do not have it.
            namespace = str(self.namespaces.get(title.partition(":")[0].casefold(), 0) if ":" in title else 0)
        is_redirect = "redirect" in page or _REDIRECT.match(text) is not None
        return Page(title, int(namespace), is_redirect, page.get("model", "wikitext"), text, page["where"])

    def _doctype(self, *declaration: object) -> None:
        raise UserError("has a document type declaration, which dumps do not have", self._where())


def dump_articles(path: Path, skipped: Skipped) -> Iterator[Article]:
    """Yield the articles of a dump: pages of the main namespace that are no redirects, without their markup.

    The numbers of other pages are written to ``skipped`` when the iterator ends. Raises UserError, with the line, for a
    file that is damaged, cut short or no dump.
    """
    dump, left = _Dump(path), Counter[str]()
    try:
        with open_unpacked(path) as file:
            while data := file.read(_READ_BYTES):
                dump.parse(data)
                yield from _articles(dump, left)
            dump.parse(b"", last=True)
            yield from _articles(dump, left)
    finally:
        counts = [f"{count:,} {reason}" for reason, count in left.most_common()]
        if counts:
            skipped[f"pages of {path}"] = ", ".join(counts)


def _articles(dump: _Dump, left: Counter[str]) -> Iterator[Article]:
    """Yield the articles among the dump's new pages, and count the others by reason."""
    pages, dump.pages = dump.pages, []
    for page in pages:
        reason = _reason_to_skip(page)
        if not reason:
            try:
                text = plain_text(page.text, page.title, dump.namespaces)
            except MarkupError as error:
                reason = str(error)
            else:
                reason = "" if text else "without text beside their markup"
        if reason:
            left[reason] += 1
        else:
            yield Article(page.title, text, page.where)


def _reason_to_skip(page: Page) -> str:
    if page.namespace != 0:
        return "outside the main namespace"
    if page.is_redirect:
        return "redirects"
    return "" if page.model == "wikitext" else "of code or data"
