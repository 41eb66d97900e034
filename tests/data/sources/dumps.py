"""Small MediaWiki dumps for tests."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr

ENGLISH = {-2: "Media", 0: "", 1: "Talk", 6: "File", 10: "Template", 14: "Category"}


def page(title: str, text: str, ns: int | None = 0, redirect: str = "", model: str = "wikitext") -> str:
    """Return a page of a dump; ``ns`` None is a page of a dump before 2012."""
    return (
        f"  <page>\n    <title>{escape(title)}</title>\n"
        + ("" if ns is None else f"    <ns>{ns}</ns>\n")
        + (f"    <redirect title={quoteattr(redirect)} />\n" if redirect else "")
        + f"    <id>1</id>\n    <revision>\n      <id>2</id>\n      <comment>not &lt;ref&gt; read</comment>\n"
        f"      <model>{model}</model>\n      <format>text/x-wiki</format>\n"
        f'      <text bytes="{len(text.encode())}" xml:space="preserve">{escape(text)}</text>\n'
        "    </revision>\n  </page>\n"
    )


def siteinfo(names: dict[int, str] = ENGLISH) -> str:
    spaces = "".join(
        f'<namespace key="{key}" case="first-letter">{escape(name)}</namespace>' for key, name in names.items()
    )
    return f"  <siteinfo><sitename>Wiki</sitename><namespaces>{spaces}</namespaces></siteinfo>\n"


def dump(*pages: str, names: dict[int, str] = ENGLISH) -> bytes:
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="xx">\n'
    return "".join([head, siteinfo(names), *pages, "</mediawiki>\n"]).encode()
