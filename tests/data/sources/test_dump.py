"""MediaWiki dumps: which pages are articles, what is reported of the others, and how damage is told."""

from __future__ import annotations

import bz2
import gzip
import json
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from dynlm.data.articles import describe, load_articles, open_source
from dynlm.data.options import CorpusOptions
from dynlm.data.sources import dump as dumps
from dynlm.data.sources.dump import dump_articles
from dynlm.data.sources.source import Article
from dynlm.errors import UserError
from dynlm.runtime import text as texts
from tests.data.sources.dumps import dump, page, siteinfo

pytest.importorskip("mwparserfromhell", reason="the extra dynlm[wikipedia] is not installed")

PAGES = [
    page("Alpha", "'''Alpha''' is [[a|the]] first.\n== More ==\n* one\n* two"),
    page("Beta", "#REDIRECT [[Alpha]]", redirect="Alpha"),
    page("Talk:Alpha", "talk", ns=1),
    page("Empty", "{{stub}}"),
    page("Data", "{}", model="json"),
    page("Gamma & Co", "Third &amp; last."),
    page("Template:T", "{{{1}}}", ns=10),
]
ALPHA = "\n = Alpha = \n\nAlpha is the first.\n\n = = More = = \n\none\ntwo\n"


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def read(path: Path, **options: object) -> list[Article]:
    return load_articles(CorpusOptions(path=str(path), **options), "train+meta")


def error_of(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_page_is_read_or_counted_with_a_reason(tmp_path):
    path, skipped = write(tmp_path / "wiki.xml", dump(*PAGES)), {}
    articles = list(dump_articles(path, skipped))
    assert [(a.title, a.text) for a in articles] == [
        ("Alpha", ALPHA),
        ("Gamma & Co", "\n = Gamma & Co = \n\nThird & last.\n"),
    ]
    lines = path.read_text().split("\n")
    assert [a.where for a in articles] == [f"{path}:3", f"{path}:{lines.index('    <title>Gamma &amp; Co</title>')}"]
    assert skipped == {
        f"pages of {path}": "2 outside the main namespace, 1 redirects, 1 without text beside their markup, "
        "1 of code or data"
    }


def test_the_corpus_command_reports_what_was_skipped(tmp_path, capsys):
    from dynlm.cli.main import main

    path = write(tmp_path / "wiki.xml.bz2", bz2.compress(dump(*PAGES)))
    assert main(["corpus", "--corpus.path", str(path)]) == 0
    assert f"not read: pages of {path}: 2 outside the main namespace, 1 redirects" in capsys.readouterr().out
    assert main(["corpus", "--corpus.path", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["train"]["articles"] == 2 and list(shown["not_read"]) == [f"pages of {path}"]


@pytest.mark.parametrize("name", ["wiki.xml", "wiki.xml.bz2", "wiki.xml.gz", "wiki.xml-p1p41242.bz2", "wiki.txt"])
def test_dumps_are_detected_by_suffix_and_content(tmp_path, name):
    pack = {".bz2": bz2.compress, ".gz": gzip.compress}.get(Path(name).suffix, bytes)
    path = write(tmp_path / name, pack(dump(*PAGES)))
    assert [a.title for a in read(path)] == ["Alpha", "Gamma & Co"]


def test_a_multistream_dump_is_read_whole(tmp_path):
    whole = dump(*PAGES)
    cuts = [0, 100, 400, 401, len(whole)]
    streams = b"".join(bz2.compress(whole[a:b]) for a, b in pairwise(cuts))
    path = write(tmp_path / "wiki-pages-articles-multistream.xml.bz2", streams)
    assert [a.title for a in read(path)] == ["Alpha", "Gamma & Co"] and read(path)[0].text == ALPHA


def test_parts_of_a_dump_are_read_by_a_pattern_or_from_their_folder(tmp_path):
    for number in (1, 2):
        parts = dump(page(f"P{number}", "text"))
        write(tmp_path / f"xx-pages-articles{number}.xml-p{number}p{number + 1}.bz2", bz2.compress(parts))
    write(tmp_path / "xx-pages-articles-multistream-index.txt.bz2", bz2.compress(b"600:1:P1\n"))
    write(tmp_path / "xx-md5sums.txt", b"0 a\n")
    write(tmp_path / "xx-categories.sql.gz", b"")
    folder = open_source(CorpusOptions(path=str(tmp_path)))
    assert [a.title for a in folder.splits["train+meta"]()] == ["P1", "P2"]
    assert {Path(name).name: why.split(" ")[0] for name, why in folder.skipped.items()} == {
        "xx-pages-articles-multistream-index.txt.bz2": "a",
        "xx-md5sums.txt": "a",
        "xx-categories.sql.gz": "its",
    }
    assert [a.title for a in read(tmp_path / "xx-*articles*.bz2")] == ["P1", "P2"]
    assert [a.title for a in read(tmp_path / "xx-*articles2.xml*")] == ["P2"]
    assert "no such file or folder" in error_of(tmp_path / "yy-*.bz2")


def test_namespaces_are_those_of_the_dump(tmp_path):
    names = {0: "", 1: "Diskussion", 6: "Datei", 10: "Vorlage", 14: "Kategorie"}
    text = "[[Datei:a|mini|Text]]Ein [[Haus]]. [[Kategorie:Bau]][[File:b]] [[Category:x]] [[Diskussion:Haus]]"
    pages = [page("Haus", text), page("Vorlage:X", "Text", ns=10), page("Diskussion:Haus", "Text", ns=1)]
    path = write(tmp_path / "de.xml", dump(*pages, page("Alt", "#WEITERLEITUNG [[Haus]]"), names=names))
    skipped: dict[str, str] = {}
    assert [a.text for a in dump_articles(path, skipped)] == ["\n = Haus = \n\nEin Haus. Diskussion:Haus\n"]
    assert list(skipped.values()) == ["2 outside the main namespace, 1 redirects"]
    # Dumps before 2012 name a page's namespace by its title alone.
    old = dump(
        page("Haus", "Ein Haus.", None), page("vorlage:X", "Text", None), page("2: B", "Text", None), names=names
    )
    assert [a.title for a in read(write(tmp_path / "old.xml", old))] == ["Haus", "2: B"]


def test_right_to_left_text_is_kept(tmp_path):
    text = (
        "'''ויקיפדיה''' היא [[אנציקלופדיה|אנציקלופדיה]]\u200f {{ש}}(באנגלית: Wikipedia).\n"
        "== היסטוריה ==\nمرحبا [[ملف:x.jpg|تصغير]]"
    )
    (article,) = read(write(tmp_path / "he.xml", dump(page("ויקיפדיה", text), names={6: "קובץ"})))
    assert article.text == (
        "\n = ויקיפדיה = \n\nויקיפדיה היא אנציקלופדיה\u200f (באנגלית: Wikipedia).\n\n = = היסטוריה = = \n\nمرحبا\n"
    )


def test_the_last_revision_is_read(tmp_path):
    first, rest = page("P", "old text").split("    <revision>")
    again = rest.replace("old text", "new text").replace("  </page>\n", "")
    history = f"{first}    <revision>{again}    <revision>{again.replace('new text', 'newest')}  </page>\n"
    assert [a.text for a in read(write(tmp_path / "h.xml", dump(history)))] == ["\n = P = \n\nnewest\n"]
    deleted = history.replace(">newest<", "><").replace('<text bytes="8"', '<text deleted="deleted"')
    skipped: dict[str, str] = {}
    assert not list(dump_articles(write(tmp_path / "d.xml", dump(deleted)), skipped))


def test_a_page_of_5_megabytes_is_read(tmp_path):
    paragraph = "Some [[linked]] text with a {{template|of=no}} use<ref>and a source</ref>, again and again.\n\n"
    long = paragraph * (5 * 2**20 // len(paragraph))
    path = write(tmp_path / "wiki.xml", dump(page("Before", "x"), page("Long", long), page("After", "y")))
    articles = list(dump_articles(path, {}))
    assert [article.title for article in articles] == ["Before", "Long", "After"]
    head = "\n = Long = \n\n"
    assert articles[1].text == head + "Some linked text with a use, again and again.\n" * long.count("\n\n")


def test_pages_are_not_held(tmp_path):
    path = write(tmp_path / "wiki.xml.bz2", bz2.compress(dump(*[page(f"P{n}", "text " * 20_000) for n in range(40)])))
    tracemalloc.start()
    assert sum(1 for _ in dump_articles(path, {})) == 40
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 << 20  # Of 4.


def test_a_page_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "LARGEST_TEXT", 1000)
    path = write(tmp_path / "wiki.xml", dump(page("Long", "ä" * 501)))
    assert f"{path}:3: longer than" in error_of(path)


@pytest.mark.parametrize("share", [0.2, 0.9])
def test_a_truncated_dump_ends_with_one_line(tmp_path, share):
    whole = dump(*(page(f"P{n}", f"text {n * n} of a page" * 50) for n in range(50)))
    for name, content in (("wiki.xml", whole), ("wiki.xml.bz2", bz2.compress(whole))):
        path = write(tmp_path / name, content[: int(len(content) * share)])
        assert "cut short or damaged" in error_of(path) and str(path) in error_of(path)
    done = subprocess.run(
        [sys.executable, "-m", "dynlm", "corpus", "--corpus.path", str(tmp_path / "wiki.xml.bz2")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "cut short or damaged" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut short or damaged"),
        (b"<html><body/></html>", "it begins with <html>, not <mediawiki>"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><mediawiki/>', "document type declaration"),
        (b"<mediawiki><page><title>a</page></mediawiki>", "mismatched tag"),
        (dump(page("P", "text")).replace(b"text</text>", b"\xff</text>"), "not well-formed"),
        (b"<mediawiki><page " + b"a" * (3 << 20), "a tag of more than"),
    ],
)
def test_what_is_no_dump_is_refused(tmp_path, content, message):
    path = write(tmp_path / "any.xml", content)
    assert message in error_of(path) and str(path) in error_of(path)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "wiki.xml", dump(*PAGES))
    monkeypatch.setitem(sys.modules, "mwparserfromhell", None)
    assert "pip install 'dynlm[wikipedia]'" in error_of(path)
    monkeypatch.setitem(sys.modules, "py7zr", None)
    assert "pip install 'dynlm[7z]'" in error_of(write(tmp_path / "a.txt.7z", b""))


def test_a_page_whose_markup_defeats_the_parser_is_counted(tmp_path, monkeypatch):
    def fail(*arguments: object) -> str:
        raise dumps.MarkupError("whose markup cannot be parsed")

    monkeypatch.setattr(dumps, "plain_text", fail)
    skipped: dict[str, str] = {}
    assert not list(dump_articles(write(tmp_path / "w.xml", dump(page("P", "x"), page("Q", "y"))), skipped))
    assert list(skipped.values()) == ["2 whose markup cannot be parsed"]


def test_an_interrupted_reading_reports_what_it_skipped(tmp_path):
    config = CorpusOptions(path=str(write(tmp_path / "wiki.xml", dump(*PAGES))), limit=1)
    source = open_source(config)
    assert describe(source)["train"]["articles"] == 1
    assert list(source.skipped) == [f"pages of {config.path}"]


def test_a_dump_in_a_7z_archive(tmp_path):
    py7zr = pytest.importorskip("py7zr", reason="the extra dynlm[7z] is not installed")
    many = dump(*PAGES, *(page(f"P{n}", f"text {n * n} of a page " * 99) for n in range(3000)))
    with py7zr.SevenZipFile(tmp_path / "wiki.xml.7z", "w") as archive:
        archive.writestr(many, "wiki.xml")
    assert len(list(dump_articles(tmp_path / "wiki.xml.7z", {}))) == 3002
    articles = dump_articles(tmp_path / "wiki.xml.7z", {})
    assert next(articles).text == ALPHA
    articles.close()
    whole = (tmp_path / "wiki.xml.7z").read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 3):
        assert "cut short or damaged" in error_of(write(tmp_path / "cut.xml.7z", whole[:cut]))
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 0x55
    assert "cut short or damaged" in error_of(write(tmp_path / "altered.xml.7z", bytes(altered)))
    with py7zr.SevenZipFile(tmp_path / "two.xml.7z", "w") as archive:
        archive.writestr(many, "a.xml")
        archive.writestr(many, "b.xml")
    assert "an archive of 2 files" in error_of(tmp_path / "two.xml.7z")


def test_siteinfo_is_needed_only_for_names(tmp_path):
    path = write(tmp_path / "w.xml", dump(page("P", "x [[File:y]]")).replace(siteinfo().encode(), b""))
    assert [a.text for a in read(path)] == ["\n = P = \n\nx\n"]
