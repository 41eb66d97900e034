"""The heat map: hostile tokens stay text, page and terminal run nothing, and colours follow the gain."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from dynlm.cli.main import main
from dynlm.errors import UserError
from dynlm.evaluation.score_file import Scores
from dynlm.report.heatmap import HeatMap, heatmap_run
from dynlm.report.passages import Passage
from tests.browser import Opened, started
from tests.report.samples import HOSTILE_TOKENS, write_files
from tests.synthetic_scores import synthetic_scores

ALLOWED_TAGS = set("html head meta title style body h1 h2 p div span i br footer".split())
ALLOWED_ATTRIBUTES = set("lang charset http-equiv content name class data-losses dir aria-hidden".split())


class Page(HTMLParser):
    """Collects tags, attributes and the tokens' texts."""

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
        self._in_token = tag == "span" and any(name == "data-losses" for name, _ in attrs)
        if self._in_token:
            self.tokens.append("")

    def handle_endtag(self, tag):
        self._in_token = False

    def handle_data(self, data):
        if self._in_token:
            self.tokens[-1] += data


@pytest.fixture(scope="module")
def hostile() -> list[Scores]:
    variants = synthetic_scores(articles=2, tokens=60)
    surface = [*HOSTILE_TOKENS, *list(variants[0].surface)[len(HOSTILE_TOKENS) :]]
    articles = [{"index": 0, "title": "<b>\u202e$title$</b>"}]
    return [replace(each, surface=surface, protocol={**each.protocol, "articles": articles}) for each in variants]


@pytest.fixture(scope="module")
def hostile_page(hostile: list[Scores]) -> str:
    return HeatMap(*hostile, [Passage(0, 0, 20), Passage(0, 20, 10)]).page()


def test_hostile_tokens_are_displayed_as_text(hostile_page):
    page = Page(hostile_page)
    assert page.tags <= ALLOWED_TAGS
    assert {name for _, name, _ in page.attributes} <= ALLOWED_ATTRIBUTES
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
    assert "\u202e" not in hostile_page and "\x00" not in hostile_page


def test_hover_titles_hold_both_losses(hostile, hostile_page):
    lower, higher = hostile
    titles = [value for _, name, value in Page(hostile_page).attributes if name == "data-losses"]
    assert len(titles) == 30
    for index in (0, 12, 29):
        assert f"level 1: {lower.nats[index]:.3f}" in titles[index]
        assert f"rms: {higher.nats[index]:.3f}" in titles[index]


def test_the_page_loads_nothing(hostile_page):
    policy = [value for _, name, value in Page(hostile_page).attributes if name == "content"]
    (style,) = re.findall(r"<style>(.*?)</style>", hostile_page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy[0] == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    for reference in ("url(", "@import", "http://", "https://"):
        assert reference not in hostile_page


def test_a_browser_displays_hostile_tokens_and_runs_nothing(hostile_page, tmp_path):
    (tmp_path / "page.html").write_text(hostile_page, encoding="utf-8")
    with started() as browser:
        opened = Opened(browser, tmp_path / "page.html", ready=None)
        page = Page(opened.page.content())
        assert opened.messages == [] and len(opened.requests) == 1
        opened.close()
    assert page.tags <= ALLOWED_TAGS
    assert page.tokens[:2] == ["<script>alert(1)</script>", '" onmouseover="alert(2)']
    assert len(page.tokens) == 30


def test_classes_follow_the_sign_of_the_gain():
    lower, higher = synthetic_scores(articles=1, tokens=60)
    nats = lower.nats.copy()
    nats[:3] += (5, -5, 0)
    page = Page(HeatMap(lower, replace(higher, nats=nats), [Passage(0, 0, 3)]).page())
    assert [value for tag, name, value in page.attributes if tag == "span" and name == "class"] == ["w8", "b8", "z"]


def test_a_run_writes_figure_and_page(tmp_path, hostile):
    paths = write_files(tmp_path, hostile)
    written = heatmap_run(*paths, tmp_path / "out", (1, 0, 25))
    assert [path.name for path in written] == ["heatmap.png", "heatmap.svg", "heatmap.pdf", "heatmap.html"]
    assert all(path.stat().st_size > 1000 for path in written)
    assert "<script" not in written[1].read_text(encoding="utf-8")
    text = written[3].read_text(encoding="utf-8")
    count = hostile[0].rows(0).stop
    assert ">Article 1:" in text and f"Tokens 0 to 24 of {count}" in text


def printed(variants, passage, **options) -> str:
    console = Console(file=io.StringIO(), highlight=False, **options)
    console.print(HeatMap(*variants, [passage]), soft_wrap=True)
    return console.file.getvalue()


def test_without_colours_signs_show_gain_and_loss():
    lower, higher = synthetic_scores(articles=1, tokens=60)
    nats = lower.nats.copy()
    nats[:3] += (-5, 5, 0)
    lines = printed((lower, replace(higher, nats=nats)), Passage(0, 0, 3), width=60).splitlines()
    words = [surface.decode().strip() for surface in lower.surface[:3]]
    assert lines[-1].split() == [words[0] + "+++", words[1] + "---", words[2]]
    assert "\x1b" not in "".join(lines)


def test_colours_follow_the_gain_and_repeated_words_are_underlined(monkeypatch):
    monkeypatch.delenv("COLORFGBG", raising=False)
    lower, higher = synthetic_scores(articles=1, tokens=400)
    text = printed((lower, higher), Passage(0, 0, 200), width=80, force_terminal=True, color_system="truecolor")
    assert "\x1b[4;" in text and ";48;2;" in text


@pytest.mark.parametrize("system", [None, "truecolor"])
def test_hostile_tokens_neither_control_the_terminal_nor_become_markup(system):
    lower, higher = synthetic_scores(articles=1, tokens=60)
    hostile = [*HOSTILE_TOKENS, b"\x1b[31mred", b"[bold red]x[/]", b"\x9b"]
    surface = [*hostile, *list(lower.surface)[len(hostile) :]]
    variants = (replace(lower, surface=surface), replace(higher, surface=surface))
    text = printed(variants, Passage(0, 0, 13), width=500, force_terminal=system is not None, color_system=system)
    assert "\x00" not in text and "\u202e" not in text and "\x1b[31m" not in text and "\x9b" not in text
    assert "[bold red]x[/]" in text and r"\x1b[31mred" in text


@pytest.mark.parametrize("width", [30, 100])
def test_lines_fit_the_terminal(width):
    variants = synthetic_scores(articles=2, tokens=300)
    lines = printed(variants, Passage(0, 0, 100), width=width).splitlines()
    passage = lines[lines.index("") + 3 :]
    assert passage and all(len(line) <= width for line in passage)
    assert len("".join(passage).split()) > 50


def test_a_heat_map_needs_two_files_of_one_text(tmp_path, capsys):
    paths = write_files(tmp_path, [*synthetic_scores(1, tokens=60), *synthetic_scores(1, ("x",), tokens=80)])
    command = ["heatmap", "--start", "0", "--length", "10", "--terminal"]
    assert main([*command, *map(str, paths[:2])]) == 0
    assert "Tokens 0 to 9 of" in capsys.readouterr().out
    assert main([*command, str(paths[0])]) == 2
    assert "two score files" in capsys.readouterr().err
    with pytest.raises(UserError, match="cannot be compared"):
        HeatMap.load(*paths[1:])
