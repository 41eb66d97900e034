"""The report in a real browser: the curve leads to the right words, by mouse and by keyboard, in any surroundings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynlm.evaluation.score_file import Scores, read_scores, write_scores
from dynlm.report import curve_data as series
from dynlm.report.notebook import Report
from dynlm.report.page import report_run
from dynlm.report.token_cells import cells_of
from dynlm.report.words import most_changed, words_of
from tests.browser import Opened, started
from tests.readings import reading
from tests.report.test_heatmap import HOSTILE

ARMS = ("level 1", "rms", "meta")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> list[Scores]:
    """Score files of three arms; the report is made from them and checked against them."""
    folder = tmp_path_factory.mktemp("scores")
    read = []
    for index, arm in enumerate(reading(7, ARMS, tokens=900, first_article=30)):
        write_scores(folder / f"{index}.parquet", arm)
        read.append(read_scores(folder / f"{index}.parquet"))
    return read


@pytest.fixture(scope="module")
def page_file(scores: list[Scores], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_run([arm.path for arm in scores if arm.path], tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def open_page(browser: Any, page_file: Path) -> Iterator[Callable[..., Opened]]:
    opened: list[Opened] = []

    def open_it(path: Path = page_file, **options: Any) -> Opened:
        opened.append(Opened(browser, path, **options))
        return opened[-1]

    yield open_it
    for one in opened:
        assert one.said == []
        assert len(one.requests) == 1 and one.requests[0].startswith("file://")
        one.close()


def shown_rows(opened: Opened, scores: Scores) -> slice:
    article, start, length = opened.passage()
    first = scores.rows(article - 1).start + start
    return slice(first, first + length)


def check_tokens(opened: Opened, lower: Scores, higher: Scores) -> None:
    """What is shown are the cells that the score files hold there."""
    here = shown_rows(opened, lower)
    cells = cells_of(zip(lower.surface[here], lower.nats[here].tolist(), higher.nats[here].tolist(), strict=True))
    assert opened.tokens() == [cell.body for cell in cells]
    for index in (0, len(cells) // 2, len(cells) - 1):
        opened.page.locator("#tokens .t").nth(index).hover()
        tip = opened.text("#tip")
        assert f": {cells[index].lower:.3f} nats" in tip and f": {cells[index].higher:.3f} nats" in tip


def test_it_opens_on_the_passage_that_gained_most(open_page, scores):
    opened = open_page()
    (first, middle) = series.default_passages(scores[0], scores[2])
    assert opened.passage() == (middle.article + 1, middle.start, middle.length)
    check_tokens(opened, scores[0], scores[2])
    buttons = opened.page.locator("#ready button")
    assert buttons.count() == 4
    buttons.nth(0).click()
    assert opened.passage() == (first.article + 1, 0, first.length)
    check_tokens(opened, scores[0], scores[2])
    worst = int(scores[0].articles[np.argmin(series.article_gains(scores[0], scores[2]))])
    buttons.nth(2).click()
    assert opened.passage()[:2] == (worst + 1, 0)
    buttons.nth(3).click()
    assert opened.passage()[1] == series.article_passages(scores[0], worst)[1].start


@pytest.mark.parametrize("share", [0.003, 0.31, 0.5, 0.77, 0.997])
def test_a_click_shows_the_passage_under_it(open_page, scores, share):
    opened, tokens = open_page(), len(scores[0])
    opened.click(share)
    here = shown_rows(opened, scores[0])
    per_pixel = tokens / opened.page.locator("#curve .u-over").bounding_box()["width"]
    assert here.start - per_pixel <= share * tokens < here.stop + per_pixel
    assert len(set(scores[0].article[here].tolist())) == 1
    assert f"Article {scores[0].article[here.start] + 1}: " in opened.text("#passage-title")
    check_tokens(opened, scores[0], scores[2])
    means = [arm.nats[here].mean(dtype=np.float64) for arm in (scores[0], scores[2])]
    assert f"level 1 {means[0]:.3f}, meta {means[1]:.3f}" in opened.text("#passage-where")


def test_hovering_over_the_curve_tells_article_place_and_words(open_page, scores):
    opened = open_page()
    opened.page.mouse.move(*opened.point(0.4))
    tip = opened.text("#tip")
    row = int(0.4 * len(scores[0]))
    assert scores[0].title(int(scores[0].article[row])) in tip and "perplexity level 1" in tip
    said = int(re.search(r"token ([\d,]+) of", tip)[1].replace(",", ""))
    assert abs(said - scores[0].position[row]) <= len(scores[0]) / 400
    first = scores[0].starts[np.searchsorted(scores[0].starts, row, side="right") - 1]
    assert scores[0].surface[first + said].decode().strip() in tip


def test_the_keyboard_walks_through_the_text(open_page, scores):
    opened, articles = open_page(), scores[0].articles
    curve = opened.page.locator("#curve")
    curve.focus()
    curve.press("Home")
    assert opened.passage()[:2] == (articles[0] + 1, 0)
    seen = [shown_rows(opened, scores[0])]
    for _ in range(400):
        curve.press("ArrowRight")
        here = shown_rows(opened, scores[0])
        if here == seen[-1]:
            break
        assert seen[-1].start < here.start <= seen[-1].stop  # Nothing is skipped.
        seen.append(here)
    assert here.stop == len(scores[0])
    for _ in range(400):
        curve.press("ArrowLeft")
        if shown_rows(opened, scores[0]).start == 0:
            break
    assert opened.passage()[:2] == (articles[0] + 1, 0)
    curve.press("PageDown")
    assert opened.passage()[:2] == (articles[1] + 1, 0)
    check_tokens(opened, scores[0], scores[2])
    curve.press("PageUp")
    assert opened.passage()[:2] == (articles[0] + 1, 0)
    curve.press("End")
    assert shown_rows(opened, scores[0]).stop == len(scores[0])
    assert f"Article {articles[-1] + 1}," in curve.get_attribute("aria-valuetext")


def test_tab_leads_to_the_tokens_and_arrows_tell_their_losses(open_page, scores):
    opened = open_page()
    opened.page.locator("#tokens").focus()
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    row = shown_rows(opened, scores[0]).start + 1
    assert f"level 1: {scores[0].nats[row]:.3f}, meta: {scores[2].nats[row]:.3f}" in opened.text("#readout")
    for name in ("lower", "whole", "curve", "tokens"):
        opened.page.locator(f"#{name}").focus()
        assert opened.page.evaluate("document.activeElement.id") == name


def test_pair_and_smoothing_can_be_chosen(open_page, scores):
    opened = open_page()
    opened.page.select_option("#lower", label="rms")
    opened.page.select_option("#window", label="500 tokens")
    opened.click(0.6)
    check_tokens(opened, scores[1], scores[2])
    here = shown_rows(opened, scores[0])
    middle = (here.start + here.stop) // 2
    expected = series.perplexity_difference(scores[1], scores[2], 500)[middle]
    said = opened.page.locator("#curve").get_attribute("aria-valuetext").rpartition(" ")[2].replace("\u2212", "-")
    assert float(said) == pytest.approx(expected, abs=0.0051)
    gained, lost = most_changed(words_of(scores[0]), scores[1], scores[2], 20)
    for table, words in (("gained", gained), ("lost", lost)):
        rows = opened.page.locator(f"#{table} tbody tr")
        assert rows.locator("th").all_text_contents() == [word.text for word in words]
        assert rows.nth(0).locator("td").nth(1).inner_text() == f"{words[0].lower / words[0].count:.3f}"


def test_dragging_zooms_and_double_click_goes_back(open_page, scores):
    opened, tokens = open_page(), len(scores[0])
    opened.page.mouse.move(*opened.point(0.5))
    opened.page.mouse.down()
    opened.page.mouse.move(*opened.point(0.7), steps=4)
    opened.page.mouse.up()
    opened.click(0.5)
    here = shown_rows(opened, scores[0])
    assert here.start <= 0.6 * tokens <= here.stop
    opened.page.mouse.move(*opened.point(0.5))
    opened.page.keyboard.down("Shift")
    opened.page.mouse.down()
    opened.page.mouse.move(*opened.point(1.0), steps=4)
    opened.page.mouse.up()
    opened.page.keyboard.up("Shift")
    opened.click(0.5)
    here = shown_rows(opened, scores[0])
    assert here.start <= 0.5 * tokens <= here.stop
    opened.page.mouse.dblclick(*opened.point(0.5))
    opened.click(0.1)
    here = shown_rows(opened, scores[0])
    assert here.start - tokens / 400 <= 0.1 * tokens <= here.stop + tokens / 400


def test_keys_zoom_about_the_passage_that_is_shown(open_page, scores):
    opened = open_page()
    opened.click(0.3)
    here = shown_rows(opened, scores[0])
    opened.page.locator("#curve").press("+")
    opened.page.locator("#in").click()
    opened.click((here.start + here.stop) / 2 / len(scores[0]))
    again = shown_rows(opened, scores[0])
    assert abs(again.start - here.start) <= 10  # A pixel is some tokens wide.
    opened.click(0.0)  # A quarter of the text is in view, and its left end is no longer the text's.
    assert shown_rows(opened, scores[0]).stop > 0.2 * len(scores[0])
    opened.page.locator("#curve").press("0")
    opened.click(0.0)
    assert shown_rows(opened, scores[0]).start == 0


def test_repeated_words_are_underlined(open_page, scores):
    opened = open_page()
    here = shown_rows(opened, scores[0])
    came = words_of(scores[0]).repeated_tokens(len(scores[0]))[here]
    underlined = opened.page.locator("#tokens .t").evaluate_all(
        "all => all.map((each) => getComputedStyle(each).textDecorationLine.includes('underline'))"
    )
    assert underlined == came.tolist()
    assert 0 < sum(underlined) < len(underlined)


def test_the_articles_and_tokens_are_there_as_tables(open_page, scores):
    opened = open_page()
    rows = opened.page.locator("#articles tbody tr")
    assert rows.count() == len(scores[0].articles)
    expected = scores[2].sums(scores[2].nats)[3] / np.diff(scores[2].starts)[3]
    assert f"{expected:.4f}" in rows.nth(3).inner_text()
    rows.nth(3).locator("button").nth(1).click()
    assert opened.passage()[0] == scores[0].articles[3] + 1
    opened.page.locator("#as-table summary").click()
    opened.page.wait_for_selector("#as-table tbody tr")
    assert opened.page.locator("#as-table tbody tr").count() == len(opened.tokens())


def contrast(opened: Opened, selector: str) -> float:
    """The contrast of an element's letters on the page's paper."""
    script = """element => {
      const light = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const [a, b] = [light(getComputedStyle(element).color), light(getComputedStyle(document.body).backgroundColor)];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); }"""
    return float(opened.page.locator(selector).first.evaluate(script))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_are_readable(open_page, scheme):
    opened = open_page(scheme=scheme)
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", paper))) > 380) == (scheme == "light")
    for selector in ("h1", ".note", "#figures td", "button"):
        assert contrast(opened, selector) >= 4.5


@pytest.mark.parametrize("width", [320, 390, 800])
def test_a_narrow_screen_needs_no_sideways_scrolling(open_page, scores, width):
    opened = open_page(width=width, height=800)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    opened.page.locator("#curve").scroll_into_view_if_needed()
    opened.click(0.5)
    assert opened.passage()[2] > 100
    check_tokens(opened, scores[0], scores[2])


def test_hostile_tokens_titles_and_arms_are_shown_as_text(open_page, tmp_path):
    arms = reading(articles=2, tokens=60)
    evil = "</script><script>alert(1)</script>\u202e\x00"
    wild = [
        *HOSTILE,
        b"</script><!--",
        "\u05e9\u05dc\u05d5\u05dd".encode(),
        "漢字".encode(),
        "e\u0301".encode(),
        b"\xe6",
        b"\xbc\xa2",
    ]
    surface = [*wild, *list(arms[0].surface)[len(wild) :]]
    paths = []
    for index, arm in enumerate(arms):
        changed = {
            "variant": f"{arm.variant} {evil}",
            "corpus": evil,
            "articles": [{"index": 0, "title": evil}],
            "statement": evil,
        }
        paths.append(tmp_path / f"{index}.parquet")
        write_scores(paths[-1], replace(arm, surface=surface, protocol={**arm.protocol, **changed}))
    opened = open_page(report_run(paths, tmp_path / "report.html"))
    opened.page.locator("#curve").focus()
    opened.page.keyboard.press("Home")
    here = cells_of((each, 0.0, 0.0) for each in surface[: opened.passage()[2]])
    assert opened.tokens() == [cell.body for cell in here]
    assert "<script>alert(1)</script>" in opened.tokens() and "漢" in opened.tokens()
    assert opened.text("#passage-title").startswith("Article 1: </script><script>")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "\u202e" not in text and "\x00" not in text and "<script>alert" not in text
    opened.page.locator("#tokens .t").nth(1).hover()
    assert "alert(2)" in opened.text("#tip")


def test_right_to_left_text_runs_from_the_right(open_page, tmp_path):
    arms = reading(articles=1, tokens=60)
    words = [f" {word}".encode() for word in ("שלום", "עולם", "ספר", "בית")]
    surface = [words[index % 4] for index in range(len(arms[0]))]
    paths = []
    for index, arm in enumerate(arms):
        paths.append(tmp_path / f"{index}.parquet")
        write_scores(paths[-1], replace(arm, surface=surface))
    opened = open_page(report_run(paths, tmp_path / "report.html"))
    boxes = [opened.page.locator("#tokens .t").nth(index).bounding_box()["x"] for index in range(3)]
    assert boxes[0] > boxes[1] > boxes[2]


def test_writing_without_spaces_has_passages_as_long_as_any(open_page, tmp_path):
    arms = reading(articles=2, tokens=900)
    paths = []
    for index, arm in enumerate(arms):
        surface = ["漢字仮名"[row % 4].encode() for row in range(len(arm))]
        paths.append(tmp_path / f"{index}.parquet")
        write_scores(paths[-1], replace(arm, surface=surface, words=np.zeros(len(arm), dtype=np.int16)))
    opened = open_page(report_run(paths, tmp_path / "report.html"))
    opened.click(0.8)
    here = shown_rows(opened, arms[0])
    assert here.stop - here.start == series.PASSAGE and here.start <= 0.8 * len(arms[0]) <= here.stop
    assert max(map(len, opened.page.locator("#gained tbody th").all_text_contents())) <= 48


def test_in_a_notebook_the_report_works_within_its_frame(browser, scores, tmp_path):
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><body>{Report(scores)._repr_html_()}", encoding="utf-8")
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((tmp_path / "notebook.html").as_uri(), wait_until="commit")
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for(state="attached", timeout=20_000)
    assert frame.locator("#tokens .t").count() > 100
    assert said == []
    context.close()
