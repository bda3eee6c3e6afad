"""The page in a real browser: what is watched, what is said, and what it says when something goes wrong."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.geometry import frame_in_picture
from mmduplex_jax.serving.limits import Limits
from tests import browser
from tests.browser import chromium, playwright, until
from tests.data_pipelines.numbered_video import write_numbered
from tests.serving.scripted_pool import FACTS, ScriptedPool
from tests.serving.served import ThreadedServer
from tests.written_captions import read_captions

# A browser starts in seconds and a stream runs in real time.
pytestmark = pytest.mark.browser

# A camera and a screen that Chromium makes up; a browser that gives them, and one that refuses them.
MADE_UP = "--use-fake-device-for-media-stream"
ALLOWED = (MADE_UP, "--use-fake-ui-for-media-stream", "--auto-select-desktop-capture-source=Entire screen")
TOKEN = "a-secret-of-more-than-16"


@pytest.fixture(scope="module")
def browsers() -> Iterator[dict[bool, object]]:
    """By whether it gives cameras."""
    with chromium(ALLOWED, [MADE_UP]) as (allowing, refusing):
        yield {True: allowing, False: refusing}


def opened(browsers, server: ThreadedServer, *, camera: bool = True, **arguments):
    """A page of the server. What the browser says of a dropped connection is no fault of the page."""
    arguments = {"accept_downloads": True, "reduced_motion": "reduce"} | arguments
    return browser.opened(browsers[camera], server.url, forgiven=("401", "WebSocket"), **arguments)


@pytest.fixture(scope="module")
def shared_server() -> Iterator[ThreadedServer]:
    """One server, so that the world is filmed once."""
    # A browser on a busy machine may hang for seconds, and time jumps over what is longer than a gap may be.
    server = ThreadedServer(limits=Limits(gap_s=60.0))
    yield server
    server.close()


@pytest.fixture
def server(shared_server: ThreadedServer) -> Iterator[ThreadedServer]:
    """The server with no stream on it, and its model in good health."""
    yield shared_server
    shared_server.begin_anew()


def watch(page, source: str) -> None:
    page.get_by_label(source, exact=True).check(force=True)
    page.get_by_role("button", name="Watch").click()


def words(page) -> list[str]:
    return page.evaluate("page.stream.words.all.map((word) => word.text)")


def said(page, number: int) -> None:
    """Waits until so many words were said."""
    until(page, f"page.stream?.words.all.length >= {number}")


def test_overlays_lie_where_the_server_says_that_the_model_looks(browsers, server: ThreadedServer):
    place = "async (given) => (await import('/static/drawing.js')).frameOn(...given)"
    with opened(browsers, server) as page:
        for frame_px in ((72, 128), (128, 72), (64, 64)):
            for size in ((1280, 720), (640, 480), (720, 1280)):
                for fit in ("pad", "crop"):
                    # The picture is shown at twice its size, with room at both sides.
                    at = page.evaluate(place, [[2 * size[0] + 100, 2 * size[1]], size, frame_px, fit])
                    left, top, scale = frame_in_picture(*size, frame_px, fit)
                    expected = {"left": 2 * left + 50, "top": 2 * top, "scale": 2 * scale}
                    assert at == pytest.approx(expected), (frame_px, size, fit)
        assert page.evaluate("async () => (await import('/static/drawing.js')).frameSize(64)") == [64, 64]


def test_the_world_is_watched_and_what_is_said_is_shown(browsers, server: ThreadedServer, tmp_path: Path):
    with opened(browsers, server) as page:
        playwright.expect(page.locator("#model")).to_have_text("a scripted model")
        watch(page, "Built-in world")
        playwright.expect(page.get_by_role("status").first).to_have_text("Watching")
        said(page, 12)
        assert words(page)[:12] == [f"w{i}" for i in range(12)]
        assert page.locator("#transcript li").first.inner_text().split()[1:3] == ["w0", "w1"]
        until(page, "document.getElementById('caption').textContent.includes('w')")
        # A tick of pictures is a tick of the video: what the model saw moves.
        (seat,) = server.pool.all_seats
        times_s = [t_s for t_s, _ in seat.frames]
        np.testing.assert_allclose(np.diff(times_s), FACTS.clock.tick_s, atol=1e-6)
        assert np.std([frame.mean(axis=(0, 1)) for _, frame in seat.frames], axis=0).max() > 0.05
        until(page, "page.overlay.drawn > 0")
        assert int(page.locator("#tokens").inner_text()) > 0
        # It watches from the first picture on.
        assert server.pool.all_seats[0].frames[0][0] < 1.0
        until(page, "document.getElementById('timeline').getAttribute('aria-label').includes('tokens a second')")
        # The sliders work while it runs.
        page.get_by_label("Talkativeness").fill("2")
        page.get_by_label("Delay").fill("1")
        until(page, "page.stream.connection.config.pad_bias === -2")
        playwright.expect(page.locator("#delay-value")).to_have_text("0.08 s")
        until(page, lambda: any("configure 1 -2" in call for call in seat.calls))
        page.get_by_role("button", name="Stop").click()
        playwright.expect(page.get_by_role("status").first).to_have_text("Not watching")
        everything = words(page)
        for kind in ("vtt", "srt", "json"):
            with page.expect_download() as download:
                page.get_by_role("button", name=kind.upper()).click()
            download.value.save_as(tmp_path / f"words.{kind}")
        assert [word["text"] for word in json.loads((tmp_path / "words.json").read_text())["words"]] == everything
        for kind in ("vtt", "srt"):
            cues = read_captions((tmp_path / f"words.{kind}").read_text())
            assert [text for cue in cues for text, _ in cue.words] == everything
            assert all(cue.end_s > cue.start_s for cue in cues)


def test_a_file_is_watched_to_its_end_in_its_own_time(browsers, server: ThreadedServer, tmp_path: Path):
    clip = write_numbered(tmp_path / "clip.mp4", count=100)
    with opened(browsers, server) as page:
        page.get_by_label("File", exact=True).check(force=True)
        page.get_by_role("button", name="Watch").click()
        playwright.expect(page.get_by_role("alert")).to_contain_text("Choose a video file first")
        page.get_by_label("Video file").set_input_files(clip)
        page.get_by_role("button", name="Watch").click()
        said(page, 1)
        playwright.expect(page.get_by_role("status").first).to_have_text("Not watching")
        (seat,) = server.pool.all_seats
        # How many of its pictures a busy machine gets to is not judged; each has its own time in the file.
        ticks = [round(t_s / FACTS.clock.tick_s) for t_s, _ in seat.frames]
        assert ticks == list(range(ticks[0], ticks[-1] + 1)), seat.calls
        assert ticks[-1] <= FACTS.clock.tick_at(4.0)
        assert seat.calls[-1] == "leave True"
        assert words(page) == [f"w{i}" for i in range(len(ticks))]


def test_a_file_that_is_no_video_is_said_to_be_none(browsers, server: ThreadedServer, tmp_path: Path):
    (tmp_path / "notes.mp4").write_text("no video " * 50)
    with opened(browsers, server) as page:
        page.get_by_label("File", exact=True).check(force=True)
        page.get_by_label("Video file").set_input_files(tmp_path / "notes.mp4")
        page.get_by_role("button", name="Watch").click()
        playwright.expect(page.get_by_role("alert")).to_contain_text("notes.mp4 cannot be played")
        playwright.expect(page.get_by_role("button", name="Watch")).to_be_enabled()


@pytest.mark.parametrize("way", ["websocket", "webrtc"])
def test_a_camera_is_watched(browsers, server: ThreadedServer, way: str):
    with opened(browsers, server) as page:
        page.get_by_text("More").click()
        page.get_by_label("Cameras and screens go by").select_option(way)
        watch(page, "Camera")
        said(page, 10)
        assert words(page)[:10] == [f"w{i}" for i in range(10)]
        assert page.evaluate("page.stream.connection.way") == way
        (seat,) = server.pool.all_seats
        ticks = [round(t_s / FACTS.clock.tick_s) for t_s, _ in seat.frames]
        assert ticks == sorted(set(ticks))
        # Chromium's fake camera is green, with a disc and a clock.
        assert np.mean([frame[..., 1].mean() for _, frame in seat.frames]) > 60
        page.get_by_role("button", name="Stop").click()
        playwright.expect(page.get_by_role("status").first).to_have_text("Not watching")
        # The camera's light goes out.
        assert page.evaluate("document.getElementById('video').srcObject") is None


@pytest.mark.parametrize("way", ["WebRTC", "WebSocket"])
def test_a_page_that_is_left_gives_its_seat_back(browsers, server: ThreadedServer, way: str):
    with opened(browsers, server) as page:
        page.get_by_text("More", exact=True).click()
        page.get_by_label("Cameras and screens go by").select_option(way)
        watch(page, "Camera")
        said(page, 2)
        page.goto("about:blank")
        # (The server keeps a stream that is lost for 30 s.)
        left_s = time.monotonic()
        until(page, lambda: not server.pool.seats)
        assert time.monotonic() - left_s < 10.0


def test_the_invitation_is_one_line(browsers, server: ThreadedServer):
    with opened(browsers, server) as page:
        box = page.locator("#invitation > *").bounding_box()
        assert box["height"] < 40
        assert box["width"] > 200


def test_where_webrtc_fails_the_websocket_takes_over_and_the_page_says_so(browsers, server: ThreadedServer):
    with opened(browsers, server) as page:
        page.evaluate(
            "() => { RTCPeerConnection.prototype.setRemoteDescription = async () => { throw new Error('blocked'); }; }"
        )
        watch(page, "Camera")
        said(page, 4)
        playwright.expect(page.get_by_role("alert")).to_contain_text("WebRTC did not connect (blocked)")
        assert page.evaluate("page.stream.connection.way") == "websocket"


def test_a_refused_camera_is_explained(browsers, server: ThreadedServer):
    with opened(browsers, server, camera=False) as page:
        watch(page, "Camera")
        playwright.expect(page.get_by_role("alert")).to_contain_text("does not let this page see the camera")
        playwright.expect(page.get_by_role("button", name="Watch")).to_be_enabled()
        assert not server.pool.all_seats


def test_a_dropped_connection_is_said_and_no_word_is_lost(browsers, server: ThreadedServer):
    with opened(browsers, server) as page:
        watch(page, "Built-in world")
        said(page, 5)
        server.cut()
        playwright.expect(page.get_by_role("alert")).to_contain_text("The connection dropped")
        until(page, "page.stream.connection.reconnections === 1")
        playwright.expect(page.get_by_role("alert")).not_to_contain_text("The connection dropped")
        said(page, 25)
        assert words(page)[:25] == [f"w{i}" for i in range(25)]
        assert len(server.pool.all_seats) == 1


def test_a_server_that_cannot_keep_up_is_said(browsers, server: ThreadedServer):
    with opened(browsers, server) as page:
        watch(page, "Built-in world")
        said(page, 3)
        server.pool.dropped = 7
        server.pool.lag_s = 1.4
        alert = page.get_by_role("alert")
        playwright.expect(alert).to_contain_text("cannot keep up: 7 pictures were left out, and words come 1.4 s after")
        server.pool.lag_s = 0.01
        playwright.expect(alert).not_to_contain_text("cannot keep up")
        server.pool.may_go.clear()
        playwright.expect(alert).to_contain_text("Nothing comes from the server")
        server.pool.may_go.set()


def test_two_pages_watch_at_once(browsers, server: ThreadedServer):
    with opened(browsers, server) as one, opened(browsers, server) as other:
        watch(one, "Built-in world")
        watch(other, "Camera")
        for page in (one, other):
            said(page, 10)
            assert words(page)[:10] == [f"w{i}" for i in range(10)]
        assert len(server.pool.seats) == 2


def test_a_full_server_says_so(browsers):
    server = ThreadedServer(pool=ScriptedPool(slots=1))
    try:
        with opened(browsers, server) as one, opened(browsers, server) as other:
            watch(one, "Camera")
            said(one, 1)
            watch(other, "Camera")
            playwright.expect(other.get_by_role("alert")).to_contain_text("all 1 seats are taken")
            playwright.expect(other.get_by_role("button", name="Watch")).to_be_enabled()
    finally:
        server.close()


def test_a_token_is_asked_for_or_taken_from_the_address(browsers):
    server = ThreadedServer(token=TOKEN)
    try:
        with opened(browsers, server, path=f"/#token={TOKEN}") as page:
            playwright.expect(page.locator("#model")).to_have_text("a scripted model")
            assert TOKEN not in page.url
            watch(page, "Camera")
            said(page, 2)
        with opened(browsers, server) as page:
            page.get_by_label("Token", exact=True).fill(TOKEN)
            page.keyboard.press("Enter")
            playwright.expect(page.locator("#model")).to_have_text("a scripted model")
    finally:
        server.close()


def test_everything_is_reached_by_keyboard_and_has_a_name(browsers, server: ThreadedServer):
    with opened(browsers, server) as page:
        playwright.expect(page.locator("#model")).to_have_text("a scripted model")
        unnamed = page.evaluate(
            """[...document.querySelectorAll('button, input, select, a[href], canvas:not([aria-hidden]), video')]
            .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim()))
            .map((one) => one.outerHTML)"""
        )
        assert unnamed == []
        reached = []
        for _ in range(14):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.id || document.activeElement.value || ''"))
            assert page.evaluate(
                "document.activeElement === document.body || document.activeElement.matches(':focus-visible')"
            )
        for name in ("camera", "start", "talk", "delay", "looks", "transcript"):
            assert name in reached
        # Arrows choose, Enter begins.
        page.locator("input[value=camera]").focus()
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        said(page, 3)
        assert page.evaluate("page.stream.source") == "world"


@pytest.mark.parametrize("size", [(360, 740), (768, 1024), (1440, 900)])
def test_nothing_is_wider_than_the_screen(browsers, server: ThreadedServer, size: tuple[int, int]):
    with opened(browsers, server, size=size) as page:
        watch(page, "Built-in world")
        said(page, 6)
        assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
        # What is watched and said is on the first screen.
        box = page.locator("#screen").bounding_box()
        assert box["y"] + box["height"] <= size[1]
        small = page.evaluate(
            """[...document.querySelectorAll('button, select, #sources label')]
            .filter((one) => one.offsetParent && one.getBoundingClientRect().height < 32).map((one) => one.outerHTML)"""
        )
        assert small == []
        if folder := os.environ.get("SCREENSHOTS"):
            page.wait_for_timeout(6000)
            page.screenshot(path=Path(folder) / f"page_{size[0]}.png", full_page=True)


def test_the_page_names_no_other_place(repository: Path):
    for path in (repository / "mmduplex_jax" / "serving" / "static").iterdir():
        assert not re.search(r"https?://|//[a-z]+\.[a-z]", path.read_text(encoding="utf-8")), path.name
