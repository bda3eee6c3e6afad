"""The whole way: a server process with a model, programs that watch through it, and its end."""

import asyncio
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from launch import commentate, serve
from mmduplex_jax.arena.live import LiveServer, record
from mmduplex_jax.client import Notice, Refused, Stream, Word, connect, info
from mmduplex_jax.commentator import load
from mmduplex_jax.serving.limits import Limits
from tests.data_pipelines.numbered_video import write_numbered
from tests.launch.test_commentate import moving

PATIENCE_S = 120.0


class Served:
    """A server process; `log` is what it wrote so far, an object a line."""

    def __init__(self, process: "subprocess.Popen[str]", url: str):
        self.process, self.url = process, url
        self.log: list[dict] = []
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.log.append(json.loads(line))

    def wait(self) -> int:
        code = self.process.wait(PATIENCE_S)
        self._reading.join(PATIENCE_S)
        return code

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE_S) as answer:
            return answer.read().decode()


@contextlib.contextmanager
def running(*flags: str) -> Iterator[Served]:
    """A server that listens on any free port; it is told to stop at the end."""
    command = [sys.executable, "-m", "launch.serve", "--port=0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        match = re.search(r"(http://127.0.0.1:\d+)/", line)
        assert match, f"{line}{process.stderr.read()}"
        yield Served(process, match.group(1))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(PATIENCE_S)
        process.stdout.close()


@pytest.fixture(scope="module")
def served(portable_dir: Path, tmp_path_factory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("watched")
    write_numbered(folder / "allowed.mp4", images=moving(50))
    flags = ["--max_sessions=3", f"--allow_sources={folder}", "--drain_s=1"]
    with running(f"--checkpoint={portable_dir}", *flags) as server:
        server.folder = folder
        yield server


def test_commentate_through_a_server_says_the_same(served: Served, portable_dir: Path, tmp_path: Path):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(50))
    reports = {}
    for name, model in (("here", f"--checkpoint={portable_dir}"), ("there", f"--server={served.url}")):
        flags = [model, f"--source={clip}", "--pad_bias=-2", f"--json={tmp_path / name}.json"]
        flags += [f"--out={tmp_path / name}.vtt", f"--render={tmp_path / name}.mp4"]
        assert commentate.main(flags) == 0
        reports[name] = json.loads((tmp_path / f"{name}.json").read_text())
    here, there = reports["here"], reports["there"]
    assert len(here["words"]) > 3
    assert there["error"] is None
    assert served.url in there["checkpoint"]
    for name in ("words", "ticks", "tokens_per_s_mean", "tokens_in_any_second_max", "word_lag_p50_s"):
        assert there[name] == here[name], name
    assert (tmp_path / "there.vtt").read_text() == (tmp_path / "here.vtt").read_text()


def test_commentate_through_a_server_in_real_time(served: Served, tmp_path: Path):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(50))
    flags = [f"--server={served.url}", f"--source={clip}", "--pad_bias=-2", "--realtime", f"--json={tmp_path}/r.json"]
    assert commentate.main(flags) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    # How many frames a busy machine drops is not judged; what it says is timed by the clock.
    assert report["error"] is None
    assert all(word["t_emit_s"] >= word["t_video_s"] for word in report["words"])


def test_an_arena_records_what_a_server_says(served: Served, portable_dir: Path, tmp_path: Path):
    async def test() -> None:
        facts = await info(served.url)
        # Other parameters would be another model, whatever it is called.
        model = load(portable_dir)
        assert facts["fingerprint"] == model.fingerprint
        others = jax.tree_util.tree_map(lambda leaf: leaf + 1, model.params)
        assert dataclasses.replace(model, params=others).fingerprint != model.fingerprint
        clip = write_numbered(tmp_path / "a.mp4", images=moving(50))
        recording = await record(LiveServer("mine", served.url), clip, facts)
        assert recording.pictures == model.clock.ticks_in(2.0)
        assert all(emit_s >= t_s for _, t_s, emit_s in recording.words)

    asyncio.run(test())


def test_a_source_that_is_allowed_is_watched_by_the_server_itself(served: Served):
    async def watch(source: str) -> list[str]:
        async with connect(served.url, mode="file", source=source, pad_bias=-2.0) as stream:
            return [event.text async for event in stream if isinstance(event, Word)]

    assert len(asyncio.run(watch(str(served.folder / "allowed.mp4")))) > 3
    for source in (__file__, str(served.folder / ".." / "other.mp4"), "rtsp://127.0.0.1/", "file:///etc/passwd"):
        with pytest.raises(Refused, match="does not watch that source"):
            asyncio.run(watch(source))
    (served.folder / "broken.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(Refused, match="cannot be opened as a video") as caught:
        asyncio.run(watch(str(served.folder / "broken.mp4")))
    assert caught.value.code == "source"
    assert str(served.folder) not in str(caught.value)


def test_many_streams_each_get_their_own_words(served: Served):
    """Three at once, of different pictures, say what each says alone."""
    dice = np.random.default_rng(0)
    px = 64
    videos = [dice.integers(0, 256, (20, px, px, 3), dtype=np.uint8) for _ in range(3)]

    async def watch(frames: np.ndarray) -> list[Word]:
        async with connect(served.url, mode="file", pad_bias=-2.0) as stream:

            async def show() -> None:
                for tick, frame in enumerate(frames):
                    await stream.send(tick * 0.16, frame)
                await stream.end()

            showing = asyncio.create_task(show())
            words = [event async for event in stream if isinstance(event, Word)]
            await showing
            return words

    async def together() -> list[list[Word]]:
        return await asyncio.gather(*(watch(frames) for frames in videos))

    alone = [asyncio.run(watch(frames)) for frames in videos]
    assert asyncio.run(together()) == alone
    assert all(alone)


def test_a_seat_is_free_again_and_more_than_there_are_is_refused(served: Served):
    async def test() -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(3):
                await stack.enter_async_context(connect(served.url))
            with pytest.raises(Refused, match="slots are taken"):
                await stack.enter_async_context(connect(served.url))

    asyncio.run(test())


def test_metrics_show_what_happened(served: Served):
    lines = dict(line.rsplit(" ", 1) for line in served.get("/metrics").splitlines() if not line.startswith("#"))
    assert float(lines["mmduplex_slots"]) == 3
    assert float(lines["mmduplex_recompilations_total"]) == 0
    assert float(lines["mmduplex_step_seconds_count"]) > 0
    assert json.loads(served.get("/healthz")) == {"alive": True}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host=0.0.0.0"], "can be reached from other machines: give --token_file"),
        (["--tls_cert=a.pem"], "go together"),
        (["--max_sessions=0"], "--max_sessions must be at least 1"),
        (["--snapshot_s=0.01"], "--snapshot_s must be 0 or at least 0.1, got 0.01"),
        (["--snapshot_s=nan"], "--snapshot_s must be 0 or at least 0.1, got nan"),
        (["--port=70000"], "--port must be"),
        (["--allow_sources=/no/such/folder"], "there is no file or folder /no/such/folder"),
        (["--limit_idle_s=0"], "--limit_idle_s must be more than 0"),
        (["--checkpoint=a", "--random_init=b"], "two models"),
        (["--lag_max_s=0"], "lag_max_s must be over 0"),
        (["--allow_origins=example.org"], "is no origin"),
    ],
)
def test_what_cannot_be_served_is_one_line_of_error(flags: list[str], said: str, capsys, monkeypatch):
    monkeypatch.delenv("MMDUPLEX_TOKEN", raising=False)
    assert serve.main([*flags, "--only_check_args"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch, capsys):
    path = tmp_path / "token"
    path.write_text("a-secret-of-more-than-16\nand a note\n")
    assert serve.main(["--host=0.0.0.0", f"--token_file={path}", "--only_check_args"]) == 0
    monkeypatch.setenv("MMDUPLEX_TOKEN", "another-secret-of-16")
    assert serve.main(["--host=0.0.0.0", "--only_check_args"]) == 0
    assert serve.main([f"--token_file={path}", f"--operator_token_file={path}", "--only_check_args"]) == 2
    assert "the operator's token is that of the clients" in capsys.readouterr().err
    path.write_text("\n")
    assert serve.main(["--host=0.0.0.0", f"--token_file={path}", "--only_check_args"]) == 2
    assert "first line is empty" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_line_of_error(tmp_path: Path, capsys):
    clip = write_numbered(tmp_path / "a.mp4", images=moving(10))
    assert commentate.main(["--server=http://127.0.0.1:9", f"--source={clip}"]) == 1
    assert "cannot be reached" in capsys.readouterr().err
    assert commentate.main(["--server=http://127.0.0.1:9", "--checkpoint=a", f"--source={clip}"]) == 2
    assert "different models" in capsys.readouterr().err
    assert commentate.main(["--server=127.0.0.1:9", f"--source={clip}"]) == 2


def test_told_to_stop_it_lets_streams_finish_and_exits_cleanly(served: Served):
    """The last test of this server: it ends it."""

    async def hear(stream: Stream, said: list[str]) -> None:
        async for event in stream:
            said.append(event.code if isinstance(event, Notice) else type(event).__name__)

    async def watch() -> list[str]:
        said: list[str] = []
        async with connect(served.url, mode="file", pad_bias=-2.0) as stream:
            for tick in range(10):
                await stream.send(tick * 0.16, np.full((64, 64, 3), 9 * tick, np.uint8))
            served.process.send_signal(signal.SIGTERM)
            with pytest.raises(Refused, match="going down") as caught:
                await hear(stream, said)
            assert caught.value.code == "shutdown"
        return said

    said = asyncio.run(watch())
    assert "draining" in said
    assert said.count("Status") == 10
    assert served.wait() == 0
    events = [line["event"] for line in served.log]
    assert events.index("compiled") < events.index("listening") < events.index("stopping")
    began = [line["session"] for line in served.log if line["event"] == "session began"]
    ended = [line["session"] for line in served.log if line["event"] == "session ended"]
    assert sorted(began) == sorted(ended)
    assert [line["reason"] for line in served.log if line["event"] == "session ended"][-1] == "shutdown"


def test_the_help_names_every_limit_also_without_docstrings():
    command = [sys.executable, "-OO", "-m", "launch.serve", "--help"]
    wide = os.environ | {"COLUMNS": "400"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S, env=wide)
    shown = " ".join(run.stdout.split())
    for field in dataclasses.fields(Limits):
        assert f"--limit_{field.name}" in shown
        assert " ".join(field.metadata["help"].split()) in shown
    assert "the model of real cameras on http://127.0.0.1:8080" in shown
