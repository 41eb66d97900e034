#!/usr/bin/env python3
"""Make the five texts of other kinds that docs/results.md reports on, from packages of Debian 12.

    scripts/other_texts.py FOLDER      FOLDER/KIND/test.jsonl of each kind, for --corpus.path FOLDER/KIND --split test

Needs apt-get and dpkg-deb; packages are kept in FOLDER/packages. A paragraph becomes a line. Of each kind it takes
articles at equal distances, some 180,000 characters. The fingerprints that it prints are the same where the texts are.
"""

from __future__ import annotations

import gzip
import hashlib
import html.parser
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

CHARACTERS = 180_000
Articles = Iterator[tuple[str, str]]
"""Titles and texts."""


class _Text(html.parser.HTMLParser):
    """The text of a page, with an empty line between its blocks."""

    BLOCKS = frozenset("address blockquote br dd div dl dt h1 h2 h3 h4 h5 h6 hr li ol p pre table td th tr ul".split())
    HIDDEN = frozenset(["head", "script", "style"])

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts, self.hidden = list[str](), 0
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in self.HIDDEN
        self.parts.append("\n\n" if tag in self.BLOCKS else "")

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in self.HIDDEN
        self.parts.append("\n\n" if tag in self.BLOCKS else "")

    def handle_data(self, data: str) -> None:
        self.parts.append("" if self.hidden else re.sub(r"\s+", " ", data))

    def __str__(self) -> str:
        return "".join(self.parts)


def dictionary(root: Path) -> Articles:
    """Entries in a row that begin with the same two letters are an article; what comes before the first is left out."""
    text = gzip.decompress((root / "usr/share/dictd/foldoc.dict.dz").read_bytes()).decode("utf-8")
    entries = re.split(r"\n(?=\S)", text.partition("\nAcknowledgements\n")[2])
    for initials, group in groupby(entries[1:], lambda entry: entry[:2].lower()):
        yield initials, "\n".join(group)


def quotations(root: Path) -> Articles:
    """A hundred quotations of a file are an article; lines of a per cent sign separate them."""
    for path in sorted((root / "usr/share/games/fortunes").rglob("*")):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8"):
            found = re.split(r"^%+$", path.read_bytes().decode("utf-8", "replace"), flags=re.MULTILINE)
            for first in range(0, len(found), 100):
                yield path.name, "\n\n".join(found[first : first + 100])


def essays(root: Path) -> Articles:
    """A section of the book is an article."""
    for path in sorted((root / "usr/share/doc/anarchism/html").glob("sec*.html")):
        yield path.stem, str(_Text(path.read_bytes().decode("utf-8", "replace")))


def questions(root: Path) -> Articles:
    """All questions with their answers are one article."""
    text = gzip.decompress((root / "usr/share/doc/debian/FAQ/debian-faq.en.txt.gz").read_bytes())
    yield "questions", text.decode("utf-8")


KINDS = {
    "dictionary": ("dict-foldoc", dictionary),
    "quotations": ("fortunes", quotations),
    "german-quotations": ("fortunes-de", quotations),
    "essays": ("anarchism", essays),
    "questions": ("debian-faq", questions),
}
"""Of each kind the package and its reader."""


def unpacked(package: str, folder: Path) -> Path:
    """Return the folder with the files of a Debian package, which is downloaded where it is not there."""
    root = folder / package
    if not root.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if not (found := sorted(folder.glob(f"{package}_*.deb"))):
            subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
            found = sorted(folder.glob(f"{package}_*.deb"))
        # Unpacked aside: where this is interrupted, the next time begins anew.
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            subprocess.run(["dpkg-deb", "-x", found[-1], f"{aside}/files"], check=True)
            Path(aside, "files").replace(root)
    return root


def paragraphs(text: str) -> str:
    """Return a text with its paragraphs, which empty lines separate, as lines of words with one space between them."""
    lines = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    return "".join(f"{line}\n" for line in lines if line)


def chosen(articles: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return articles at equal distances, some ``CHARACTERS`` in all."""
    return articles[:: -(-sum(len(text) for _, text in articles) // CHARACTERS)]


def main() -> None:
    """Write the texts, and print what they are."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    for kind, (package, read) in KINDS.items():
        try:
            root = unpacked(package, folder / "packages")
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{package} cannot be downloaded or unpacked ({error}); put its .deb file into {folder}/packages")
        articles = chosen([(title, paragraphs(text)) for title, text in read(root)])
        lines = [json.dumps({"title": title, "text": text}, ensure_ascii=False) + "\n" for title, text in articles]
        path = folder / kind / "test.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")
        size, digest = sum(len(text) for _, text in articles), hashlib.sha256(path.read_bytes()).hexdigest()
        print(f"{path}: {len(articles)} articles, {size:,} characters, {digest[:16]}")


if __name__ == "__main__":
    main()
