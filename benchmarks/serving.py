"""The server under many clients, some of them bad, and how soon a word is on the wire.

    python -m benchmarks.serving --json=serving.json
    python -m benchmarks.serving --checkpoint=runs/quickstart --clients=64 --minutes=5
    python -m benchmarks.serving --parts=latency
    python -m benchmarks.serving --parts=host --checkpoint=real --json=host.json

Server and clients are processes of their own on this machine, which the report names; keep it quiet meanwhile.

`soak`: unsynchronised clients show the world by the clock, a JPEG a tick. Phases alternate: in calm ones all behave; in
hostile ones 8 in 64 stand still, 4 send garbage and 4 drop their connections and come back. Of every stream each word's
number is checked, at the client, against what the server's log says that it sent; what the bad ones were sent is
compared, word by word, with what an undisturbed reader of the stream's feed was sent. `lag` is from when a client sends
a tick's picture to when the tick's status, which comes after its words, arrives; of those that always behave.

`latency`: one client, at the smallest delay that the model was made for. Of every word the time from when the client
sent the picture that it is about (that of the last tick at or before its `t_video_s`) to when the word arrived.

`host`: what a stream takes of processors, memory and the network, by what is sent (JPEGs over a WebSocket, H.264 over
WebRTC, H.264 that the server reads itself), without the model's step (`benchmarks.serving_host`). docs/capacity.md is
reckoned from it. Only where --parts names it.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import serving_host
from benchmarks.serving_clients import Task
from benchmarks.turns import cpu_s, machine
from data_pipelines.world import WorldConfig, make_clip
from data_pipelines.world.clip import write_clip_files
from mmduplex_jax.client import encode
from mmduplex_jax.stages.config_file import (  # fmt: skip
    add_json_flag,
    at_least,
    command_parser,
    listed,
    positive,
    run_main,
    shown_on,
    write_json,
)
from mmduplex_jax.weights.trained import CHECKPOINT_HELP

PARTS = ("latency", "soak", "host")
# Of 64: those that stand still, that send garbage, that drop; and as many well-behaved ones whose feed is read along.
BAD = {"stalling": 8, "garbage": 4, "dropping": 4, "twin": 4}
_OF = 64
_MODEL = "world"  # the clips that are sent show what it has learned
_PICTURES_CLIPS, _QUALITY = 4, 90
_WARM_S, _END_S = 5.0, 90.0
# Clients come in over a second; numbers begin after it.
_SETTLE_S = 3.0


class Server:
    """`launch.serve` in a process of its own, on a free port.

    Attributes:
      url: where it is.
      info: what it says of its model.
      pid: its process.
    """

    def __init__(self, model: Sequence[str], max_sessions: int, log: Path, module: str = "launch.serve"):
        """Starts it; ChildProcessError where it does not come up."""
        command = [sys.executable, "-m", module, *model, "--port=0", f"--max_sessions={max_sessions}"]
        self._log = log
        with log.open("w") as written:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=written, text=True)
        self.pid = self._process.pid
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if " on http" not in said:
            self._process.wait(_END_S)
            raise ChildProcessError(f"the server did not come up: {log.read_text()[-2000:]}")
        self.url = said.split(" on ")[1].strip().rstrip("/")
        self.info = json.loads(self._get("/v1/info"))

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=_END_S) as answer:
            return answer.read().decode()

    def metrics(self) -> dict[str, float]:
        """Its gauges and counters without labels, less their prefix, and its resident memory in MB."""
        lines = [line.split(" ") for line in self._get("/metrics").splitlines() if line.startswith("mmduplex_")]
        found = {name.removeprefix("mmduplex_"): float(value) for name, value in lines if "{" not in name}
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return found | {"resident_mb": int(resident.split()[1]) / 1e3, "cpu_s": cpu_s(self.pid)}

    def stop(self) -> list[dict[str, Any]]:
        """Stops it with SIGTERM; its log. ChildProcessError where it does not end with 0."""
        self._process.terminate()
        code = self._process.wait(_END_S)
        if code != 0:
            raise ChildProcessError(f"the server ended with {code}: {self._log.read_text()[-2000:]}")
        return [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]


def write_pictures(folder: Path, frame_px: int) -> None:
    """Some clips of the world as JPEGs, one a tick."""
    config = WorldConfig(frame_px=frame_px)
    frames = np.concatenate([make_clip(config, 0, index).frames for index in range(_PICTURES_CLIPS)])
    folder.mkdir()
    for number, frame in enumerate(frames):
        (folder / f"{number:05}.jpg").write_bytes(encode(frame, _QUALITY)[0])


def run_clients(tasks: Sequence[Task], server: Server) -> tuple[list[dict[str, Any]], list[dict[str, float]]]:
    """Runs each task in a process of its own.

    Returns:
      What they found, and the server's metrics at every phase's begin and at the end.

    Raises:
      ChildProcessError: one of them failed.
      subprocess.TimeoutExpired: one hangs.
    """
    command = [sys.executable, "-m", "benchmarks.serving_clients"]
    processes, first = [], tasks[0]
    with tempfile.TemporaryDirectory() as folder:
        for index, task in enumerate(tasks):
            answer = (Path(folder) / str(index)).open("w+")
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=answer, text=True)
            assert process.stdin is not None
            process.stdin.write(json.dumps(asdict(task)))
            process.stdin.close()
            processes.append((process, answer))
        phases = []
        for number in range(len(first.phases) + 1):
            time.sleep(max(0.0, first.begin_s + number * first.phase_s - time.monotonic()))
            clients_s = sum(cpu_s(process.pid) for process, _ in processes)
            phases.append(server.metrics() | {"clients_cpu_s": clients_s})
        found = []
        for process, answer in processes:
            if process.wait(_END_S) != 0:
                raise ChildProcessError(f"a process of clients ended with {process.returncode}")
            answer.seek(0)
            found.append(json.load(answer))
            answer.close()
    return found, phases


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """Number, p50 and p99."""
    p50, p99 = np.percentile(values, (50, 99)) if len(values) else (float("nan"), float("nan"))
    return {"n": len(values), "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}


def check_words(
    accounts: Sequence[dict[str, Any]], feeds: dict[str, Any], log: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Whether any word was lost or doubled, of the streams that were sent goodbye.

    Args:
      accounts: of all streams (`serving_clients.Account`).
      feeds: by session, what readers along were sent.
    """
    sent = {line["session"]: line["words"] for line in log if line["event"] == "session ended"}
    ended = [one for one in accounts if one["bye"] is not None]
    lost = sum(one["missing"] + max(0, sent[one["session"]] - len(one["words"])) for one in ended)
    compared = [one for one in ended if one["session"] in feeds]
    return {
        "streams": dict(Counter(one["role"] for one in ended)),
        "words": sum(len(one["words"]) for one in ended),
        "lost": lost,
        "doubled": sum(one["doubled"] for one in accounts),
        "compared_with_feed": len(compared),
        "differ_from_feed": sum(one["words"] != feeds[one["session"]] for one in compared),
        "given_up": sum(one["bye"] is None and bool(one["session"]) for one in accounts),
        "resumed": sum(one["resumed"] for one in accounts),
        "refused": dict(Counter(code for one in accounts for code in one["refused"])),
        "errors_in_log": sum(line["level"] in ("error", "critical") for line in log),
    }


def bad_clients(clients: int) -> dict[str, int]:
    """How many of each role of `BAD` there are among so many clients."""
    return {role: max(1, count * clients // _OF) for role, count in BAD.items()}


def soak(server: Server, pictures: Path, clients: int, phases: int, phase_s: float) -> dict[str, Any]:
    """The many clients; what is asked of the server's log is added when it has ended (`check_words`)."""
    bad = bad_clients(clients)
    steady = clients - sum(bad.values())
    hostile = tuple(number % 2 == 1 for number in range(phases))
    begin_s = time.monotonic() + _WARM_S
    twins = bad.pop("twin")
    task = lambda clients, seed: Task(
        server.url, str(pictures), clients, begin_s, phase_s, hostile, delay_steps=None, seed=seed
    )
    found, metrics = run_clients([task({"steady": steady, "twin": twins}, 1), task(bad, 2)], server)
    accounts = [account for one in found for account in one["accounts"]]
    rows = []
    for number in range(phases):
        begins_s = begin_s + number * phase_s + (_SETTLE_S if number == 0 else 0.0)
        ends_s = begin_s + (number + 1) * phase_s
        times = [
            (lag_ms, server_ms)
            for one in accounts
            if one["role"] in ("steady", "twin")
            for at_s, lag_ms, server_ms in one["answered"]
            if begins_s <= at_s < ends_s
        ]
        cores = {
            name: (metrics[number + 1][name] - metrics[number][name]) / phase_s for name in ("cpu_s", "clients_cpu_s")
        }
        due = (steady + twins) * (ends_s - begins_s) * server.info["clock"]["step_hz"]
        rows.append(
            {
                "hostile": hostile[number],
                "lag": percentiles([one[0] for one in times]),
                "lag_at_server": percentiles([one[1] for one in times]),
                "answered_share": round(len(times) / (due / server.info["clock"]["video_stride"]), 4),
                "cores": {"server": round(cores["cpu_s"], 2), "clients": round(cores["clients_cpu_s"], 2)},
                **{name: round(metrics[number + 1][name], 3) for name in ("load", "overload_rung", "resident_mb")},
                "dropped_frames": metrics[number + 1]["dropped_frames_total"] - metrics[number]["dropped_frames_total"],
            }
        )
        print(rows[-1], flush=True)
    p99s = {kind: [row["lag"]["p99_ms"] for row in rows if row["hostile"] == kind] for kind in (False, True)}
    ratios = [bad_ms / calm_ms for calm_ms, bad_ms in zip(p99s[False], p99s[True])]
    return {
        "clients": {"steady": steady, "twin": twins, **bad},
        "phase_s": phase_s,
        "phases": rows,
        "p99_hostile_over_calm": {
            "median": round(float(np.median(ratios)), 4), "each": [round(one, 4) for one in ratios],
        },
        "garbage": found[1]["garbage"],
        "recompilations": metrics[-1]["recompilations_total"],
        "accounts": accounts,
        "feeds": {session: words for one in found for session, words in one["feeds"].items()},
    }  # fmt: skip


def latency(server: Server, pictures: Path, seconds: float) -> dict[str, Any]:
    """One client at the smallest delay."""
    delay_steps = server.info["delay_steps"]["min"]
    begin_s = time.monotonic() + _WARM_S
    task = Task(server.url, str(pictures), {"steady": 1}, begin_s, seconds, (False,), delay_steps, seed=0)
    (found,), _ = run_clients([task], server)
    (account,) = found["accounts"]
    words = percentiles([ms for _, ms in account["spoken"]])
    return {"delay_steps": delay_steps, "word": words, "status": percentiles([one[1] for one in account["answered"]])}


def host(model: Sequence[str], video: Path | None, streams: int, seconds: float, folder: Path) -> dict[str, Any]:
    """What a stream takes of its host (`serving_host`), of a video or of a clip of the world."""
    if video is None:
        video = write_clip_files(folder, WorldConfig(look="rich"), 0, 0, size_px=360).video
    # (Clients take the processors that the server shakes hands with.)
    flags = [*model, f"--allow_sources={folder}", f"--limit_hello_s={serving_host.GREETING_S:g}"]
    server = Server(flags, streams, folder / "host.log", "benchmarks.serving_host")
    try:
        found = asyncio.run(serving_host.host(server, video, folder, streams, seconds))
    finally:
        server.stop()
    return {"model": server.info["model"], "video": video.name, "sent": found}


def work(args: argparse.Namespace) -> int:
    """Runs what is asked for; 1 where a word was lost or doubled."""
    phases = round(args.minutes * 60.0 / args.phase_s)
    if args.clients < 8 or phases < 2:
        raise ValueError("--clients from 8, --minutes for 2 phases or more")
    with contextlib.redirect_stdout(shown_on(args.json)):
        given = {"checkpoint": args.checkpoint or ("" if args.random_init else _MODEL), "random_init": args.random_init}
        model = [f"--{name}={value}" for name, value in given.items() if value]
        report: dict[str, Any] = {"machine": machine()}
        good = True
        with tempfile.TemporaryDirectory(prefix="mmduplex-serving-") as folder:
            for part in args.parts:
                # A garbage sender that goes away without a word keeps its slot until nobody can come back to it.
                if part == "host":
                    report[part] = host(model, args.video, args.host_streams, args.host_s, Path(folder))
                    print(report[part])
                    continue
                slots = 1 if part == "latency" else args.clients + bad_clients(args.clients)["garbage"]
                server = Server(model, slots, Path(folder) / f"{part}.log")
                pictures = Path(folder) / part
                write_pictures(pictures, server.info["frame_px"])
                report["model"] = server.info["model"]
                if part == "latency":
                    report[part] = latency(server, pictures, args.latency_s)
                    server.stop()
                    print(report[part])
                    continue
                report[part] = found = soak(server, pictures, args.clients, phases, args.phase_s)
                found["words"] = words = check_words(found.pop("accounts"), found.pop("feeds"), server.stop())
                good = not (words["lost"] or words["doubled"] or words["differ_from_feed"] or words["errors_in_log"])
                print(words, found["p99_hostile_over_calm"])
    write_json(args.json, report)
    return 0 if good else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.serving", __doc__)
    add = flags.add_argument
    add("--checkpoint", metavar="NAME|DIR", help=f"{CHECKPOINT_HELP} (default: {_MODEL})")
    add("--random_init", metavar="CONFIG.py", help="instead: random parameters of this config")
    add(
        "--parts",
        type=listed(among=PARTS, none=True),
        default="latency,soak",
        help=f"of {', '.join(PARTS)} (default: %(default)s)",
    )
    add("--clients", type=int, default=_OF, help="of the soak, bad ones included (default: %(default)s)")
    add("--minutes", type=float, default=5.0, help="of the soak (default: %(default)s)")
    add("--phase_s", type=float, default=30.0, help="of the soak (default: %(default)s)")
    add("--latency_s", type=float, default=120.0, help="of the one client (default: %(default)s)")
    add("--host_streams", type=at_least(1), default=16, help="of the part host (default: %(default)s)")
    add("--host_s", type=positive, default=20.0, help="of video, a stream of the part host (default: %(default)s)")
    add("--video", type=Path, metavar="FILE", help="that they send in the part host (default: a clip of the world)")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
