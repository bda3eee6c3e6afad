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
from tests.serving.scripted_pool import FACTS, VOICED, ScriptedPool
from tests.serving.served import ThreadedServer
from tests.written_captions import read_captions

# A browser starts in seconds and a stream runs in real time.
pytestmark = pytest.mark.browser

# A camera and a screen that Chromium makes up; a browser that gives them, and one that refuses them.
MADE_UP = "--use-fake-device-for-media-stream"
ALLOWED = (MADE_UP, "--use-fake-ui-for-media-stream", "--auto-select-desktop-capture-source=Entire screen")
HEARD = "document.getElementById('heard')"
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
def test_a_sentence_that_a_cut_ends_is_closed_on_the_page(browsers, server: ThreadedServer, way: str):
    with opened(browsers, server) as page:
        pool = server.pool
        later: list[str] = []
        says, pool.says = pool.says, lambda tick, _: {1: ["red"], 2: ["car"]}.get(tick) or [later.pop() for _ in later]
        pool.cuts, pool.ends_sentence = {3}, False
        try:
            page.get_by_text("More", exact=True).click()
            page.get_by_label("Cameras and screens go by").select_option(way)
            watch(page, "Camera")
            # Though nothing else is said.
            until(page, f"{HEARD}.textContent === 'Red car.'")
            assert page.locator("#transcript li").inner_text().endswith("Red car.")
            # It was read aloud, and is not once more where the next one begins.
            page.evaluate(f"new MutationObserver(() => window.again = true).observe({HEARD}, {{ childList: true }})")
            later.append("person")
            said(page, 3)
            assert not page.evaluate("window.again")
            page.get_by_role("button", name="Stop").click()
            playwright.expect(page.get_by_role("status").first).to_have_text("Not watching")
            until(page, f"window.again && {HEARD}.textContent === 'Person.'")
            lines = page.locator("#transcript li").all_inner_texts()
            assert [line.split(maxsplit=1)[1] for line in lines] == ["Red car.", "Person."]
        finally:
            pool.says, pool.cuts, pool.ends_sentence = says, set(), None


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


def test_what_is_ordered_while_a_stream_moves_is_ordered_again(browsers, server: ThreadedServer):
    with opened(browsers, server) as page:
        watch(page, "Built-in world")
        said(page, 3)
        (session,) = [one for one in server.sessions if one.ended is None]
        (seat,), dropped = server.pool.all_seats, []

        async def drop(order: str) -> None:
            dropped.append(order)

        session.order = drop
        page.evaluate("page.stream.connection.order('reset')")
        page.evaluate("document.getElementById('video').pause()")
        until(page, lambda: "pause" in dropped)
        del session.order
        server.cut()
        until(page, lambda: "pause" in seat.calls)
        assert "reset" in dropped
        counted = "page.stream.connection.resets"
        until(page, lambda: seat.calls.count("reset") == session.resets == page.evaluate(counted))
        session.order = drop
        page.get_by_role("button", name="Stop").click()
        until(page, lambda: "end" in dropped)
        del session.order
        server.cut()
        until(page, lambda: session.ended is not None)
        assert session.ended[0] == "end"


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


@pytest.fixture(scope="module")
def voiced_server() -> Iterator[ThreadedServer]:
    server = ThreadedServer(limits=Limits(gap_s=60.0), facts=VOICED)
    yield server
    server.close()


@pytest.fixture
def voiced(voiced_server: ThreadedServer) -> Iterator[ThreadedServer]:
    """A server whose model says a tone, with no stream on it."""
    yield voiced_server
    voiced_server.pool.sounds = True
    voiced_server.begin_anew()


def test_the_voice_is_muted_until_it_is_turned_on_and_heard_in_step_with_the_captions(browsers, voiced: ThreadedServer):
    with opened(browsers, voiced) as page:
        watch(page, "Built-in world")
        said(page, 3)
        (seat,) = voiced.pool.all_seats
        playwright.expect(page.locator("#volume-value")).to_have_text("muted")
        assert not seat.speaking
        assert page.evaluate("[page.player.muted, page.player.received, page.player.sound]") == [True, 0, None]
        page.locator("#delay").focus()
        for name in ("volume", "mute"):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement.id") == name
        page.get_by_role("button", name="Turn the voice on").click()
        playwright.expect(page.locator("#volume-value")).to_have_text("70 %")
        until(page, "page.player.sound.schedule.played > 10")
        assert seat.speaking
        until(page, "page.player.level() > 0.02")
        assert page.evaluate("page.player.sound.context.sampleRate") == VOICED.sample_rate_hz
        # What is heard is a little behind the picture, and the caption is of what is heard.
        until(page, "page.player.heardS() !== null")
        behind_s = page.evaluate("page.stream.nowS() - page.player.heardS()")
        assert -0.5 < behind_s < 1.0
        until(page, "/w/.test(document.getElementById('caption').textContent)")
        page.get_by_label("Volume of the voice").fill("0")
        playwright.expect(page.locator("#volume-value")).to_have_text("0 %")
        until(page, "page.player.level() < 0.001")
        # Under overload it is silent, and the page says why.
        voiced.pool.sounds = False
        playwright.expect(page.get_by_role("alert")).to_contain_text("the voice is silent for now")
        voiced.pool.sounds = True
        playwright.expect(page.get_by_role("alert")).not_to_contain_text("the voice is silent")
        # It goes on over a dropped connection.
        voiced.cut()
        until(page, "page.stream.connection.reconnections === 1")
        received = page.evaluate("page.player.received")
        until(page, f"page.player.received > {received} + 4")
        page.get_by_role("button", name="Turn the voice off").click()
        playwright.expect(page.locator("#volume-value")).to_have_text("muted")
        until(page, lambda: not seat.speaking)
        assert page.evaluate("page.player.sound") is None


def test_the_voice_is_heard_over_webrtc(browsers, voiced: ThreadedServer):
    with opened(browsers, voiced) as page:
        page.get_by_text("More").click()
        page.get_by_label("Cameras and screens go by").select_option("webrtc")
        page.get_by_role("button", name="Turn the voice on").click()
        watch(page, "Camera")
        said(page, 3)
        until(page, "page.player.level() > 0.02")
        assert page.evaluate("[page.stream.connection.way, page.player.received]") == ["webrtc", 0]
        assert voiced.pool.all_seats[0].speaking


# Renders what a player makes of a tone in pieces, of which some are missing or too loud, into samples.
RENDERED = """
async ({ pieces, nowS, limited }) => {
  const { Schedule, limiter } = await import("/static/player.js");
  const context = new OfflineAudioContext(1, 32000, 16000);
  let destination = context.destination;
  if (limited) {
    const { input, output } = limiter(context);
    output.connect(context.destination);
    destination = input;
  }
  const schedule = new Schedule(context, destination, 16000, () => nowS);
  for (const { step, loud, continues } of pieces) {
    const samples = Float32Array.from({ length: 1280 }, (_, i) => loud * Math.sin((2 * Math.PI * 500 * i) / 16000));
    schedule.add({ tS: 0.08 * (step + 1), samples, continues });
  }
  const rendered = await context.startRendering();
  const { played, late, gaps } = schedule;
  return { samples: [...rendered.getChannelData(0)], played, late, gaps };
}
"""


def rendered(page, steps: list[int], *, loud: float = 0.3, now_s: float = 0.08, limited: bool = False) -> dict:
    pieces = [
        {"step": step, "loud": loud, "continues": i > 0 and steps[i - 1] == step - 1} for i, step in enumerate(steps)
    ]
    return page.evaluate(RENDERED, {"pieces": pieces, "nowS": now_s, "limited": limited})


def test_pieces_are_joined_and_gaps_do_not_click(browsers, voiced: ThreadedServer):
    jump = 1.1 * 0.3 * 2 * np.pi * 500 / 16_000
    with opened(browsers, voiced) as page:
        whole = rendered(page, [0, 1, 2, 3])
        samples = np.array(whole["samples"])
        assert [whole[name] for name in ("played", "late", "gaps")] == [4, 0, 1]
        # 0.1 s after it came, for it was just its time; then all of it, sample by sample.
        said_samples = np.tile(0.3 * np.sin(2 * np.pi * 500 * np.arange(1280) / 16_000), 4)
        np.testing.assert_allclose(samples[1600 + 80 : 1600 + 5120 - 80], said_samples[80:-80], atol=1e-4)
        assert not samples[:1600].any()
        assert not samples[1600 + 5120 :].any()
        torn = rendered(page, [0, 1, 3, 4])
        assert [torn[name] for name in ("played", "late", "gaps")] == [4, 0, 2]
        for one in (whole, torn):
            assert np.abs(np.diff(one["samples"])).max() <= jump
        # What is half a second too old is left out, and so is what more than 0.6 s wait before.
        assert [rendered(page, [0, 1], now_s=9.0)[name] for name in ("played", "late")] == [0, 2]
        many = rendered(page, list(range(20)))
        assert many["played"] + many["late"] == 20
        assert 6 <= many["played"] <= 9
        assert np.abs(np.diff(many["samples"])).max() <= jump


def test_nothing_is_louder_than_it_may_be(browsers, voiced: ThreadedServer):
    with opened(browsers, voiced) as page:
        # (A compressor looks ahead by some milliseconds; its ends are left out.)
        soft, loud, far_too_loud = (
            np.abs(rendered(page, [0, 1, 2, 3, 4, 5], loud=loud, limited=True)["samples"]) for loud in (0.1, 1.0, 30.0)
        )
        assert soft.max() == pytest.approx(0.1, rel=0.1)
        assert 0.2 < loud[4000:8000].max() < 0.5
        assert far_too_loud.max() <= 0.7 + 1e-3


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
