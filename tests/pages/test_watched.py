"""The page: everything that was said, at its time, readable without sight, and in need of nothing else."""

import base64
import re
import shutil
from pathlib import Path

import pytest

from data_pipelines.schema import Event
from mmduplex_jax.pages import Page
from mmduplex_jax.pages.watched import Commentary, Spent, commentary_page
from mmduplex_jax.word_decoder import TimedWord
from tests.data_pipelines.numbered_video import write_numbered
from tests.pages.tags import EVIL, Tags

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


def in_browser(test):
    """Marks what drives the page in a real browser; skipped where there is none."""
    return pytest.mark.browser(pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine")(test))


SAID = (("red", 0.2), ("dog", 0.5), ("stops", 2.2))  # said 0.4 s later
CAPTIONS = "WEBVTT\n\n00:00:00.600 --> 00:00:01.900\nred <00:00:00.900>dog\n"


def words(*timed: tuple[str, float]) -> list[dict]:
    """Words as a report has them, each 0.4 s after its picture."""
    return [{"text": text, "t_video_s": t_s, "t_emit_s": t_s + 0.4} for text, t_s in timed]


def commentary(folder: Path, said: list[dict], **changes) -> Commentary:
    film, captions = folder / "film.mp4", folder / "words.vtt"
    film.write_bytes(b"a film")
    captions.write_text("WEBVTT\n", encoding="utf-8")
    report = {
        "duration_s": 4.0,
        "words": said,
        "word_lag_p50_s": 0.4 if said else None,
        "tokens_per_s_mean": 9.5,
        "tokens_in_any_second_max": 14,
        "tokens_per_s_cap": 16,
        "real_time_factor": 7.25,
        "notes": [],
        "error": None,
    }
    spent = (Spent(4, 2, 6), Spent(0, 8, 14), Spent(0, 0, 14), Spent(0, 0, 8))
    values = dict(name="one", film=film, captions=captions, report=report, spent=spent, tick_s=0.16, events=None)
    return Commentary(**(values | changes))


def test_phrases_end_at_pauses_and_long_ones_at_their_longest(tmp_path):
    at = lambda texts, begin_s, step_s=0.32: [(text, begin_s + step_s * i) for i, text in enumerate(texts.split())]
    said = [
        *at("red circle stops", 0.0),
        *at("blue square enters right", 2.0),
        *at("yellow triangle leaves bottom", 3.6),  # 0.64 s after the word before: no pause, but the longest
    ]
    texts = lambda one: [" ".join(word.text for word in phrase) for phrase in one.phrases]
    one = commentary(tmp_path, words(*said))
    assert texts(one) == ["red circle stops", "blue square enters right", "yellow triangle leaves bottom"]
    assert one.phrases[1][0] == TimedWord("blue", 2.0, 2.4)
    # A line and a bit without any pause is cut in its middle; a word longer than a line stands alone.
    even = commentary(tmp_path, words(*at("abcdefgh " * 6, 0.0)))
    assert [len(phrase) for phrase in even.phrases] == [3, 3]
    assert texts(commentary(tmp_path, words(("x" * 99, 0.0), ("y", 0.1)))) == ["x" * 99, "y"]
    many = commentary(tmp_path, words(*at("word " * 3000, 0.0)))
    assert max(len(phrase) for phrase in many.phrases) <= 8
    assert sum(len(phrase) for phrase in many.phrases) == 3000
    assert commentary(tmp_path, []).phrases == []


def test_all_is_said_at_its_time(tmp_path):
    events = (Event(0.5, "enters", "red dog", "left"), Event(99.0, "stops", "red dog"))
    one = commentary(tmp_path, words(("red", 0.6), ("dog", 0.92), ("stops", 2.6)), events=events)
    tags = Tags(commentary_page([one]).html)
    rows = [(row["data-end"], row["data-text"]) for row in tags.named("tr") if row]
    assert rows == [("1.320", "red dog"), ("3.000", "stops")]
    assert [button["data-seek"] for button in tags.named("button")] == ["0.600", "2.600"]
    assert [button["aria-label"] for button in tags.named("button")][0] == "Play from 0.60 seconds"
    # Each word is in the table and on the timeline, 64 px a second.
    assert [span["data-said"] for span in tags.named("span") if "data-said" in span] == ["1.000", "1.320", "3.000"] * 2
    assert [span["style"] for span in tags.named("span") if span.get("class") == "word"] == [
        "left:64px;top:0px",
        "left:192px;top:0px",
    ]
    (mark,) = [mark for mark in tags.named("i") if "style" in mark]  # what comes after the video's end has no place
    assert (mark["style"], mark["title"]) == ("left:32px", "0.50 s: red dog enters left")
    text = " ".join(tags.text)
    assert "Events (2)" in text
    for fact in ("4.0 s", "3 words", "9.5 tokens a second", "at most 14 in any (cap 16)", "7.2 × real time"):
        assert fact in text


def test_tokens_stand_against_the_cap(tmp_path):
    tags = Tags(commentary_page([commentary(tmp_path, words(("red", 0.0)))]).html)
    bars = [(bar["class"], float(bar["height"])) for bar in tags.named("rect")]
    # The cap of 16 is 85 % of 72 px high, so that a token is 3.825 px.
    assert bars == [("anchor", 15.3), ("flow", pytest.approx(7.65, abs=0.06)), ("flow", 30.6)]
    (cap,) = tags.named("line")
    assert float(cap["y1"]) == float(cap["y2"]) == pytest.approx(72 - 16 * 3.825)
    (line,) = tags.named("polyline")
    points = [tuple(map(float, point.split(","))) for point in line["points"].split()]
    assert points[:4] == [
        (0.0, pytest.approx(72 - 6 * 3.825, abs=0.06)),
        (10.2, pytest.approx(72 - 6 * 3.825, abs=0.06)),
        (10.2, pytest.approx(72 - 14 * 3.825, abs=0.06)),
        (20.5, pytest.approx(72 - 14 * 3.825, abs=0.06)),
    ]


def test_the_page_needs_nothing_and_is_read_without_sight(tmp_path):
    said = words((EVIL, 0.2))
    one = commentary(tmp_path, said, name=f"a {EVIL}", events=(Event(0.1, "enters", EVIL),))
    html = commentary_page([one, commentary(tmp_path, [], name="b")]).html
    tags = Tags(html)
    (first, second) = tags.named("video")
    assert base64.b64decode(first["src"].removeprefix("data:video/mp4;base64,")) == b"a film"
    assert base64.b64decode(tags.named("track")[0]["src"].removeprefix("data:text/vtt;base64,")) == b"WEBVTT\n"
    assert not re.search(r'(src|href)="(?!data:)|url\(|@import|https?://', html)
    assert len(tags.named("script")) == 1  # ours; what a video or a word is called is never markup
    assert EVIL in " ".join(tags.text)
    # Names for all that is reached by keys or heard, and no name twice.
    assert "controls" in first
    assert EVIL in first["aria-label"]
    assert all(region["aria-label"] for region in tags.named("div", role="region") + tags.named("div", role="img"))
    assert [region["tabindex"] for region in tags.named("div", role="region")] == ["0", "0", "0"]
    ids = [attributes["id"] for _, attributes in tags.tags if "id" in attributes]
    assert ids == [article["aria-labelledby"] for article in tags.named("article")] == ["video-0", "video-1"]
    assert all(cell["scope"] == "col" for cell in tags.named("th"))
    assert len(tags.named("p", **{"aria-live": "polite"})) == 2
    assert [name for name, _ in tags.tags if re.fullmatch("h[1-6]", name)] == ["h1", "h2", "h2"]
    assert "Nothing was said." in tags.text


def test_what_broke_is_told(tmp_path):
    one = commentary(tmp_path, [], film=None, spent=())
    one.report.update(
        error=f"{EVIL} is broken", notes=["a guess"], duration_s=0.0, tokens_per_s_mean=None, real_time_factor=None
    )
    tags = Tags(commentary_page([one]).html)
    assert f"{EVIL} is broken" in " ".join(tags.text)
    assert "Note: a guess" in tags.text
    assert "There is no picture to show." in tags.text
    assert not tags.named("video")
    assert not tags.named("svg")


def test_a_notebook_shows_it_in_a_frame_and_a_file_keeps_it(tmp_path):
    shown = Page("a & b", "<!doctype html>\n<p title=\"x\">1 < 2 & 'y'</p>")
    (frame,) = Tags(shown._repr_html_()).named("iframe")
    assert (frame["title"], frame["srcdoc"]) == (shown.title, shown.html)
    shown.save(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == shown.html


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("page")
    film = write_numbered(folder / "real.mp4", count=100)
    one = commentary(folder, words(*SAID))
    one.film.write_bytes(film.read_bytes())
    one.captions.write_text(CAPTIONS, encoding="utf-8")
    return commentary_page([one, commentary(tmp_path_factory.mktemp("other"), [], name="silent", film=None)])


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the page is looked at through playwright")
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


@in_browser
def test_words_light_up_when_they_are_said(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    assert unsaid(tab) == []  # before it plays, all is there to read
    for at_s, wanted in ((0.3, ["red", "dog", "stops"]), (0.8, ["dog", "stops"]), (3.0, [])):
        tab.evaluate("s => { document.querySelector('video').currentTime = s; }", at_s)
        tab.wait_for_function("s => parseFloat(document.querySelector('.now').style.left) === s * 64", arg=at_s)
        assert unsaid(tab) == wanted
    assert tab.text_content(".heard[aria-live]") == "stops"  # the last phrase, for who does not see


@in_browser
def test_captions_are_there_to_turn_on(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    tab.evaluate("() => { document.querySelector('video').textTracks[0].mode = 'showing'; }")
    tab.wait_for_function("() => document.querySelector('video').textTracks[0].cues?.length === 1")


@in_browser
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


@in_browser
def test_the_timeline_jumps_where_it_is_pressed(tab, shown, tmp_path):
    opened(tab, shown, tmp_path)
    box = tab.locator(".timeline").first.bounding_box()
    tab.mouse.click(box["x"] + 2 * 64, box["y"] + box["height"] - 10)
    assert tab.evaluate("() => document.querySelector('video').currentTime") == pytest.approx(2.0, abs=1 / 64)


@in_browser
@pytest.mark.parametrize("width", [360, 1000])
def test_it_fits_a_phone_and_a_desk(tab, shown, tmp_path, width):
    tab.set_viewport_size({"width": width, "height": 800})
    opened(tab, shown, tmp_path)
    assert tab.evaluate("() => document.documentElement.scrollWidth") <= width


@in_browser
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
