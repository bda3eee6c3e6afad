"""The page in a browser: the film plays, words light up when they are said, and keys are enough. Skips without one."""

import shutil
from pathlib import Path

import pytest

from mmduplex_jax.pages.notebook_page import Page, commentary_page
from tests.data_pipelines.numbered_video import write_numbered
from tests.launch.test_notebook_page import commentary, words

sync_api = pytest.importorskip("playwright.sync_api", reason="the page is looked at through playwright")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")

SAID = words(("red", 0.2), ("dog", 0.5), ("stops", 2.2))  # said 0.4 s later
CAPTIONS = "WEBVTT\n\n00:00:00.600 --> 00:00:01.900\nred <00:00:00.900>dog\n"


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("page")
    film = write_numbered(folder / "real.mp4", count=100)
    one = commentary(folder, SAID)
    one.film.write_bytes(film.read_bytes())
    one.captions.write_text(CAPTIONS, encoding="utf-8")
    return commentary_page([one, commentary(tmp_path_factory.mktemp("other"), [], name="silent", film=None)])


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def tab(browser):
    """An empty tab of 1000 × 800; the test fails if anything goes wrong in it, or is fetched."""
    wrong: list[str] = []
    page = browser.new_page(viewport={"width": 1000, "height": 800})
    page.set_default_timeout(10_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    yield page
    page.close()
    assert not wrong


def opened(tab, shown: Page, folder: Path):
    """The page as the file that is kept, ready to play."""
    shown.save(folder / "page.html")
    tab.goto((folder / "page.html").as_uri())
    tab.wait_for_function("document.querySelector('video').readyState >= 2")
    return tab


def unsaid(tab) -> list[str]:
    return tab.eval_on_selector_all(".timeline .unsaid", "found => found.map(word => word.textContent)")


def test_words_light_up_when_they_are_said(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    assert unsaid(tab) == []  # before it plays, all is there to read
    for at_s, wanted in ((0.3, ["red", "dog", "stops"]), (0.8, ["dog", "stops"]), (3.0, [])):
        tab.evaluate("s => { document.querySelector('video').currentTime = s; }", at_s)
        tab.wait_for_function("s => parseFloat(document.querySelector('.now').style.left) === s * 64", arg=at_s)
        assert unsaid(tab) == wanted
    assert tab.text_content(".heard[aria-live]") == "stops"  # the last phrase, for who does not see


def test_captions_are_there_to_turn_on(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    tab.evaluate("() => { document.querySelector('video').textTracks[0].mode = 'showing'; }")
    tab.wait_for_function("() => document.querySelector('video').textTracks[0].cues?.length === 1")


def test_keys_are_enough(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    reached = []
    for _ in range(30):
        tab.keyboard.press("Tab")
        reached.append(tab.evaluate("() => document.activeElement.getAttribute('aria-label')"))
        if reached[-1] == "Play from 2.20 seconds":
            break
    assert "one, with the words drawn on it" in reached
    assert "Words about one" in reached
    tab.keyboard.press("Enter")
    tab.wait_for_function("() => document.querySelector('video').currentTime >= 2.2")
    assert tab.evaluate("() => document.querySelector('article').classList.contains('playing')")


def test_the_timeline_jumps_where_it_is_pressed(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    box = tab.locator(".timeline").first.bounding_box()
    tab.mouse.click(box["x"] + 2 * 64, box["y"] + box["height"] - 10)
    assert tab.evaluate("() => document.querySelector('video').currentTime") == pytest.approx(2.0, abs=1 / 64)


@pytest.mark.parametrize("width", [360, 1000])
def test_it_fits_a_phone_and_a_desk(tab, shown, tmp_path, width):
    tab.set_viewport_size({"width": width, "height": 800})
    opened(tab, shown, tmp_path)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= width


def test_a_notebooks_frame_is_as_high_as_the_page(tab, shown):
    tab.set_content(f"<!doctype html><p>a cell</p>{shown._repr_html_()}")
    inner = "document.querySelector('iframe').contentDocument"
    tab.wait_for_function(f"() => {inner}?.querySelector('video')?.readyState >= 2")
    tab.wait_for_function(
        f"() => document.querySelector('iframe').clientHeight === {inner}.documentElement.offsetHeight"
    )
    before = tab.evaluate("() => document.querySelector('iframe').clientHeight")
    assert before > 300
    tab.set_viewport_size({"width": 360, "height": 800})  # on a phone it is higher, and the frame follows
    tab.wait_for_function("h => document.querySelector('iframe').clientHeight > h", arg=before)
