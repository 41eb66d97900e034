"""Article boundaries of WikiText, on made-up lines and on the real files."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynlm.data.sources.lines import text_lines
from dynlm.data.sources.source import Article
from dynlm.data.sources.wikitext import title_of, wikitext_articles

EMPTY = " \n"
DATA = os.environ.get("DYNLM_DATA")


def articles_of(lines: Iterable[str], name: str = "x") -> list[Article]:
    return list(wikitext_articles((f"{name}:{number}", line) for number, line in enumerate(lines, 1)))


def titles(*lines: str) -> list[str]:
    return [article.title for article in articles_of(lines)]


def test_articles_of_a_small_file():
    first = [EMPTY, " = Lobster = \n", EMPTY, " Red . \n", EMPTY, " = = Claws = = \n", EMPTY, " Two . \n"]
    second = [EMPTY, " = E = mc2 = \n", EMPTY, " Energy . \n"]
    one, two = articles_of(first + second, "wiki.txt")
    assert (one.title, one.text, one.where) == ("Lobster", "".join(first), "wiki.txt:2")
    assert (two.title, two.text, two.where) == ("E = mc2", "".join(second), "wiki.txt:10")


def test_a_title_stands_between_blank_lines():
    title, text = " = Title = \n", " text \n"
    assert titles(text, EMPTY, title, EMPTY, text) == ["", "Title"]
    assert titles(text, EMPTY, title, text) == [""]
    assert titles(text, EMPTY, title) == [""]
    assert titles(text, title, EMPTY, text) == [""]
    assert titles(title, EMPTY, text) == [""]


def test_consecutive_titles_share_a_blank_line():
    a, b = articles_of([EMPTY, " = A = \n", EMPTY, " = B = \n", EMPTY])
    assert (a.title, a.text) == ("A", EMPTY + " = A = \n")
    assert (b.title, b.text) == ("B", EMPTY + " = B = \n" + EMPTY)


def test_carriage_returns_are_kept():
    lines = [" \r\n", " = A = \r\n", "\r\n", " text \r\n"]
    (article,) = articles_of(lines)
    assert (article.title, article.text) == ("A", "".join(lines))


def test_blank_lines_alone_are_no_article():
    assert titles(EMPTY, "\n", EMPTY) == []
    assert titles() == []


@pytest.mark.parametrize(
    ("line", "title"),
    [
        (" = Homarus gammarus = \n", "Homarus gammarus"),
        (" = A = \r\n", "A"),
        (" = <unk> = y = \n", "<unk> = y"),
        (" = = Section = = \n", None),
        (" = = Lopsided = \n", None),
        (" = Lopsided = = \n", None),
        (" = = \n", None),
        (" = = = \n", None),
        (" = open \n", None),
        ("= Heading =\n", None),
        (" a = b = \n", None),
    ],
)
def test_title_of(line, title):
    assert title_of(line) == title


pieces = st.sampled_from([EMPTY, "\n", " = A = \n", " = = B = = \n", " text \n", " = C = \r\n", "\r\n", "end"])


@settings(deadline=None)
@given(st.lists(pieces, max_size=30))
def test_articles_joined_are_the_input(lines):
    articles = articles_of(lines)
    whole = "".join(lines)
    assert "".join(article.text for article in articles) == (whole if whole.strip() else "")
    assert all(article.text.strip() for article in articles)
    # ``where`` has the number of the title's line.
    assert all(title_of(lines[int(a.where.rpartition(":")[2]) - 1]) == a.title for a in articles if a.title)
    assert all(article.title for article in articles[1:])


@pytest.mark.skipif(not DATA, reason="DYNLM_DATA, the folder of real data, is not set")
@pytest.mark.parametrize(
    ("split", "articles", "sha256"),
    [
        ("train", 600, "9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f"),
        ("valid", 60, "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"),
    ],
)
def test_real_articles_joined_are_the_standard_file(split, articles, sha256):
    path = Path(DATA or "", "wikitext-2", f"{split}.txt.xz")
    read = list(wikitext_articles(text_lines(path)))
    assert len(read) == articles
    assert hashlib.sha256("".join(article.text for article in read).encode()).hexdigest() == sha256


@pytest.mark.skipif(not DATA, reason="DYNLM_DATA, the folder of real data, is not set")
def test_real_lines_that_look_like_titles():
    path = Path(DATA or "", "wikitext-2", "train.txt.xz")
    assert sum(title_of(line) is not None for _, line in text_lines(path)) == 629
