"""A real browser for the page: Debian's Chromium, or whatever is called so on this machine."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Set in a job of its own that must not skip them.
_REQUIRED = "HF_LTC_REQUIRE_BROWSER"


def browser_path() -> str:
    """Where the browser is; the test is skipped if there is none."""
    found = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no browser is installed ({', '.join(_NAMES)}): apt install chromium"
        if os.environ.get(_REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@contextmanager
def running_browser() -> Iterator[Browser]:
    path = browser_path()
    with sync_playwright() as playwright:
        # Without its sandbox, which a container and root do not have; it opens nothing but our own files.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page that is open, and what it said and asked for."""

    page: Page
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def opened(browser: Browser, file: Path, width: int = 1280, scheme: str = "light") -> Iterator[Opened]:
    """Opens a file; afterwards checks that it said nothing on the console and asked no network for anything."""
    context = browser.new_context(viewport={"width": width, "height": 850}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    page.set_default_timeout(60_000)
    here = Opened(page)
    page.on("console", lambda message: here.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: here.said.append(f"error: {error}"))
    page.on("dialog", lambda dialog: (here.said.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: here.asked.append(request.url))
    page.goto(file.as_uri())
    yield here
    assert here.said == []
    assert [url for url in here.asked if not url.startswith("data:")] == [file.as_uri()]
    context.close()
