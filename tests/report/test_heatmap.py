"""The heat map: hostile tokens stay text, the page loads nothing, and passages are checked."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores, write_scores
from dynlm.report.drawing import monospace
from dynlm.report.heatmap import Passage, heatmap_page, heatmap_run, passage_of
from tests.readings import reading

HOSTILE = [
    b" <script>alert(1)</script>",
    b'" onmouseover="alert(2)',
    b"' onclick='alert(3)",
    b"<img src=x onerror=alert(4)>",
    b"</span></p></body>",
    b"{{ 7 * 7 }}",
    b"\x00",
    "\u202eevil\u202c".encode(),
    b"\xff",
    b" \n",
]
ALLOWED = {
    *("html head meta title style body h1 h2 p div span i br footer".split()),
}


class Page(HTMLParser):
    """Collects tags, attributes and the tokens' texts and titles."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.tokens: list[str] = []
        self._in_token = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self._in_token = tag == "span" and any(name == "title" for name, _ in attrs)
        if self._in_token:
            self.tokens.append("")

    def handle_endtag(self, tag):
        self._in_token = False

    def handle_data(self, data):
        if self._in_token:
            self.tokens[-1] += data


@pytest.fixture
def hostile() -> list[Scores]:
    arms = reading(articles=2, tokens=60)
    surface = [*HOSTILE, *list(arms[0].surface)[len(HOSTILE) :]]
    title = "<b>\u202e$title$</b>"
    return [
        replace(arm, surface=surface, protocol={**arm.protocol, "articles": [{"index": 0, "title": title}]})
        for arm in arms
    ]


def page_of(arms: list[Scores], folder) -> str:
    path = heatmap_page(*arms, [Passage(0, 0, 20), Passage(0, 20, 10)], folder / "page.html")
    return path.read_text(encoding="utf-8")


def test_hostile_tokens_are_shown_as_text(tmp_path, hostile):
    text = page_of(hostile, tmp_path)
    page = Page(text)
    assert page.tags <= ALLOWED
    assert {name for _, name, _ in page.attributes} <= {
        *("lang charset http-equiv content name class title dir aria-hidden".split()),
    }
    assert page.tokens[:10] == [
        "<script>alert(1)</script>",
        '" onmouseover="alert(2)',
        "' onclick='alert(3)",
        "<img src=x onerror=alert(4)>",
        "</span></p></body>",
        "{{ 7 * 7 }}",
        r"\x00",
        r"\u202eevil\u202c",
        r"\xff",
        "\u21b5",
    ]
    assert "\u202e" not in text and "\x00" not in text


def test_hover_titles_tell_both_losses(tmp_path, hostile):
    lower, higher = hostile
    titles = [value for tag, name, value in Page(page_of(hostile, tmp_path)).attributes if name == "title"]
    assert len(titles) == 30
    for index in (0, 12, 29):
        assert f"level 1: {lower.nats[index]:.3f}" in titles[index]
        assert f"rms: {higher.nats[index]:.3f}" in titles[index]


def test_the_page_loads_nothing(tmp_path, hostile):
    text = page_of(hostile, tmp_path)
    policy = [value for _, name, value in Page(text).attributes if name == "content"]
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy[0] == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "url(" not in text and "@import" not in text and "http://" not in text and "https://" not in text


def test_classes_follow_the_sign_of_the_gain(tmp_path):
    arms = reading(articles=1, tokens=60)
    nats = arms[0].nats.copy()
    nats[:3] += (5, -5, 0)
    arms[1] = replace(arms[1], nats=nats)
    arms[0] = replace(arms[0], nats=arms[0].nats)
    page = Page((heatmap_page(*arms, [Passage(0, 0, 3)], tmp_path / "p.html")).read_text())
    assert [value for tag, name, value in page.attributes if tag == "span" and name == "class"] == ["w8", "b8", "z"]


def test_a_run_writes_picture_and_page(tmp_path, hostile):
    paths = [tmp_path / "level-1.parquet", tmp_path / "rms.parquet"]
    for path, arm in zip(paths, hostile, strict=True):
        write_scores(path, arm)
    written = heatmap_run(paths, tmp_path / "out", (1, 0, 25))
    assert [path.name for path in written] == ["heatmap.png", "heatmap.svg", "heatmap.html"]
    assert all(path.stat().st_size > 1000 for path in written)
    assert "<script" not in written[1].read_text(encoding="utf-8")
    for wrong in ([], paths[:1], [*paths, paths[0]]):
        with pytest.raises(UserError, match="two score files"):
            heatmap_run(wrong, tmp_path)


@pytest.mark.parametrize(
    "asked, article, start, length",
    [
        ((None, None, 20), 2, 0, 20),
        ((None, 7, None), 2, 7, 180),
        ((1, None, None), 1, 0, 180),
        ((3, 400, None), 3, 400, None),
        ((3, None, 5), 3, 0, 5),
    ],
)
def test_what_a_passage_leaves_open_is_the_article_that_gained_most(asked, article, start, length, tmp_path):
    lower, higher = reading(articles=3, tokens=500)
    nats = lower.nats.copy()
    nats[lower.rows(1)] /= 2
    paths = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    write_scores(paths[0], lower)
    write_scores(paths[1], replace(higher, nats=nats))
    (page,) = (path for path in heatmap_run(paths, tmp_path / "out", asked) if path.suffix == ".html")
    rows = lower.rows(article - 1)
    count = rows.stop - rows.start
    last = min(start + (length or 180), count) - 1
    text = page.read_text(encoding="utf-8")
    assert f">Article {article}:" in text and f"Tokens {start:,} to {last:,} of {count:,}" in text


def test_passages_outside_the_text_are_refused_with_the_range():
    scores = reading(articles=3, tokens=60, first_article=30)[0]
    last = int(scores.position[scores.rows(31)][-1])
    assert passage_of(scores, 32, 5, 10) == Passage(31, 5, 10)
    assert passage_of(scores, 32, last, 1) == Passage(31, last, 1)
    for wrong in ((32, last, 2), (32, -1, 5), (32, 0, 0), (32, last + 1, 1)):
        with pytest.raises(UserError, match=f"0 to {last}"):
            passage_of(scores, *wrong)
    for article in (0, 30, 34):
        with pytest.raises(UserError, match="31 to 33"):
            passage_of(scores, article, 0, 5)


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_a_browser_shows_hostile_tokens_and_runs_none(tmp_path, hostile):
    page_of(hostile, tmp_path)
    flags = "--headless --no-sandbox --disable-gpu --disable-extensions --no-first-run --dump-dom".split()
    address = (tmp_path / "page.html").as_uri()
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(
        ["chromium", *flags, f"--user-data-dir={tmp_path}", address],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    page = Page(done.stdout)
    assert page.tags <= ALLOWED
    assert page.tokens[:2] == ["<script>alert(1)</script>", '" onmouseover="alert(2)']
    assert len(page.tokens) == 30


HAN = "\u5f41"  # Rare enough for no font of matplotlib's, and for few systems'.


def font_with(letter: str, path: Path) -> Path:
    """A font with one character, a filled square."""
    pen = TTGlyphPen(None)
    for move, corner in ((pen.moveTo, (50, 0)), *((pen.lineTo, at) for at in ((50, 900), (950, 900), (950, 0)))):
        move(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "one"])
    builder.setupCharacterMap({ord(letter): "one"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "one": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "one": (1000, 50)})
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Made Up Han", "styleName": "Regular", "psName": "MadeUpHan"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def han(tmp_path: Path) -> list[Path]:
    """Score files of a text whose first token is in Chinese."""
    arms = reading(articles=2, tokens=60)
    surface = [HAN.encode() * 3, *list(arms[0].surface)[1:]]
    paths = [tmp_path / "lower.parquet", tmp_path / "higher.parquet"]
    for path, arm in zip(paths, arms, strict=True):
        write_scores(path, replace(arm, surface=surface))
    return paths


def without_wide_fonts(monkeypatch: pytest.MonkeyPatch, *more: Path) -> None:
    """As if matplotlib's own fonts, and ``more``, were all that are installed."""
    own = str(Path(matplotlib.get_data_path()))
    entries = [entry for entry in font_manager.fontManager.ttflist if entry.fname.startswith(own)]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    for path in more:
        font_manager.fontManager.addfont(path)
    font_manager.fontManager._findfont_cached.cache_clear()


def test_a_character_without_a_font_is_told_with_the_page_that_shows_it(tmp_path, han, monkeypatch, capsys):
    without_wide_fonts(monkeypatch)
    heatmap_run(han, tmp_path, (1, 0, 5))
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert HAN in said and str(tmp_path / "heatmap.html") in said
    assert HAN in (tmp_path / "heatmap.html").read_text(encoding="utf-8")


def test_an_installed_font_that_has_a_character_is_found(tmp_path, han, monkeypatch, capsys, caplog):
    without_wide_fonts(monkeypatch)
    (boxes,) = [path for path in heatmap_run(han, tmp_path / "boxes", (1, 0, 5)) if path.suffix == ".svg"]
    capsys.readouterr()
    without_wide_fonts(monkeypatch, font_with(HAN, tmp_path / "han.ttf"))
    assert "Made Up Han" in monospace([HAN]) and "Made Up Han" not in monospace(["a"])
    (found,) = [path for path in heatmap_run(han, tmp_path / "found", (1, 0, 5)) if path.suffix == ".svg"]
    assert not capsys.readouterr().err and not caplog.records
    text = found.read_text(encoding="utf-8")
    assert "MadeUpHan" in text and "MadeUpHan" not in boxes.read_text(encoding="utf-8")
