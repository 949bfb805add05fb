"""A headless Chromium for tests of pages: Debian's, or another one on the PATH."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium() -> Iterator:
    """A started browser of playwright; skips the tests where there is none."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="needs playwright: pip install playwright"
    )
    place = next(filter(None, map(shutil.which, NAMES)), None)
    if place is None:
        pytest.skip("needs a Chromium on the PATH: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        # Root, as in a container, may start it only without its sandbox
        browser = driver.chromium.launch(executable_path=place, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A tab in which a page is open, with all that it asked for and complained of."""

    def __init__(self, browser, address, width=1600, height=900, scheme="light"):
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=scheme
        )
        self.tab = self.context.new_page()
        self.requests, self.complaints = [], []
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.tab.on(
            "console",
            lambda said: said.type in ("error", "warning") and self.complaints.append(said.text),
        )
        self.tab.goto(address)
        self.tab.wait_for_selector("html[data-ready]", timeout=60_000)

    def show(self, view):
        """Go to an address inside the page, such as ``#/map``."""
        self.tab.evaluate("view => { location.hash = view; }", view)
        self.tab.wait_for_function(
            "view => location.hash === view && document.activeElement !== document.body", arg=view
        )

    def close(self):
        self.context.close()
