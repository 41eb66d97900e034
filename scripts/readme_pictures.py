#!/usr/bin/env python3
"""Write the heat map and the pictures of the report under docs/, from a study of WikiText-2.

    scripts/readme_pictures.py [STUDY]      docs/wikitext-2-heatmap.png, docs/report.png and docs/report-dark.png

STUDY is runs/wikitext-2-small/study. The report's pictures are screenshots by chromium; `make results DIR=...`
makes them with README.md's table.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
HEAT_MAP = ("level-1", "level-3-stream-in-order")
PAGE = ("level-1", "level-3-gated-cache-stream-in-order", "rms-stream-in-order", "level-3-stream-in-order")
"""Scores on the page, the lower and the higher level that it opens with first."""
SIZE = {"width": 1360, "height": 1180}


def dynlm(*arguments: str) -> None:
    """Run a command of dynlm."""
    subprocess.run([sys.executable, "-m", "dynlm", *arguments], check=True, stdout=subprocess.DEVNULL)


def take_screenshots(page: Path) -> None:
    """Write the page in light mode with a token chosen, and in dark mode, zoomed in, with the pointer on the curve."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme, name in (("light", "report.png"), ("dark", "report-dark.png")):
            opened = browser.new_page(viewport=SIZE, color_scheme=scheme)
            opened.goto(page.as_uri())
            opened.wait_for_selector("html[data-ready]", state="attached")
            if scheme == "light":
                # The first word that was given away.
                opened.locator("#tokens .t", has_text="Australia").first.hover()
            else:
                opened.locator("#in").click()
                box = opened.locator("#curve .u-over").bounding_box()
                opened.mouse.click(box["x"] + box["width"] * 0.62, box["y"] + box["height"] / 2)
                opened.mouse.move(box["x"] + box["width"] * 0.72, box["y"] + box["height"] / 2)
            opened.wait_for_timeout(300)
            opened.screenshot(path=DOCS / name)
        browser.close()


def main(arguments: list[str]) -> int:
    """Run the command of the module's docstring; returns the exit code."""
    if len(arguments) > 1 or any(argument.startswith("-") for argument in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    study = Path(arguments[0]) if arguments else ROOT / "runs" / "wikitext-2-small" / "study"
    scores = {name: study / "scores" / f"{name}.parquet" for name in (*HEAT_MAP, *PAGE)}
    if missing := [path for path in scores.values() if not path.exists()]:
        print(
            f"no scores ({missing[0]}): run `dynlm study --config study-wikitext-2 --corpus.path DIR`", file=sys.stderr
        )
        return 2
    if shutil.which("chromium") is None:
        print("chromium is not installed: run `make chromium`", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        dynlm("heatmap", *(str(scores[name]) for name in HEAT_MAP), "--out", folder)
        shutil.copy(Path(folder) / "heatmap.png", DOCS / "wikitext-2-heatmap.png")
        page = Path(folder) / "report.html"
        dynlm("report", *(str(scores[name]) for name in PAGE), "--out", str(page))
        take_screenshots(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
