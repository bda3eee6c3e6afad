"""A stream on a server as a session: what it says, and a server that is lost before the end."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from launch import commentate
from mmduplex_jax.client.session import remote_commentator
from mmduplex_jax.serving.limits import Limits
from tests.data_pipelines.numbered_video import write_numbered
from tests.serving.served import TICK_S, ThreadedServer

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
