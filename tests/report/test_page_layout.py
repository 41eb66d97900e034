"""The report's layout in a real browser: nothing covers the passage or is cut off, and print is like light mode."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from dynlm.evaluation.score_file import Scores
from dynlm.report.curves import plot_position
from dynlm.report.heatmap import HeatMap
from dynlm.report.page import report_run
from dynlm.report.palette import DARK, LIGHT
from dynlm.report.scale import LINES, UNDERLINE
from dynlm.report.score_set import ScoreSet
from tests.browser import Opened
from tests.report.samples import write_files
from tests.report.test_palette import pixels
from tests.synthetic_scores import synthetic_scores

NEAR = "meta, nearly"


@pytest.fixture(scope="module")
def variants() -> list[Scores]:
    """Three variants, and one that hardly differs from the last."""
    scores = synthetic_scores(6, ("level 1", "rms", "meta"), tokens=700)
    nearly = replace(
        scores[2], nats=scores[2].nats + np.float32(1e-4), protocol={**scores[2].protocol, "variant": NEAR}
    )
    return [*scores, nearly]


@pytest.fixture(scope="module")
def page_file(variants: list[Scores], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    return report_run(write_files(folder, variants), folder / "report.html", resamples=50)


def overlap(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(
        one[at] < other[at] + other[size] and other[at] < one[at] + one[size]
        for at, size in (("x", "width"), ("y", "height"))
    )


def colour_of(opened: Opened, selector: str, name: str) -> tuple[int, ...]:
    script = "(element, name) => getComputedStyle(element)[name]"
    found = opened.page.locator(selector).first.evaluate(script, name)
    return tuple(int(float(number)) for number in re.findall(r"[\d.]+", found)[:3])


def as_bytes(colour: str) -> tuple[int, ...]:
    return tuple(round(255 * channel) for channel in to_rgb(colour))


@pytest.mark.parametrize("width", [390, 800, 1000, 1360])
def test_losses_are_shown_beside_the_passage_and_never_over_it(open_page, width):
    opened = open_page(width=width, height=800)
    tokens, tip = opened.page.locator("#tokens"), opened.page.locator("#tip")
    count = opened.page.locator("#tokens .t").count()
    for index in (0, 7, count // 2, count - 1):
        token = opened.page.locator("#tokens .t").nth(index)
        token.hover()
        assert tip.is_visible() == (width >= 1000)
        if tip.is_visible():
            box = tip.bounding_box()
            assert not overlap(box, tokens.bounding_box())
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        assert "difference" in opened.text("#tip" if tip.is_visible() else "#readout")
        assert not overlap(opened.page.locator("#readout").bounding_box(), tokens.bounding_box())
    opened.page.locator("#curve").scroll_into_view_if_needed()
    for share in (0.01, 0.5, 0.99):
        opened.page.mouse.move(*opened.point(share))
        assert tip.is_visible() and not overlap(tip.bounding_box(), tokens.bounding_box())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 360, 390, 800, 1360])
def test_no_page_is_wider_than_the_screen_and_no_gain_is_cut_off(open_page, width, scheme):
    opened = open_page(width=width, height=800, scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    rows, gains = opened.page.locator("#figures tbody tr"), opened.page.locator("#figures td.gain")
    assert rows.count() == gains.count() == 4
    for index in range(4):
        box, region = gains.nth(index).bounding_box(), opened.page.locator("#figures").locator("..").bounding_box()
        assert box["width"] > 0
        assert region["x"] <= box["x"] and box["x"] + box["width"] <= region["x"] + region["width"] + 1
    for table in ("#gained", "#lost"):
        box = opened.page.locator(f"{table} td.gain").first.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_the_headline_comes_first_and_the_protocol_is_folded_under_it(open_page, variants):
    opened = open_page()
    assert re.fullmatch(
        r"Memory \(meta\) cut perplexity per word from [\d.,]+ to [\d.,]+ on 6 articles", opened.text("h1")
    )
    note = opened.page.locator("#protocol .note").first
    assert not note.is_visible()
    opened.page.locator("#protocol summary").click()
    assert note.is_visible() and "tokens" in note.inner_text()
    assert "The middle of the article with the largest gain (" in opened.text("#why")
    opened.page.locator("#ready button").nth(0).click()
    assert opened.text("#why").startswith("The opening of the article with the largest gain (")
    opened.page.locator("#ready button").nth(3).click()
    assert opened.text("#why").startswith("The middle of the article with the smallest gain (")
    opened.page.locator("#curve").press("ArrowRight")
    assert opened.page.locator("#why").text_content() == ""


def test_print_is_in_light_colours_with_the_protocol_and_without_controls(open_page):
    opened = open_page(width=700, scheme="dark")
    dark = colour_of(opened, "body", "backgroundColor")
    opened.page.emulate_media(media="print", color_scheme="dark")
    assert max(dark) < 60 and colour_of(opened, "body", "backgroundColor") == (255, 255, 255)
    assert colour_of(opened, "#figures .line", "borderTopColor") == as_bytes(LIGHT[0])
    marker = "#position-loss .u-legend .u-series:nth-child(2) .u-marker"
    assert colour_of(opened, marker, "borderTopColor") == as_bytes(LIGHT[0])
    assert opened.page.locator("#protocol .note").first.is_visible()
    for hidden in (".controls", "#ready", "#tip", "#protocol summary", "#articles button"):
        assert not opened.page.locator(hidden).first.is_visible()
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 700
    whole = (
        "[...document.querySelectorAll('.wide, #tokens')].every((each) => each.scrollHeight <= each.clientHeight + 1)"
    )
    assert opened.page.evaluate(whole)
    charts = "[...document.querySelectorAll('.chart canvas')].map((each) => each.getBoundingClientRect().right)"
    opened.page.wait_for_function(f"{charts}.every((right) => right > 300 && right <= 700)")
    opened.page.emulate_media(media="screen", color_scheme="dark")
    assert colour_of(opened, "body", "backgroundColor") == dark


def test_a_variant_has_the_same_colour_on_the_page_and_in_pictures(open_page, variants, tmp_path):
    styles = ScoreSet(variants).styles
    (png, *_) = plot_position(ScoreSet(variants), tmp_path / "position")
    for scheme, palette in (("light", LIGHT), ("dark", DARK)):
        opened = open_page(scheme=scheme)
        for row, style in enumerate(styles):
            selector = f"#figures tbody tr:nth-child({row + 1}) .line"
            assert colour_of(opened, selector, "borderTopColor") == as_bytes(palette[style.colour])
            marker = f"#position-loss .u-legend .u-series:nth-child({2 + 3 * row}) .u-marker"
            assert colour_of(opened, marker, "borderTopColor") == as_bytes(palette[style.colour])
    for style in styles:
        assert pixels(png, LIGHT[style.colour]) > 50


def test_legends_show_the_last_values_without_a_pointer(open_page):
    opened = open_page()
    values = opened.page.locator("#position-loss .u-legend .u-value")
    idle = values.all_text_contents()
    shown = [
        text
        for text, quiet in zip(idle, values.evaluate_all("all => all.map((v) => !v.offsetParent)"), strict=True)
        if not quiet
    ]
    assert len(shown) == 5 and all(re.fullmatch(r"[\d.,]+", text) for text in shown)
    box = opened.page.locator("#position-loss .u-over").bounding_box()
    opened.page.locator("#position-loss").scroll_into_view_if_needed()
    box = opened.page.locator("#position-loss .u-over").bounding_box()
    opened.page.mouse.move(box["x"] + 20, box["y"] + 40)
    assert values.all_text_contents() != idle
    opened.page.mouse.move(2, 2)
    assert values.all_text_contents() == idle


def test_a_variant_is_never_compared_with_itself(open_page):
    opened = open_page()
    chosen = "['lower', 'higher'].map((id) => document.getElementById(id).selectedOptions[0].text)"
    assert opened.page.evaluate(chosen) == ["level 1", "meta"]
    opened.page.select_option("#lower", label="meta")
    assert opened.page.evaluate(chosen) == ["meta", "level 1"]
    assert "Above zero level 1 predicts better" in opened.text("#curve-note")
    opened.page.select_option("#higher", label="meta")
    assert opened.page.evaluate(chosen) == ["level 1", "meta"]


def test_lines_that_hide_each_other_have_a_chart_of_their_difference(open_page, browser, variants, tmp_path):
    opened = open_page()
    assert f"{NEAR} \u2212 meta" in opened.text("#position-near .u-legend")
    apart = Opened(browser, report_run(write_files(tmp_path, variants[:2]), tmp_path / "r.html", resamples=20))
    assert apart.page.locator("#position-near").count() == 0
    apart.close()


@pytest.mark.parametrize("width", [320, 1360])
def test_labels_beside_lines_are_neither_squeezed_nor_cut_off(open_page, width):
    opened = open_page(width=width)
    opened.page.evaluate(
        """() => { window.drawnTexts = []; const draw = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, x, y, most) {
          const end = x + this.measureText(text).width;
          if (this.textAlign === "left") drawnTexts.push([text, end, this.canvas.width, most]);
          draw.apply(this, arguments); }; }"""
    )
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_timeout(500)
    drawn = opened.page.evaluate("drawnTexts")
    assert {"level 1", "rms", "meta"} <= {text for text, *_ in drawn}
    assert all(end <= edge and most is None for _, end, edge, most in drawn)
    assert width == 320 or f"{NEAR} \u2212 meta" in {text for text, *_ in drawn}


def test_marks_of_tokens_mean_the_same_on_page_and_heat_map(open_page, variants, tmp_path):
    page, heat = open_page(), tmp_path / "heat.html"
    heat.write_text(HeatMap(variants[0], variants[2]).page(), encoding="utf-8")
    other = open_page(heat, ready=None)
    styles = []
    for opened, tokens in ((page, "#tokens .t"), (other, ".passage .text span")):
        assert LINES in opened.text("body") and UNDERLINE in opened.text("body")
        script = """all => all.map((each) => {
            const { textDecorationLine, borderTopWidth } = getComputedStyle(each);
            return [each.textContent, textDecorationLine.includes("underline"), borderTopWidth != "0px"]; })"""
        styles.append(opened.page.locator(tokens).evaluate_all(script))
    count = len(styles[0])
    assert [each[:2] for each in styles[0]] == [each[:2] for each in styles[1][:count]]
    for drawn in styles:
        assert 0 < sum(underlined for _, underlined, _ in drawn) < len(drawn)
        assert 0 < sum(line for *_, line in drawn) < len(drawn)


@pytest.mark.parametrize("width", [390, 1360])
def test_the_heat_maps_losses_are_beside_its_text(open_page, variants, tmp_path, width):
    (tmp_path / "heat.html").write_text(HeatMap(variants[0], variants[2]).page(), encoding="utf-8")
    opened = open_page(tmp_path / "heat.html", ready=None, width=width, height=800)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
    for index in (0, 20, 60):
        token = opened.page.locator(".text span").nth(index)
        token.hover()
        script = """element => {
            const style = getComputedStyle(element, "::after"), text = element.closest(".text");
            return [style.left, style.top, text.offsetWidth, text.offsetHeight].map(parseFloat); }"""
        left, top, text_width, text_height = token.evaluate(script)
        assert left >= text_width if width > 900 else top >= text_height
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
