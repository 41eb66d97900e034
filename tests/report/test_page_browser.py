"""The report in a real browser: the curve shows the right words, by mouse and keyboard, on any screen."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dynlm.evaluation.score_file import Scores, read_scores
from dynlm.report.curve_data import perplexity_difference
from dynlm.report.notebook import Report
from dynlm.report.page import report_run
from dynlm.report.passages import article_gains, article_passages, select_passages
from dynlm.report.token_cells import token_cells
from dynlm.report.words import find_words, most_changed
from tests.browser import Opened
from tests.report.samples import write_files
from tests.synthetic_scores import synthetic_scores


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> list[Scores]:
    """Scores of three variants, from which the report is made."""
    variants = synthetic_scores(7, ("level 1", "rms", "meta"), tokens=900, first_article=30)
    return [read_scores(path) for path in write_files(tmp_path_factory.mktemp("scores"), variants)]


@pytest.fixture(scope="module")
def page_file(scores: list[Scores], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_run([each.path for each in scores if each.path], tmp_path_factory.mktemp("page") / "report.html")


def shown_rows(opened: Opened, scores: Scores) -> slice:
    article, start, length = opened.passage()
    first = scores.rows(article - 1).start + start
    return slice(first, first + length)


def check_tokens(opened: Opened, lower: Scores, higher: Scores) -> None:
    """Check that the page displays the cells of the score files."""
    here = shown_rows(opened, lower)
    cells = token_cells(lower.surface[here], lower.nats[here], higher.nats[here])
    assert opened.tokens() == [cell.text for cell in cells]
    for index in (0, len(cells) // 2, len(cells) - 1):
        opened.page.locator("#tokens .t").nth(index).hover()
        # Where there is no room beside the passage, the losses are below it.
        losses = opened.text("#tip" if opened.page.locator("#tip").is_visible() else "#readout")
        assert f": {cells[index].lower:.3f}" in losses and f": {cells[index].higher:.3f}" in losses


def test_it_opens_on_the_passage_that_gained_most(open_page, scores):
    opened = open_page()
    (middle, first) = select_passages(scores[0], scores[2])
    assert opened.passage() == (middle.article + 1, middle.start, middle.length)
    check_tokens(opened, scores[0], scores[2])
    buttons = opened.page.locator("#ready button")
    assert buttons.count() == 4
    buttons.nth(0).click()
    assert opened.passage() == (first.article + 1, 0, first.length)
    check_tokens(opened, scores[0], scores[2])
    worst = int(scores[0].articles[np.argmin(article_gains(scores[0], scores[2]))])
    buttons.nth(2).click()
    assert opened.passage()[:2] == (worst + 1, 0)
    buttons.nth(3).click()
    assert opened.passage()[1] == article_passages(scores[0], worst)[1].start


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
    means = [each.nats[here].mean(dtype=np.float64) for each in (scores[0], scores[2])]
    assert f"level 1 {means[0]:.3f}, meta {means[1]:.3f}" in opened.text("#passage-where")


def test_hovering_over_the_curve_shows_article_position_and_words(open_page, scores):
    opened = open_page()
    opened.page.mouse.move(*opened.point(0.4))
    tip = opened.text("#tip")
    row = int(0.4 * len(scores[0]))
    assert scores[0].title(int(scores[0].article[row])) in tip and "perplexity level 1" in tip
    position = int(re.search(r"token ([\d,]+) of", tip)[1].replace(",", ""))
    assert abs(position - scores[0].position[row]) <= len(scores[0]) / 400
    first = scores[0].starts[np.searchsorted(scores[0].starts, row, side="right") - 1]
    assert scores[0].surface[first + position].decode().strip() in tip


def test_the_keyboard_steps_through_the_text(open_page, scores):
    opened, articles = open_page(), scores[0].articles
    curve = opened.page.locator("#curve")
    curve.focus()
    curve.press("Home")
    assert opened.passage()[:2] == (articles[0] + 1, 0)
    visited = [shown_rows(opened, scores[0])]
    for _ in range(400):
        curve.press("ArrowRight")
        here = shown_rows(opened, scores[0])
        if here == visited[-1]:
            break
        assert visited[-1].start < here.start <= visited[-1].stop  # Nothing is skipped.
        visited.append(here)
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


def test_arrow_keys_show_the_losses_of_tokens(open_page, scores):
    opened = open_page()
    opened.page.locator("#tokens").focus()
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    row = shown_rows(opened, scores[0]).start + 1
    assert f"level 1: {scores[0].nats[row]:.3f}, meta: {scores[2].nats[row]:.3f}" in opened.text("#readout")
    for name in ("lower", "whole", "curve", "tokens"):
        opened.page.locator(f"#{name}").focus()
        assert opened.page.evaluate("document.activeElement.id") == name


def test_pair_and_smoothing_can_be_selected(open_page, scores):
    opened = open_page()
    opened.page.select_option("#lower", label="rms")
    opened.page.select_option("#window", label="500 tokens")
    opened.click(0.6)
    check_tokens(opened, scores[1], scores[2])
    here = shown_rows(opened, scores[0])
    middle = (here.start + here.stop) // 2
    expected = perplexity_difference(scores[1], scores[2], 500)[middle]
    difference = opened.page.locator("#curve").get_attribute("aria-valuetext").rpartition(" ")[2].replace("\u2212", "-")
    assert float(difference) == pytest.approx(expected, abs=0.0051)
    for table, words in most_changed(find_words(scores[0]), scores[1], scores[2], 20).items():
        rows = opened.page.locator(f"#{table} tbody tr")
        assert rows.locator("th").all_text_contents() == [word.text for word in words]
        assert rows.nth(0).locator("td").nth(1).inner_text() == f"{words[0].lower / words[0].count:.3f}"


def test_dragging_zooms_and_double_click_resets(open_page, scores):
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
    repeated = find_words(scores[0]).repeated_N[here]
    underlined = opened.page.locator("#tokens .t").evaluate_all(
        "all => all.map((each) => getComputedStyle(each).textDecorationLine.includes('underline'))"
    )
    assert underlined == repeated.tolist()
    assert 0 < sum(underlined) < len(underlined)


def test_articles_and_tokens_are_available_as_tables(open_page, scores):
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
    """The contrast of an element's text on the page's background."""
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


def test_in_a_notebook_the_report_works_within_its_frame(browser, scores, tmp_path):
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><body>{Report(scores)._repr_html_()}", encoding="utf-8")
    context = browser.new_context()
    page, messages = context.new_page(), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto((tmp_path / "notebook.html").as_uri(), wait_until="commit")
    frame = page.frame_locator("iframe")
    frame.locator("html[data-ready]").wait_for(state="attached", timeout=20_000)
    assert frame.locator("#tokens .t").count() > 100
    assert messages == []
    context.close()
