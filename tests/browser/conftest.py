"""A headless Chromium for the report's tests, where the machine has one; a page asks for nothing but itself."""

import os
import shutil

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="session")
def browser():
    """Playwright's Chromium: $CHROMIUM, or the first of NAMES that is on the path."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no browser tests: pip install playwright")
    chromium = next(filter(None, map(shutil.which, filter(None, [os.environ.get("CHROMIUM"), *NAMES]))), None)
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium-headless-shell, or set CHROMIUM to one")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


class Visit:
    """A page that is open, with what it said and asked for."""

    def __init__(self, page) -> None:
        self.page, self.messages, self.urls = page, [], []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("dialog", self._dialog)
        page.on("request", lambda request: self.urls.append(request.url))

    def _dialog(self, dialog) -> None:
        self.messages.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture
def visit(browser):
    """Opens a file at a size and a colour scheme: `visit(path, width=390)`."""
    contexts = []

    def opened(path, width: int = 1280, height: int = 900, scheme: str = "light") -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(20_000)
        visited = Visit(context.new_page())
        visited.page.goto(path.resolve().as_uri())
        return visited

    yield opened
    for context in contexts:
        context.close()
