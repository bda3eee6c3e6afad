"""Pages of our servers in Chromium: how it is started, what must never happen on a page, and what a test waits by."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `dev` has it)")

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
_FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip
# For what a page waits for: a model that is asked for it, a video that has to begin.
PATIENCE_MS = 90_000


@contextlib.contextmanager
def chromium(*flags: Collection[str]) -> Iterator[list]:
    """Browsers, one for each collection of further flags; skips where there is none."""
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}; CHROMIUM names another one")
    playwright.expect.set_options(timeout=PATIENCE_MS)
    with playwright.sync_playwright() as driver, contextlib.ExitStack() as stack:
        found = []
        for more in flags:
            found.append(driver.chromium.launch(executable_path=str(CHROMIUM), args=[*_FLAGS, *more]))
            stack.callback(found[-1].close)
        yield found


@contextlib.contextmanager
def opened(
    browser, url: str, path: str = "/", *, size=(1280, 860), forgiven: Collection[str] = ("401",), **arguments
) -> Iterator:
    """A page of a server; at the end nothing was loaded from elsewhere and no rule of its own was broken.

    Args:
      browser: of `chromium`.
      url: the server's.
      path: of the page.
      size: of the window, in pixels.
      forgiven: what in a complaint of the browser's is no fault of the page, as of a token that is asked for.
      **arguments: of the browser's context.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **arguments)
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    complaints, asked = [], []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    try:
        page.goto(url + path)
        yield page
        assert not [one for one in asked if not one.startswith((url, "blob:", "data:"))]
        assert not [one for one in complaints if not any(word in one for word in forgiven)]
    finally:
        context.close()


def until(page, condition: str | Callable[[], bool]) -> None:
    """Waits until something holds, in the page or here. (The page's own rules forbid what Playwright would wait by.)"""
    deadline_s = time.monotonic() + PATIENCE_MS / 1000
    while not (page.evaluate(condition) if isinstance(condition, str) else condition()):
        assert time.monotonic() < deadline_s, condition
        page.wait_for_timeout(30)


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2 of two colours as browsers give them, `rgb(1, 2, 3)`."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
