"""Pages of hostile text alone, in a real browser: nothing runs and nothing is loaded."""

from __future__ import annotations

import base64
import html
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynlm.report.fewshot_results import FILE
from dynlm.report.heatmap import heatmap_run
from dynlm.report.page import report_run
from tests.browser import Opened
from tests.report.samples import write_files
from tests.synthetic_scores import synthetic_scores

MARK = "document.documentElement.dataset.ran=1"
"""A script that ran would leave this mark."""
EVIL = [
    f"<script>{MARK}</script>",
    f"</script><script>{MARK}</script>",
    f"<!--<script>{MARK}//",
    f"]]><img src=x onerror={MARK}>",
    f'" onmouseover="{MARK}" style="background:url(http://evil.example/a)',
    f"' onfocus='{MARK}' autofocus='",
    f"javascript:{MARK}",
    f"<a href=javascript:{MARK} id=curve>x</a>",
    "<img src=http://evil.example/p.png><link rel=stylesheet href=//evil.example/c.css>",
    "<iframe src=http://evil.example></iframe><base href=http://evil.example/>",
    "<meta http-equiv=refresh content=0;url=http://evil.example>",
    "<svg><style>@import url(http://evil.example/s.css)</style></svg>",
    "</style><style>*{background:url(//evil.example/b)}</style>",
    "</title></head><body onload=1>",
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "\u202egnp.exe\u202c \u2066 \u200f",
    "nul \x00 bell \x07 escape \x1b[31m",
    "half \ud800 a pair \udfff",
    "\u2028\u2029 lines",
    "&lt;script&gt; &#60;script&#62;",
]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two score files in which every text is hostile."""
    everything = " ".join(EVIL)
    variants = []
    for index, scores in enumerate(synthetic_scores(articles=len(EVIL), tokens=60)):
        surface = [EVIL[row % len(EVIL)].encode("utf-8", "surrogatepass") for row in range(len(scores))]
        articles = [{"index": index, "title": text} for index, text in enumerate(EVIL)]
        hostile = dict.fromkeys(("run", "split", "corpus", "reset", "order", "statement", "date", "commit"), everything)
        rates = {everything: {"lr": 0.1, "decay": 0.1}, EVIL[1]: {"lr": 1, "decay": 0}}
        protocol = {
            **scores.protocol,
            **hostile,
            "variant": f"{index} {everything}",
            "articles": articles,
            "rule": {"name": everything, "rates": rates},
            "versions": {everything: everything},
        }
        # Lone surrogates are in the file's JSON.
        variants.append(replace(scores, surface=surface, protocol=json.loads(json.dumps(protocol))))
    return write_files(tmp_path_factory.mktemp("scores"), variants)


def check(opened: Opened) -> None:
    """Check that no script ran, nothing but the page was loaded, and the text is displayed as text."""
    page = opened.page
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.dataset.ran") is None
    assert opened.messages == []
    assert len(opened.requests) == 1 and opened.requests[0].startswith("file://")
    assert page.locator("iframe, link, base, object, embed, form, [onmouseover], [onfocus], [onerror]").count() == 0
    assert page.locator("a[href^=javascript]").count() == 0
    assert page.evaluate("location.href").startswith("file://")
    assert "<script>" in page.locator("body").inner_text()


def test_the_heat_map_of_hostile_text_runs_nothing(browser: Any, paths: list[Path], tmp_path: Path) -> None:
    written = heatmap_run(*paths, tmp_path, (1, 0, 40))
    (page,) = (path for path in written if path.suffix == ".html")
    opened = Opened(browser, page, ready=None)
    for index in range(len(EVIL)):
        opened.page.locator(".text span").nth(index).hover()
    check(opened)
    assert opened.page.locator("script, img, svg").count() == 0
    # Its own style applies.
    assert opened.page.evaluate("getComputedStyle(document.querySelector('.text')).whiteSpace") == "pre-wrap"
    opened.close()


def test_the_report_of_hostile_text_runs_nothing(browser: Any, paths: list[Path], tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    dot = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    )
    (few / "p.png").write_bytes(dot)
    everything = " ".join(EVIL)
    table = {"title": everything, "columns": EVIL[:3], "rows": [EVIL[3:6], EVIL[6:9]], "note": everything}
    picture = {"file": "p.png", "title": everything, "alt": everything}
    content = {"title": everything, "text": everything, "tables": [table], "pictures": [picture]}
    (few / FILE).write_text(json.dumps(content))
    opened = Opened(browser, report_run(paths, tmp_path / "report.html", [few], resamples=20))
    page = opened.page
    for selector in ("#lower", "#higher"):
        page.locator(selector).focus()
    page.locator("#curve").focus()
    for key in ("Home", "PageDown", "PageDown", "End"):
        page.keyboard.press(key)
    for index in range(12):
        page.locator("#tokens .t").nth(index).hover()
    page.locator("#as-table summary").click()
    page.wait_for_selector("#as-table tbody tr")
    check(opened)
    assert page.locator("script").count() == 4
    assert page.locator("img").count() == 1
    opened.close()


def test_policies_allow_nothing_else(paths: list[Path], tmp_path: Path) -> None:
    (heat,) = (path for path in heatmap_run(*paths, tmp_path, (1, 0, 40)) if path.suffix == ".html")
    for page in (heat, report_run(paths, tmp_path / "report.html", resamples=20)):
        text = page.read_text(encoding="utf-8")
        policy = html.unescape(text.partition('http-equiv="Content-Security-Policy" content="')[2].partition('"')[0])
        parts = {part.split()[0]: part.split()[1:] for part in policy.split(";")}
        assert parts["default-src"] == parts["base-uri"] == parts["form-action"] == ["'none'"]
        assert "unsafe" not in policy and "http" not in policy and "*" not in policy
        # The policy comes before everything that it restricts.
        assert (
            text.index("Content-Security-Policy") < text.index("<style")
            and "<script" not in text[: text.index("<style")]
        )
