"""A stream on a server as a session: what it says, and a server that is lost before the end."""

import json
import threading
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from launch import commentate
from mmduplex_jax.client.session import remote_commentator
from mmduplex_jax.serving.limits import Limits
from tests.data_pipelines.numbered_video import write_numbered
from tests.serving.scripted_pool import VOICED, tone
from tests.serving.served import TICK_S, ThreadedServer
from tests.written_captions import read_captions

FRAME = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    one = ThreadedServer(limits=Limits(resume_s=0.3))
    yield one
    one.close()


def test_it_says_what_a_session_here_would(server: ThreadedServer):
    session = remote_commentator(server.url, None, realtime=False).session(delay_steps=3)
    words = [word for tick in range(5) for word in session.tick(tick * TICK_S, FRAME).words]
    assert [word.text for word in words + session.finish()] == [f"w{i}" for i in range(5)]
    assert session.error is None


@pytest.mark.parametrize("realtime", [False, True])
def test_a_sentence_that_a_cut_ends_is_closed_as_one_here_is(
    server: ThreadedServer, realtime: bool, tmp_path: Path, capsys
):
    server.pool.cuts, server.pool.ends_sentence = {4}, False
    server.pool.says = lambda tick, _: {1: ["red"], 2: ["car"], 5: ["person"]}.get(tick, [])
    # (In real time a busy machine drops pictures: six of twenty ticks are enough.)
    clip = write_numbered(tmp_path / "a.mp4", count=32, rate=10)
    captions, report = tmp_path / "a.vtt", tmp_path / "a.json"
    flags = [f"--server={server.url}", f"--source={clip}", f"--out={captions}", f"--json={report}"]
    assert commentate.main(flags + ["--realtime"] * realtime) == 0
    said = [line.split("] ")[1].split("   ")[0] for line in capsys.readouterr().out.splitlines() if line[:1] == "["]
    assert said == ["Red car.", "Person."]
    assert [cue.text for cue in read_captions(captions.read_text())] == ["Red car.", "Person."]
    told = json.loads(report.read_text())["words"]
    (seat,) = server.pool.all_seats
    scene_s = pytest.approx(seat.frames[4][0], abs=1e-4)
    assert [(word["text"], word.get("scene_s")) for word in told] == [("red", None), ("car", None), ("person", scene_s)]


def test_a_scene_ends_where_the_clock_is_set_back_to_a_time_before_it(server: ThreadedServer):
    server.pool.cuts, server.pool.says = {2}, lambda tick, _: ["red"] * (tick == 3)
    session = remote_commentator(server.url, None, realtime=False).session(delay_steps=3)
    scenes = [session.tick(tick * TICK_S, FRAME).scene_s for tick in (40, 41, 42, 43, 0, 1)]
    assert scenes == [None, None, pytest.approx(42 * TICK_S), pytest.approx(42 * TICK_S), None, None]
    session.finish()


def test_a_server_s_model_is_heard_as_one_here_would_be(tmp_path: Path, capsys):
    server = ThreadedServer(facts=VOICED)
    try:
        model = remote_commentator(server.url, None, realtime=False)
        assert model.sample_rate_hz == 16_000
        session = model.session(delay_steps=3, speaking=True)
        results = [session.tick(tick * TICK_S, FRAME) for tick in range(4)]
        session.finish()
        assert [[piece.step for piece in result.sound] for result in results] == [[0, 1], [2, 3], [4, 5], [6, 7]]
        assert results[1].sound[0].t_s == pytest.approx(3 * VOICED.clock.step_s)
        np.testing.assert_allclose(results[3].sound[1].samples, tone(7), atol=1 / 32767)
        clip = write_numbered(tmp_path / "a.mp4", images=[np.full((64, 64, 3), 4 * i, np.uint8) for i in range(30)])
        speech = tmp_path / "a.wav"
        assert commentate.main([f"--server={server.url}", f"--source={clip}", f"--speech={speech}"]) == 0, capsys
        with wave.open(str(speech)) as file:
            samples = np.frombuffer(file.readframes(file.getnframes()), np.int16) / 32767
            assert file.getframerate() == 16_000
        # It begins at the end of the first step, and has no gap.
        assert not samples[:1280].any()
        np.testing.assert_allclose(samples[1280 : 1280 * 5], np.tile(tone(0), 4), atol=2e-4)
    finally:
        server.close()


@pytest.mark.parametrize("realtime", [False, True])
def test_a_server_that_is_lost_at_the_end_is_an_error_with_what_was_said(server: ThreadedServer, realtime: bool):
    session = remote_commentator(server.url, None, realtime=realtime).session(delay_steps=3)
    words = []
    for tick in range(4):
        words += session.tick(tick * TICK_S, FRAME).words
    server.kill()
    words += session.finish()
    assert [word.text for word in words] == [f"w{i}" for i in range(len(words))]
    assert words or realtime
    assert "cannot be reached" in str(session.error)


def test_commentate_tells_of_a_server_that_is_lost_near_the_end(server: ThreadedServer, tmp_path: Path, capsys):
    """Nothing was told of it: exit 0, and null for the error."""
    clip = write_numbered(tmp_path / "a.mp4", images=[np.full((64, 64, 3), 4 * i, np.uint8) for i in range(30)])
    report = tmp_path / "report.json"
    threading.Timer(0.8, server.kill).start()
    code = commentate.main([f"--server={server.url}", f"--source={clip}", f"--json={report}", "--realtime"])
    assert code == 1
    assert "cannot be reached" in capsys.readouterr().err
    told = json.loads(report.read_text())
    assert "cannot be reached" in told["error"]
    assert told["words"]
