"""The report of other scripts and of hostile text, in a real browser."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from dynlm.report.page import report_run
from dynlm.report.passages import PASSAGE
from dynlm.report.token_cells import token_cells
from tests.report.samples import HOSTILE_TOKENS, write_files
from tests.report.test_page_browser import page_file, scores, shown_rows  # noqa: F401 - fixtures
from tests.synthetic_scores import synthetic_scores


def test_hostile_tokens_titles_and_labels_are_displayed_as_text(open_page, tmp_path):
    variants = synthetic_scores(articles=2, tokens=60)
    evil = "</script><script>alert(1)</script>\u202e\x00"
    hostile = [
        *HOSTILE_TOKENS,
        b"</script><!--",
        "\u05e9\u05dc\u05d5\u05dd".encode(),
        "漢字".encode(),
        "e\u0301".encode(),
        b"\xe6",
        b"\xbc\xa2",
    ]
    surface = [*hostile, *list(variants[0].surface)[len(hostile) :]]
    changed = {"corpus": evil, "articles": [{"index": 0, "title": evil}], "statement": evil}
    protocols = [{**each.protocol, **changed, "variant": f"{each.variant} {evil}"} for each in variants]
    paths = write_files(
        tmp_path,
        [replace(each, surface=surface, protocol=protocol) for each, protocol in zip(variants, protocols, strict=True)],
    )
    opened = open_page(report_run(paths, tmp_path / "report.html"))
    opened.page.locator("#curve").focus()
    opened.page.keyboard.press("Home")
    nats = np.zeros(opened.passage()[2])
    assert opened.tokens() == [cell.text for cell in token_cells(surface[: len(nats)], nats, nats)]
    assert "<script>alert(1)</script>" in opened.tokens() and "漢" in opened.tokens()
    assert opened.text("#passage-title").startswith("Article 1: </script><script>")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "\u202e" not in text and "\x00" not in text and "<script>alert" not in text
    opened.page.locator("#tokens .t").nth(1).hover()
    assert "alert(2)" in opened.text("#tip")


def test_right_to_left_text_starts_at_the_right(open_page, tmp_path):
    variants = synthetic_scores(articles=1, tokens=60)
    words = [f" {word}".encode() for word in ("שלום", "עולם", "ספר", "בית")]
    surface = [words[index % 4] for index in range(len(variants[0]))]
    paths = write_files(tmp_path, [replace(each, surface=surface) for each in variants])
    opened = open_page(report_run(paths, tmp_path / "report.html"))
    boxes = [opened.page.locator("#tokens .t").nth(index).bounding_box()["x"] for index in range(3)]
    assert boxes[0] > boxes[1] > boxes[2]


def test_text_without_spaces_has_passages_of_full_length(open_page, tmp_path):
    variants = synthetic_scores(articles=2, tokens=900)
    count = len(variants[0])
    surface, words = ["漢字仮名"[row % 4].encode() for row in range(count)], np.zeros(count, dtype=np.int16)
    paths = write_files(tmp_path, [replace(each, surface=surface, words=words) for each in variants])
    opened = open_page(report_run(paths, tmp_path / "report.html"))
    opened.click(0.8)
    here = shown_rows(opened, variants[0])
    assert here.stop - here.start == PASSAGE and here.start <= 0.8 * len(variants[0]) <= here.stop
    assert max(map(len, opened.page.locator("#gained tbody th").all_text_contents())) <= 48
