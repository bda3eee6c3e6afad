"""What a stream takes of its host is counted whole, and its server's model does nothing."""

import json
import os
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest

from benchmarks import serving, serving_host
from benchmarks.turns import cpu_s
from data_pipelines.decode import VideoReader
from data_pipelines.world import WorldConfig
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.clock import Clock
from mmduplex_jax.serving.protocol import parse_frame


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> serving_host.Film:
    """Six seconds or more, of a clip of four and a half."""
    folder = tmp_path_factory.mktemp("film")
    clip = write_clip_files(folder, WorldConfig(clip_s=4.5), 0, 0, size_px=32).video
    return serving_host.film(clip, folder, (64, 48, 50_000), 6.0)


def test_a_film_is_as_long_as_asked_for_and_goes_on(film: serving_host.Film):
    ticks = [t_s for _, t_s, _ in VideoReader(film.path, Clock(), 16)]
    assert ticks == pytest.approx(np.arange(len(ticks)) * Clock().tick_s)
    assert ticks[-1] == pytest.approx(film.length_s, abs=1.5 * Clock().tick_s)
    assert film.length_s >= 6.0
    packets = list(serving_host._packets(film))
    assert len(packets) == pytest.approx(film.length_s * serving_host.FPS)
    assert packets[0][1].is_keyframe
    assert [t_s for t_s, _ in packets] == pytest.approx(np.arange(len(packets)) / serving_host.FPS, abs=1e-4)


def test_a_jpeg_a_tick(film: serving_host.Film):
    times_s, messages = zip(*serving_host.jpegs(film, Clock(), (16, 16)))
    messages = [parse_frame(message) for message in messages]
    assert times_s == pytest.approx([message.t_s for message in messages], abs=1e-6)
    assert [message.t_s for message in messages] == pytest.approx(np.arange(len(messages)) * Clock().tick_s, abs=1e-6)
    assert {message.codec for message in messages} == {"jpeg"}


def test_processes_are_counted():
    before_s = cpu_s(os.getpid())
    while time.process_time() < before_s + 0.05:
        pass
    assert cpu_s(os.getpid()) > before_s
    assert serving_host.private_bytes(os.getpid()) > 10**6
    assert os.getpid() not in serving_host.decoders_of(os.getpid())


def test_a_model_that_does_nothing_reports_every_slot():
    class Output(NamedTuple):
        token: Any
        report: Any

    class Model:
        config = None

        def live_step(self, params, state, frame, *, cap):
            return state + 1, Output(state.astype(int) + 7, {"valid": frame > cap})

    idle = serving_host.Idle(Model())
    step = jax.jit(lambda state, frame: idle.live_step({}, state, frame, cap=np.zeros(3, np.int32)))
    state, output = step(np.zeros(3, np.float32), np.zeros(3, np.int32))
    assert np.array_equal(state, np.zeros(3))
    assert np.array_equal(output.token, np.zeros(3))
    assert output.report["valid"].dtype == bool
    assert output.report["valid"].all()


@pytest.mark.slow
def test_a_short_run_counts_every_way_to_send(tmp_path):
    path = tmp_path / "host.json"
    assert serving.main(["--parts=host", "--host_streams=2", "--host_s=2", f"--json={path}"]) == 0
    found = json.loads(path.read_text())["host"]["sent"]
    assert set(found) == {
        "jpeg",
        *(f"{way} {size}" for way in ("webrtc", "source") for size in ("640x360", "1280x720")),
    }
    for row in found.values():
        assert row["server_cores"] > 0
        assert row["decoder_cores"] > 0
        assert row["out_bytes_per_s"] > 100
        assert row["in_bytes_per_s"] > 1000
