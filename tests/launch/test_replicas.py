"""Three server processes behind HAProxy: restarted one after the other and killed, and the words are those of one."""

import asyncio
import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmduplex_jax.client import Word, connect

CONFIG = Path(__file__).resolve().parents[2] / "launch" / "cluster" / "haproxy.cfg"
PATIENCE_S = 300.0
TICK_S, EVERY_S = 0.16, 0.1

needs_haproxy = pytest.mark.skipif(shutil.which("haproxy") is None, reason="HAProxy is not installed")


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def local_config(ports: list[int], front: int) -> str:
    """The shipped configuration with this machine's addresses in place of the cluster's."""
    text = CONFIG.read_text(encoding="utf-8").replace("bind :8080", f"bind 127.0.0.1:{front}")
    for i, port in enumerate(ports):
        address = f"serve-{i}.serve.default.svc.cluster.local:8080"
        assert address in text
        text = text.replace(address, f"127.0.0.1:{port}")
    return text


@needs_haproxy
def test_haproxy_takes_the_configuration(tmp_path: Path):
    for name, text in (("shipped", CONFIG.read_text(encoding="utf-8")), ("local", local_config([1, 2, 3], 8080))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        checked = subprocess.run(
            ["haproxy", "-c", "-f", str(tmp_path / name)], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
        # (Of the cluster's names, which this machine does not know, it says that they are looked up later.)
        warnings = [line for line in checked.stderr.splitlines() if "WARNING" in line]
        assert all("could not resolve address 'serve-" in line for line in warnings), warnings
        assert len(warnings) == (3 if name == "shipped" else 0)


class Server:
    """A server process; its log is read and thrown away."""

    def __init__(self, name: str, port: int, flags: list[str]):
        self.name, self.port, self._flags = name, port, flags

    def start(self) -> None:
        command = [sys.executable, "-m", "launch.serve", f"--port={self.port}", f"--replica={self.name}", *self._flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def wait_until_it_listens(self) -> None:
        assert self.process.stdout.readline()
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


def until_ready(url: str) -> None:
    """Waits until HAProxy listens and has found a server."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=PATIENCE_S):
                return
        except OSError:  # (an answer of 503 is one, too)
            assert time.monotonic() < deadline_s, "HAProxy finds no server"
            time.sleep(0.1)


@contextlib.contextmanager
def cluster(folder: Path, checkpoint: Path) -> Iterator[tuple[list[Server], str]]:
    *ports, front = free_ports(4)
    flags = [f"--checkpoint={checkpoint}", f"--handover_dir={folder}", "--max_sessions=4", "--snapshot_s=1"]
    servers = [Server(f"serve-{i}", port, flags) for i, port in enumerate(ports)]
    for one in servers:
        one.start()
    for one in servers:
        one.wait_until_it_listens()
    (folder / "haproxy.cfg").write_text(local_config(ports, front), encoding="utf-8")
    proxy = subprocess.Popen(["haproxy", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    try:
        until_ready(f"http://127.0.0.1:{front}")
        yield servers, f"http://127.0.0.1:{front}"
    finally:
        proxy.terminate()
        proxy.wait(PATIENCE_S)
        for one in servers:
            one.process.kill()
            one.process.wait(PATIENCE_S)


async def watch(url: str, seed: int, ticks: int, every_s: float = 0.0, enough: asyncio.Event | None = None):
    """The words of a stream, the stream, and how many ticks it had: `ticks`, or until it is enough."""
    frames = np.random.default_rng(seed).integers(0, 256, (32, 64, 64, 3), dtype=np.uint8)
    async with connect(url, mode="file", pad_bias=-2.0) as stream:

        async def show() -> int:
            tick = 0
            while tick < ticks and not (enough is not None and enough.is_set()):
                await stream.send(tick * TICK_S, frames[tick % len(frames)])
                await asyncio.sleep(every_s)
                tick += 1
            await stream.end()
            return tick

        showing = asyncio.create_task(show())
        words = [event async for event in stream if isinstance(event, Word)]
        return words, stream, await showing


@pytest.mark.slow
@needs_haproxy
def test_streams_behind_haproxy_go_on_through_restarts_and_kills(portable_dir: Path, tmp_path: Path):
    async def test(servers: list[Server], url: str) -> None:
        enough = asyncio.Event()
        watching = [asyncio.create_task(watch(url, seed, 100_000, EVERY_S, enough)) for seed in range(4)]
        for one, number, code in zip(servers, (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL), (0, 0, -9)):
            await asyncio.sleep(4)
            assert await asyncio.to_thread(one.end, number) == code
            one.start()
            await asyncio.to_thread(one.wait_until_it_listens)
        await asyncio.sleep(4)
        enough.set()
        moved = 0
        for seed, task in enumerate(watching):
            words, stream, ticks = await task
            expected, *_ = await watch(url, seed, ticks)
            assert len(words) > ticks / 10
            assert words == expected
            assert (stream.missing, stream.doubled) == (0, 0)
            moved += stream.reconnections
        assert moved >= 4

    with cluster(tmp_path, portable_dir) as (servers, url):
        asyncio.run(asyncio.wait_for(test(servers, url), 2 * PATIENCE_S))
