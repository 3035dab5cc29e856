"""A headless Chromium, in which the page of the monitor is what its users see."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

#: Names a browser where none of those below is on the PATH.
CHROMIUM_ENV = "DAGSTER_TASKIQ_TEST_CHROMIUM"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")

#: What Chromium says, by itself, of each request that was refused or had no answer.
OF_THE_NETWORK = "Failed to load resource"


def chromium() -> str:
    """Return the path of the browser.

    Raises:
        RuntimeError: there is none.
    """
    found = os.environ.get(CHROMIUM_ENV) or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        raise RuntimeError(
            "The tests of the monitor's page need a Chromium. Install one: "
            "scripts/install-servers, or sudo apt-get install chromium. Or name one: "
            f"{CHROMIUM_ENV}=/path/to/chrome"
        )
    return found


@contextlib.contextmanager
def running_browser() -> Iterator[Browser]:
    """Start the browser.

    As long as it runs, the thread that has started it can run no other event loop.
    """
    with sync_playwright() as playwright:
        # As root, and in most containers, it cannot make its sandbox.
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A page in the browser, and what has gone wrong on it."""

    def __init__(self, context: BrowserContext) -> None:
        self.page: Page = context.new_page()
        #: Errors of scripts, and what the content policy has blocked.
        self.errors: list[str] = []
        #: Requests that were refused or had no answer.
        self.failed_requests: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note)
        self.page.on("dialog", self._on_dialog)

    def _note(self, message: Any) -> None:
        if message.type == "error":
            is_of_network = message.text.startswith(OF_THE_NETWORK)
            (self.failed_requests if is_of_network else self.errors).append(message.text)

    def _on_dialog(self, dialog: Any) -> None:
        self.errors.append(f"A script has opened a dialog: {dialog.message}")
        dialog.dismiss()


@contextlib.contextmanager
def opened_tab(browser: Browser, pictures: Path, **options: Any) -> Iterator[Tab]:
    """Open a page; check at its end that no script of it has failed.

    Args:
        browser: where.
        pictures: a directory for a picture of it, if the test fails.
        options: of the browser's context, such as ``viewport``.
    """
    context = browser.new_context(**options)
    tab = Tab(context)
    try:
        yield tab
        assert tab.errors == []
    except BaseException:
        with contextlib.suppress(Exception):
            tab.page.screenshot(path=pictures / "page.png", full_page=True)
            print(f"The page: {pictures / 'page.png'}; errors: {tab.errors}")  # pytest shows it
        raise
    finally:
        context.close()
