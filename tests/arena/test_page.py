"""The arena in a real browser: words at their times, no vote before the end, mouse, keys, a phone, a token."""

import asyncio
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from mmduplex_jax.arena.entries import read_entries
from mmduplex_jax.arena.rules import ArenaLimits
from mmduplex_jax.arena.server import build_arena
from mmduplex_jax.arena.votes import VoteStore
from mmduplex_jax.serving.access import Access
from tests.arena.contest import cast, write_contest
from tests.browser import chromium, contrast, opened, playwright, until

# A browser starts in seconds and videos play in real time.
pytestmark = pytest.mark.browser

TOKEN = "a-secret-of-more-than-16"
# The board is computed anew for every reader.
FRESH = ArenaLimits(board_s=1e-9, board_wait_s=60)
CONTESTANTS = ("amber", "birch", "cedar")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_contest(tmp_path_factory.mktemp("arena") / "root", CONTESTANTS, suffix=".webm")


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with chromium([]) as (started,):
        yield started


class ServedArena:
    """An arena in a thread with a loop of its own. Attributes: `url`, `store`."""

    def __init__(self, root: Path, path: Path, token: str | None = None):
        self.store = VoteStore(path, seed="seed")
        app = build_arena(read_entries(root), self.store, Access("127.0.0.1", token), FRESH)
        ready, self._loop, self._stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

        async def serve() -> None:
            runner = web.AppRunner(app, shutdown_timeout=0.2)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()
            await self._stop.wait()
            await runner.cleanup()

        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(serve()))
        self._thread.start()
        assert ready.wait(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self.store.close()


@pytest.fixture
def arena(root: Path, tmp_path: Path) -> Iterator[ServedArena]:
    served = ServedArena(root, tmp_path / "votes.sqlite3")
    yield served
    served.close()


def choices(page):
    return page.locator("[data-choice]")


def votes(arena: ServedArena) -> list[dict]:
    return list(arena.store.every_vote())


# Notes, for every word that appears, its own time and the video's at that moment.
WATCH_WORDS = """
() => {
  window.appeared = [];
  const video = document.getElementById("video");
  new MutationObserver((changes) => {
    for (const change of changes) for (const node of change.addedNodes) {
      if (node.nodeName === "SPAN") window.appeared.push([Number(node.dataset.t), video.currentTime]);
    }
  }).observe(document.getElementById("sides"), { childList: true, subtree: true });
}
"""


def test_words_come_at_their_times_and_votes_after_the_end(browser, arena: ServedArena):
    with opened(browser, arena.url) as page:
        playwright.expect(page.get_by_role("status")).to_have_text("Play the video to its end, then vote.")
        assert all(one.is_disabled() for one in choices(page).all())
        page.evaluate(WATCH_WORDS)
        page.keyboard.press("1")
        page.get_by_role("button", name="Play").click()
        playwright.expect(page.locator("#left span").first).to_be_visible()
        playwright.expect(page.get_by_role("status")).to_contain_text("Which is better?")
        assert votes(arena) == []  # the key came too early
        appeared = page.evaluate("window.appeared")
        assert len(appeared) == 6
        for t_s, shown_s in appeared:
            assert shown_s >= t_s - 1e-6, "a word was shown before it was said"
        assert not any(name in page.content() for name in CONTESTANTS)
        page.get_by_label("Timing").check()
        page.get_by_role("button", name="Left 1").click()
        playwright.expect(page.get_by_role("status")).to_contain_text("Thank you. The left was")
        (vote,) = votes(arena)
        assert (vote["choice"], vote["reason"]) == ("left", "timing")
        playwright.expect(page.locator("#left-title")).to_have_text(f"Left: {vote['left']}")
        page.get_by_role("button", name="Next video").click()
        playwright.expect(page.get_by_role("status")).to_have_text("Play the video to its end, then vote.")
        assert all(one.is_disabled() for one in choices(page).all())
        playwright.expect(page.locator("#left-title")).to_have_text("Left")


def test_everything_works_by_keyboard_and_keys_can_be_switched_off(browser, arena: ServedArena):
    with opened(browser, arena.url) as page:
        playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
        page.keyboard.press("p")
        playwright.expect(page.get_by_role("status")).to_contain_text("Which is better?")
        page.get_by_label("Keys:").uncheck()
        page.keyboard.press("3")
        page.wait_for_timeout(200)
        assert votes(arena) == []
        # By Tab and Enter alone.
        for _ in range(30):
            if page.evaluate("document.activeElement.dataset.choice") == "both_bad":
                break
            page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        until(page, lambda: bool(votes(arena)))
        playwright.expect(page.get_by_role("button", name="Next video")).to_be_focused()
        page.keyboard.press("Enter")
        page.get_by_label("Keys:").check()
        playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
        page.keyboard.press("p")
        playwright.expect(page.get_by_role("status")).to_contain_text("Which is better?")
        page.keyboard.press("3")
        until(page, lambda: len(votes(arena)) == 2)
        assert [vote["choice"] for vote in votes(arena)] == ["both_bad", "tie"]


def test_nobody_skips_to_the_end(browser, arena: ServedArena):
    with opened(browser, arena.url) as page:
        playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
        until(page, lambda: page.evaluate("document.getElementById('video').readyState >= 2"))
        page.evaluate("document.getElementById('video').currentTime = 1.9")
        until(page, lambda: page.evaluate("document.getElementById('video').currentTime < 0.5"))
        page.evaluate("document.getElementById('video').playbackRate = 8")
        until(page, lambda: page.evaluate("document.getElementById('video').playbackRate === 1"))
        assert all(one.is_disabled() for one in choices(page).all())


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, arena: ServedArena):
    with opened(browser, arena.url, size=(360, 640), has_touch=True, is_mobile=True) as page:
        playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_role("button", name="Play").tap()
        playwright.expect(page.get_by_role("status")).to_contain_text("Which is better?")
        left, right = page.locator("#left").bounding_box(), page.locator("#right").bounding_box()
        assert left["y"] == right["y"]  # beside each other still
        for button in choices(page).all():
            assert button.bounding_box()["height"] >= 44
        page.get_by_role("button", name="Right").tap()
        until(page, lambda: bool(votes(arena)))
        page.goto(f"{arena.url}/leaderboard")
        playwright.expect(page.locator("#board table").first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


# Of every text that is seen, and of no control that is closed: its colour, what it stands on, its size, what it is.
TEXTS = """
() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    const style = getComputedStyle(element);
    const seen = box.width > 1 && box.height > 1 && element.checkVisibility() && style.clipPath === "none";
    if (!walker.currentNode.textContent.trim() || !seen || element.closest(":disabled, option")) continue;
    let ground = element;
    while (ground && getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
    const colour = element.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const on = ground ? getComputedStyle(ground).backgroundColor : "rgb(255, 255, 255)";
    found.push([colour, on, element.outerHTML.slice(0, 120)]);
  }
  return found;
}
"""
# What can be pressed: its size, and whether its label may be pressed, too.
PRESSED = """
() => [...document.querySelectorAll("button, input, a, summary")].filter((e) => e.checkVisibility()).map((e) => {
  const box = (e.labels?.[0] ?? e).getBoundingClientRect();
  return [box.width, box.height, e.outerHTML.slice(0, 120)];
}).filter(([width, height]) => width > 1 && height > 1)
"""


def check_readable(page, least: int) -> None:
    """WCAG 2.2 AA as far as a program sees it: contrast 4.5, targets of 24 px, everything named, nothing sideways."""
    texts = page.evaluate(TEXTS)
    assert len(texts) >= least
    for colour, ground, what in texts:
        assert contrast(colour, ground) >= 4.5, (colour, ground, what)
    for width, height, what in page.evaluate(PRESSED):
        assert min(width, height) >= 24 or what.startswith("<a "), (width, height, what)
    # The tree that readers of screens are given: a control or a region without a name stands there without quotes.
    tree = page.locator("body").aria_snapshot()
    assert not re.findall(
        r"^ *- '?(?:button|checkbox|radio|link|textbox|progressbar|region)\b(?! \")", tree, re.MULTILINE
    ), tree
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize(
    ("scheme", "size"),
    [("light", (1280, 800)), ("dark", (320, 640))],  # (320 px is 400 % of 1280: text may be enlarged)
)
def test_what_is_shown_is_readable_and_named(browser, arena: ServedArena, scheme: str, size: tuple[int, int]):
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    with opened(browser, arena.url, size=size, color_scheme=scheme) as page:
        playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
        check_readable(page, 12)
        page.get_by_role("button", name="Play").click()
        playwright.expect(page.get_by_role("status")).to_contain_text("Which is better?")
        check_readable(page, 20)
        page.keyboard.press("1")
        playwright.expect(page.get_by_role("status")).to_contain_text("Your vote: the left.")
        check_readable(page, 12)
        page.evaluate("document.getElementById('ask-token').showModal()")
        check_readable(page, 3)
        page.goto(f"{arena.url}/leaderboard")
        playwright.expect(page.locator("#board table").first).to_be_visible()
        check_readable(page, 30)


@pytest.mark.parametrize("size", [(1280, 800), (1440, 900), (360, 640)])
def test_what_a_voter_needs_is_on_the_screen(browser, arena: ServedArena, size: tuple[int, int]):
    """The buttons when they open; after the vote the way on in their place; then the video again, and who plays it."""
    seen = """(name) => { const box = document.getElementById(name).getBoundingClientRect();
                          return box.height > 0 && box.top > -1 && box.bottom < innerHeight + 1; }"""
    with opened(browser, arena.url, size=size) as page:
        for _ in range(2):
            playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
            assert all(page.evaluate(seen, name) for name in ("video", "play", "left", "right", "state"))
            page.keyboard.press("p")
            playwright.expect(page.get_by_role("status")).to_contain_text("Which is better?")
            assert all(page.evaluate(seen, name) for name in ("left", "right", "state", "reasons", "choices"))
            if size[1] >= 800:
                assert page.evaluate("scrollY") == 0
            page.keyboard.press("2")
            playwright.expect(page.get_by_role("button", name="Next video")).to_be_focused()
            assert page.evaluate(seen, "next")
            assert not page.locator("#choices").is_visible()
            page.keyboard.press("Enter")
            playwright.expect(page.get_by_role("button", name="Play")).to_be_focused()
            assert page.evaluate("scrollY") == 0


def test_the_leaderboard_shows_tables_and_a_plot(browser, arena: ServedArena):
    pytest.importorskip("evalica", reason="evalica is not installed (the extra `arena` has it)")
    clock = type("Ahead", (), {"now_s": 0.0})()
    arena.store._now = lambda: clock.now_s
    for number in range(12):
        category = "sea" if number % 2 else "land"
        cast(arena.store, clock, f"v{number}", "amber", "birch", "left", category=category, reason="truth")
        cast(arena.store, clock, f"v{number}", "birch", "cedar", ("left", "tie")[number % 2], category=category)
    with opened(browser, arena.url, "/leaderboard") as page:
        playwright.expect(page.locator("#board caption").first).to_contain_text("Bradley-Terry")
        first = page.locator("#board table").first.locator("tbody tr").first.inner_text()
        assert first.split()[:2] == ["1", "amber"]
        assert page.locator("svg circle.rating").count() == 3
        assert page.locator("svg line.interval").count() == 3
        text = page.locator("#board").inner_text()
        for piece in ("24 votes", "Who wins against whom", "land (12 votes)", "sea (12 votes)", "truth (12 votes)"):
            assert piece in text
        page.get_by_role("link", name="Vote").click()
        playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()


def test_where_a_token_is_wanted_it_is_asked_for(browser, root: Path, tmp_path: Path):
    arena = ServedArena(root, tmp_path / "votes.sqlite3", TOKEN)
    try:
        with opened(browser, arena.url) as page:
            page.get_by_label("Token", exact=True).and_(page.locator("input")).fill(TOKEN)
            page.get_by_role("button", name="Go on").click()
            playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
        with opened(browser, arena.url, f"/#token={TOKEN}") as page:
            playwright.expect(page.get_by_role("button", name="Play")).to_be_enabled()
            assert TOKEN not in page.url
    finally:
        arena.close()
