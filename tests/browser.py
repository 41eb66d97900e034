"""A real browser for the tests of pages: Debian's chromium, driven by Playwright. Tests skip where there is none."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-extensions"
).split()


@contextlib.contextmanager
def started() -> Iterator[Any]:
    """A headless browser with a profile of its own."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Opened:
    """A page that was opened from a file, with its console messages and requests."""

    def __init__(
        self,
        browser: Any,
        path: Path,
        width: int = 1300,
        height: int = 1000,
        scheme: str = "light",
        ready: str | None = "html[data-ready]",
    ):
        """``ready``: selector that appears when the page's script has finished; None for a page without one."""
        self.context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri(), wait_until="commit" if ready else "load")
        if ready:
            self.page.wait_for_selector(ready, state="attached", timeout=20_000)

    def _dismiss(self, dialog: Any) -> None:
        self.messages.append("a dialog")
        dialog.dismiss()

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def passage(self) -> tuple[int, int, int]:
        """The passage that is shown: article from 1, first position, tokens."""
        data = self.page.locator("#tokens")
        return tuple(int(data.get_attribute(f"data-{name}")) for name in ("article", "start", "length"))  # type: ignore[return-value]

    def tokens(self) -> list[str]:
        return list(self.page.locator("#tokens .t").all_text_contents())

    def point(self, share: float) -> tuple[float, float]:
        """Return the screen coordinates at this fraction of the curve's width."""
        box = self.page.locator("#curve .u-over").bounding_box()
        return box["x"] + share * box["width"], box["y"] + box["height"] / 3

    def click(self, share: float) -> None:
        self.page.mouse.click(*self.point(share))

    def close(self) -> None:
        self.context.close()
