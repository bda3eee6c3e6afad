"""Live sources of every protocol end in order when they stall, and without a clock they are timed by their arrival."""

import http.server
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest

from data_pipelines.decode import VideoReader
from data_pipelines.video_source import VideoError
from mmduplex_jax.interruptible import run_interruptibly
from mmduplex_jax.streaming.frame_feed import FrameFeed
from mmduplex_jax.streaming.runtime import Runtime
from tests.data_pipelines.numbered_video import CLOCK, SIDE_PX, number_in, numbered_image, write_numbered
from tests.streaming.scripted_stream import FRAME_PX, script, session

CAMERA_HZ = 10


@pytest.fixture(scope="module")
def segment(tmp_path_factory) -> bytes:
    return write_numbered(tmp_path_factory.mktemp("segment") / "a.ts", count=25, options={"g": "25"}).read_bytes()


@pytest.fixture
def port(segment: bytes) -> Iterator[int]:
    """An HTTP server of a playlist without end whose next segment never comes, and of a camera of Motion JPEG."""
    gone = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_) -> None:
            """Tests are quiet."""

        def do_GET(self) -> None:
            self.send_response(200)
            if self.path == "/camera":
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                number = 0
                while not gone.wait(1 / CAMERA_HZ):
                    jpeg = cv2.imencode(".jpg", numbered_image(number))[1].tobytes()
                    number += 1
                    try:
                        head = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(jpeg)
                        self.wfile.write(head + jpeg + b"\r\n")
                    except OSError:
                        return
                return
            playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\na.ts\n"
            body = playlist.encode() if self.path.endswith("m3u8") else segment
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server.server_address[1]
    gone.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def stalled(segment: bytes) -> Iterator[str]:
    """A `tcp://` address that sends a second of video, and then nothing for ever."""
    listening = socket.create_server(("127.0.0.1", 0))
    held = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            held.append(connection)
            connection.sendall(segment)

    threading.Thread(target=serve, daemon=True).start()
    yield f"tcp://127.0.0.1:{listening.getsockname()[1]}"
    listening.close()
    for connection in held:
        connection.close()


@pytest.mark.parametrize("protocol", ["tcp", "hls"])
def test_a_stalled_source_ends_when_its_time_is_over(protocol: str, stalled: str, port: int):
    source = stalled if protocol == "tcp" else f"http://127.0.0.1:{port}/live.m3u8"
    started_s = time.monotonic()
    with VideoReader(source, CLOCK, FRAME_PX) as reader:
        assert reader.info.endless
        report = Runtime(session(script({2: "red"}, 60)), reader, []).run(stop_after_s=1.5)
    assert time.monotonic() - started_s < 60.0  # it would stand still for ever
    assert report["ticks"] >= CLOCK.ticks_in(0.7)
    assert [word["text"] for word in report["words"]] == ["red"]
    assert any("the source stood still when 1.5 s were over" in note for note in report["notes"])


def test_a_stalled_source_ends_when_it_is_stopped(stalled: str):
    with VideoReader(stalled, CLOCK, FRAME_PX) as reader:
        runtime = Runtime(session(script({}, 8)), reader, [])
        threading.Timer(0.5, runtime.stop).start()
        started_s = time.monotonic()
        runtime.run()
        assert time.monotonic() - started_s < 60.0
    assert runtime.stopped


def test_a_reader_is_closed_under_the_thread_that_reads_it(tmp_path: Path):
    path = write_numbered(tmp_path / "a.mp4", count=100)
    for wait_s in (0.0, 0.002, 0.02):
        reader = VideoReader(path, CLOCK, SIDE_PX)
        thread = threading.Thread(target=lambda ticks: list(ticks), args=[reader.ticks()])
        thread.start()
        time.sleep(wait_s)
        reader.close()
        thread.join(timeout=60.0)
        assert not thread.is_alive()


def test_a_camera_without_a_clock_is_timed_by_arrival(port: int):
    with VideoReader(f"http://127.0.0.1:{port}/camera", CLOCK, SIDE_PX) as reader:
        feed = FrameFeed(reader, realtime=False, max_waiting=12, lag_max_s=1.0)
        feed.end_after_s = 1.5
        begun_s, ticks = time.monotonic(), []
        for tick in feed:
            ticks.append(tick)
            if tick.t_s >= 1.5:
                break
        took_s = time.monotonic() - begun_s
        feed.close()
    assert reader.info.live
    assert reader.info.rate_hz is None
    assert any("the time at which it arrived" in note for note in reader.info.notes)
    # What libav had read while it guessed comes at once; from there on a second holds ten pictures, not 25, of which as
    # much would take 3.75 s.
    assert 0.9 < took_s < 3.0
    seen = [number_in(tick.frame) for tick in ticks if 0.4 < tick.t_s < 1.4]
    assert seen[-1] - seen[0] == pytest.approx(CAMERA_HZ * CLOCK.tick_s * (len(seen) - 1), abs=2)


def test_an_address_that_says_nothing_is_an_error_in_time(monkeypatch):
    monkeypatch.setattr("data_pipelines.video_source._OPEN_TIMEOUT_S", 0.5)
    error = pytest.raises(VideoError, match="no data came in time")
    with socket.create_server(("127.0.0.1", 0)) as listening, error:
        VideoReader(f"tcp://127.0.0.1:{listening.getsockname()[1]}", CLOCK, FRAME_PX)


def test_ctrl_c_ends_a_wait_at_once():
    release = threading.Event()
    interrupt = threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    started_s = time.monotonic()
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        run_interruptibly(release.wait, "waits")
    assert time.monotonic() - started_s < 60.0  # nothing releases it
    release.set()


def test_what_is_waited_for_returns_and_raises():
    assert run_interruptibly(lambda: 7, "returns") == 7
    with pytest.raises(ZeroDivisionError):
        run_interruptibly(lambda: 1 / 0, "raises")
