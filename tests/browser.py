"""A real Chromium without a window, for tests of the page."""

from __future__ import annotations

import contextlib
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def chromium():
    """The browser; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no chromium here: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A tab, with all that it must not do: requests, messages, errors, dialogs.

    Attributes:
        page: The tab, of playwright.
        requests: Addresses that were asked for.
        complaints: Messages of the console, errors and dialogs.
    """

    def __init__(self, browser, width=1200, scheme="light", touch=False):
        self.page = browser.new_page(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            reduced_motion="reduce",
            has_touch=touch,
            is_mobile=touch,
        )
        self.page.set_default_timeout(15_000)
        self.requests, self.complaints = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", self._dismiss)

    def _dismiss(self, dialog):
        self.complaints.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def open(self, address, view=""):
        """The page at an address or path, when it is ready."""
        address = str(address) if "://" in str(address) else address.as_uri()
        self.page.goto(f"{address}{view}")
        self.page.wait_for_selector("html[data-ready]")
        return self.page


def until(page, expression):
    """Wait until a JavaScript expression is true.

    wait_for_function of playwright uses eval inside the page, which the page's policy forbids.
    """
    for _ in range(300):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"never true: {expression}")
