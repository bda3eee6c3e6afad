"""Streams over several servers behind HAProxy, which are restarted and killed: are the words those of a quiet run?

    python -m benchmarks.replicas --streams=40 --minutes=10 --json=replicas.json

Three servers of one model share a folder, HAProxy stands before them with launch/cluster/haproxy.cfg as it is, but for
addresses. Clients show pictures without an end, each its own ones, at a pace of --tick_s. Meanwhile one server after
the other, drawn by lot, is stopped (SIGTERM), or killed (SIGKILL), and started again once it is gone. At the end every
stream is shown once more, on servers that nobody touches, and its words are compared: text, times and numbers.

The servers are `launch.serve` but for one thing: they take no tokens when they are busy (`benchmarks.unhurried_serve`),
since what a stream says would then depend on its load. Pictures are noise.

It ends with 1 where a word was lost, said twice or another one, and with 2 where the model says nothing of such
pictures, so that nothing was compared. HAProxy must be installed (Debian: haproxy).
"""

import argparse
import asyncio
import collections
import contextlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from tqdm import tqdm

from benchmarks.turns import machine
from mmduplex_jax.client import Event, Notice, Stream, Word, connect
from mmduplex_jax.stages.config_file import add_json_flag, at_least, command_parser, positive, run_main, show
from mmduplex_jax.weights.trained import CHECKPOINT_HELP

CONFIG = Path(__file__).resolve().parents[1] / "launch" / "cluster" / "haproxy.cfg"
SERVERS = 3  # as many as the configuration names
# For a server to come up or to go, and for a stream to be shown again, on a busy machine.
_PATIENCE_S = 600.0
# (Words may be late here. A busy `launch.serve` would take tokens, and the words would be others.)
_SERVE = "benchmarks.unhurried_serve"
_FRAMES = 32
# So many streams are shown again at once.
_AGAIN = 8


class Server:
    """A server as a replica, in a process of its own that may be ended and started again."""

    def __init__(self, name: str, port: int, flags: Sequence[str], log: Path):
        self.name, self._log = name, log
        self._command = [sys.executable, "-m", _SERVE, f"--port={port}", f"--replica={name}", *flags]

    def start(self) -> None:
        """Starts it; waits for nothing."""
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=log, text=True)

    def wait_until_it_listens(self) -> None:
        """ChildProcessError where it does not come up."""
        assert self._process.stdout is not None
        if " on http" not in self._process.stdout.readline():
            self._process.kill()
            raise ChildProcessError(f"{self.name} did not come up: {self._log.read_text()[-2000:]}")
        # What it prints from now on is nobody's, and must never fill the pipe.
        threading.Thread(target=_read_on, args=[self._process.stdout], daemon=True).start()

    def end(self, number: int) -> int:
        """Its exit code after a signal."""
        self._process.send_signal(number)
        return self._process.wait(_PATIENCE_S)

    def errors(self) -> int:
        """Lines of its log that are errors; one that is killed leaves half a line."""
        return self._log.read_text().count('"level": "error"')


def _read_on(output: TextIO) -> None:
    with output:
        for _ in output:
            pass


class Watched(NamedTuple):
    """What came of a stream.

    Attributes:
      words: all, in the order in which they came.
      stream: the client's.
      ticks: that it showed.
      restored: how often it was told that words may be missing.
    """

    words: list[Word]
    stream: Stream
    ticks: int
    restored: int


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody has."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [one.getsockname()[1] for one in sockets]


def local_config(ports: Sequence[int], front: int) -> str:
    """The shipped configuration of HAProxy, with this machine's addresses in place of the cluster's.

    Raises:
      ValueError: it does not name a server, or not where it listens.
    """
    text = CONFIG.read_text(encoding="utf-8")
    addresses = {f"serve-{i}.serve.default.svc.cluster.local:8080": port for i, port in enumerate(ports)}
    for old, port in {"bind :8080": front, **addresses}.items():
        if old not in text:
            raise ValueError(f"{CONFIG} has no {old!r}")
        text = text.replace(old, f"{'bind ' if old.startswith('bind') else ''}127.0.0.1:{port}")
    return text


def until_ready(url: str) -> None:
    """Waits until HAProxy listens and has found a server; TimeoutError."""
    deadline_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=_PATIENCE_S):
                return
        except OSError:  # (an answer of 503 is one, too)
            if time.monotonic() > deadline_s:
                raise TimeoutError("HAProxy finds no server") from None
            time.sleep(0.1)


@contextlib.contextmanager
def cluster(model: Sequence[str], slots: int, snapshot_s: float) -> Iterator[tuple[list[Server], str]]:
    """Servers behind HAProxy, and its address; all are gone afterwards.

    Raises:
      FileNotFoundError: HAProxy is not installed.
      ChildProcessError: a server does not come up.
    """
    if shutil.which("haproxy") is None:
        raise FileNotFoundError("HAProxy is not installed (Debian: apt-get install haproxy)")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmduplex-replicas-")))
        *ports, front = free_ports(SERVERS + 1)
        flags = [f"--handover_dir={folder / 'streams'}", f"--max_sessions={slots}", f"--snapshot_s={snapshot_s:g}"]
        servers = [
            Server(f"serve-{i}", port, [*model, *flags], folder / f"serve-{i}.log") for i, port in enumerate(ports)
        ]
        for one in servers:
            one.start()
            stack.callback(one.end, signal.SIGKILL)
        for one in servers:
            one.wait_until_it_listens()
        (folder / "haproxy.cfg").write_text(local_config(ports, front), encoding="utf-8")
        proxy = subprocess.Popen(["haproxy", "-f", str(folder / "haproxy.cfg")], stderr=subprocess.DEVNULL)
        stack.callback(proxy.wait, _PATIENCE_S)
        stack.callback(proxy.terminate)
        url = f"http://127.0.0.1:{front}"
        until_ready(url)
        yield servers, url


async def watch(url: str, seed: int, ticks: int | asyncio.Event, every_s: float = 0.0) -> Watched:
    """Shows a stream of pictures for so many ticks, or until the event is set."""
    async with connect(url, mode="file", pad_bias=-2.0) as stream:

        async def show() -> int:
            clock = stream.hello["clock"]
            tick_s, size = clock["video_stride"] / clock["step_hz"], np.broadcast_to(stream.hello["frame_px"], 2)
            frames = np.random.default_rng(seed).integers(0, 256, (_FRAMES, *size, 3), dtype=np.uint8)
            tick = 0
            while not ticks.is_set() if isinstance(ticks, asyncio.Event) else tick < ticks:
                await stream.send(tick * tick_s, frames[tick % _FRAMES])
                await asyncio.sleep(every_s)
                tick += 1
            await stream.end()
            return tick

        showing = asyncio.create_task(show())
        events: list[Event] = [event async for event in stream]
        restored = sum(isinstance(event, Notice) and event.code == "restored" for event in events)
        return Watched([event for event in events if isinstance(event, Word)], stream, await showing, restored)


async def disturbed(
    servers: Sequence[Server], url: str, streams: int, seconds: float, *, tick_s: float, rest_s: float, seed: int
) -> tuple[list[Watched], list[str]]:
    """Streams whose servers are stopped and killed; what came of each, and which signals there were."""
    dice, enough, signals = random.Random(seed), asyncio.Event(), []
    watching = [asyncio.create_task(watch(url, number, enough, tick_s)) for number in range(streams)]
    until_s = time.monotonic() + seconds
    with tqdm(total=round(seconds), unit="s", desc="disturbed", disable=None) as progress:
        while time.monotonic() < until_s:
            await asyncio.sleep(rest_s)
            # (Each of both at least once in two.)
            kind = dice.choice([signal.SIGTERM, signal.SIGKILL]) if len(signals) % 2 == 0 else _other(signals[-1])
            one = dice.choice(servers)
            code = await asyncio.to_thread(one.end, kind)
            if kind == signal.SIGTERM and code != 0:
                raise ChildProcessError(f"{one.name} was to stop and ended with {code}")
            signals.append(kind.name)
            one.start()
            await asyncio.to_thread(one.wait_until_it_listens)
            progress.update(round(seconds - max(0.0, until_s - time.monotonic())) - progress.n)
    await asyncio.sleep(rest_s)
    enough.set()
    return [await task for task in watching], signals


def _other(name: str) -> signal.Signals:
    return signal.SIGKILL if name == "SIGTERM" else signal.SIGTERM


async def again(url: str, watched: Sequence[Watched]) -> list[list[Word]]:
    """The words of the same streams, undisturbed."""
    gate, progress = asyncio.Semaphore(_AGAIN), tqdm(total=len(watched), unit="stream", desc="again", disable=None)

    async def one(number: int, ticks: int) -> list[Word]:
        async with gate:
            words = (await watch(url, number, ticks)).words
            progress.update()
            return words

    with progress:
        return await asyncio.gather(*(one(number, found.ticks) for number, found in enumerate(watched)))


def compared(watched: Sequence[Watched], expected: Sequence[Sequence[Word]]) -> dict[str, int]:
    """Words of disturbed streams beside those of undisturbed ones, by number."""
    found: collections.Counter[str] = collections.Counter()
    for one, words in zip(watched, expected):
        numbers = collections.Counter(word.seq for word in one.words)
        by_number = {word.seq: word for word in one.words}
        found["words"] += len(words)
        found["lost"] += sum(word.seq not in by_number for word in words)
        found["doubled"] += sum(count - 1 for count in numbers.values()) + one.stream.doubled
        found["different"] += sum(by_number.get(word.seq, word) != word for word in words)
        found["too_many"] += sum(number > len(words) for number in by_number)
        found["reconnections"] += one.stream.reconnections
        found["told_of_missing_words"] += one.restored
        found["ticks"] += one.ticks
    return dict(found)


def run(model: Sequence[str], *, streams: int, seconds: float, tick_s: float, rest_s: float, snapshot_s: float,
        seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """All of it: what was done to the servers, and what became of the words; see `cluster` for errors."""
    slots = -(-streams // (SERVERS - 1)) + 2  # one server may be gone, and HAProxy's shares are not quite even
    with cluster(model, slots, snapshot_s) as (servers, url):
        watched, signals = asyncio.run(
            disturbed(servers, url, streams, seconds, tick_s=tick_s, rest_s=rest_s, seed=seed)
        )
        expected = asyncio.run(again(url, watched))
        errors = sum(one.errors() for one in servers)
    settings = {"streams": streams, "seconds": seconds, "tick_s": tick_s, "snapshot_s": snapshot_s}
    ended = {name: signals.count(name) for name in ("SIGTERM", "SIGKILL")}
    return settings | ended | compared(watched, expected) | {"errors_in_logs": errors}


def work(args: argparse.Namespace) -> int:
    """Runs it; 1 where a word was lost, doubled or another one, ValueError where there was none to compare."""
    model = [f"--random_init={args.random_init}"] if args.random_init else [f"--checkpoint={args.checkpoint}"]
    found = run(model, streams=args.streams, seconds=60 * args.minutes, tick_s=args.tick_s, rest_s=args.rest_s,
                snapshot_s=args.snapshot_s, seed=args.seed)  # fmt: skip
    lines = [f"{name:24} {value:,}" for name, value in found.items()]
    show(args, {"machine": machine(), "model": model[0].partition("=")[2]} | found, "\n".join(lines))
    if not found["words"]:
        raise ValueError(
            f"{model[0]} said no word in {found['ticks']:,} undisturbed ticks, so nothing was compared: "
            "take another model, or more --minutes"
        )
    return int(any(found[name] for name in ("lost", "doubled", "different", "too_many")))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.replicas", __doc__)
    add = flags.add_argument
    add("--checkpoint", metavar="NAME|DIR", default="world", help=f"{CHECKPOINT_HELP} (default: %(default)s)")
    add("--random_init", metavar="CONFIG.py", help="instead: random parameters of this config")
    add("--streams", type=at_least(1), default=40, help="at once (default: %(default)s)")
    add("--minutes", type=positive, default=10.0, help="that servers come and go (default: %(default)s)")
    add("--tick_s", type=float, default=1.0, help="from one picture of a stream to the next (default: %(default)s)")
    add("--rest_s", type=positive, default=10.0, help="from a server's start to the next end (default: %(default)s)")
    add("--snapshot_s", type=positive, default=5.0, help="streams are kept so often (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the lots (default: %(default)s)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
