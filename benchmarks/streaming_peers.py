"""Our steps beside those of others: several processes on one machine take turns, in rounds, there and back.

Every arm is timed once a round, and the order turns around from round to round, so that a drift of the machine's speed
falls on all alike; a ratio is taken within a round, and its spread over the rounds is part of the result. Only one
process works at a time; all have the same cores and as many threads.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.stepper import step_cost_ms, step_percentile_ms
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.weights.trained import load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
PEERS = ("moshi", "interleaved")


class Arm(NamedTuple):
    """One thing to time.

    Attributes:
      name: what tables call it; the same at every batch.
      worker: the process that runs it.
      batch: streams.
      request: the arguments of its stepper.
      warm_steps: before those that are timed; none where a single one takes seconds.
    """

    name: str
    worker: str
    batch: int
    request: Mapping[str, Any]
    warm_steps: int = 3


class Worker:
    """A `benchmarks.stepper` and the way to it."""

    def __init__(self, python: str, options: Mapping[str, Any]):
        self.family = options["family"]
        self._process = subprocess.Popen(
            [python, "-m", "benchmarks.stepper", json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one request; ChildProcessError where the process ends instead, having said why on stderr."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise ChildProcessError(f"the process of {self.family} ended with {self._process.wait()} at {request}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()


@contextmanager
def workers(python: str, peers_python: str, options: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Worker]]:
    """Starts a process for each entry of `options`; they end with the context."""
    with ExitStack() as stack:
        started = {}
        for name, given in options.items():
            started[name] = Worker(python if given["family"] == "ours" else peers_python, given)
            stack.callback(started[name].close)
        yield started


def text_shape(config_path: str) -> tuple[Any, ...]:
    """The fields of `benchmarks.torch_peers.TextShape` of a config's text stream.

    Raises:
      ValueError: the config is of no duplex, or its heads do not make up its width, as those of others must.
    """
    config = load_config(config_path).lock()
    task = build_task(config, load_tokenizer(config))
    if not isinstance(task, DuplexTask):
        raise ValueError(f"{config_path} is of stage {config.stage!r}; steps are those of `duplex` models")
    model, text = task.config, task.config.text
    if text.heads * text.head_width != text.width:
        raise ValueError(f"{text.heads} heads of {text.head_width} are not {text.width}: others' models cannot be so")
    step_hz = 1 / model.clock.step_s
    shape = (text.width, text.layers, text.heads, text.kv_heads, text.hidden, model.language.rows, text.window_steps)
    return (*shape, step_hz)


def plan(
    config_path: str,
    peers: Sequence[str],
    parts: Sequence[str],
    batches: Sequence[int],
    dtypes: Sequence[str],
    watched_s: Sequence[float],
) -> tuple[dict[str, dict[str, Any]], list[Arm]]:
    """The processes and what each is to time.

    Args:
      config_path: of our model.
      peers: some of `PEERS`.
      parts: of our model, "text" or "whole".
      batches: streams at once.
      dtypes: of the others' weights, names of PyTorch's.
      watched_s: seconds of video that have been seen, for the interleaved peer and our text stream, at batch 1.
    """
    shape, threads = text_shape(config_path), len(os.sched_getaffinity(0))
    options: dict[str, dict[str, Any]] = {"ours": {"family": "ours", "config": config_path}}
    options |= {peer: {"family": peer, "shape": shape, "threads": threads} for peer in peers}
    arms = [Arm(f"ours, {part}", "ours", b, {"part": part}) for part in parts for b in batches]
    ages = [s for s in watched_s if s]
    arms += [Arm(f"ours, text, after {s:g} s", "ours", 1, {"part": "text", "watched_s": s}) for s in ages]
    for dtype in dtypes:
        if "moshi" in peers:
            for batch in batches:
                name = lambda what, dtype=dtype: f"moshi LMGen {dtype}, {what}"
                arms += [
                    Arm(name("text and speech"), "moshi", batch, {"dtype": dtype, "depth": True}),
                    Arm(name("text"), "moshi", batch, {"dtype": dtype}),
                    Arm(name("text, shared heads"), "moshi", batch, {"dtype": dtype, "shared": True}),
                ]
        if "interleaved" in peers:
            arms += [
                Arm(f"interleaved {dtype}, after {s:g} s", "interleaved", 1, {"dtype": dtype, "watched_s": s}, 0)
                for s in watched_s
            ]
    return options, arms


def take_turns(
    arms: Sequence[Arm], started: Mapping[str, Worker], rounds: int, steps: int, limit_s: float
) -> list[list[dict[str, Any]]]:
    """What every arm answers in every round, `[arm][round]`, after a first round that prepares them.

    Args:
      arms: what to time.
      started: the processes.
      rounds: how often.
      steps: of an arm in a round.
      limit_s: of an arm in a round, once every kind of its steps has been seen.
    """

    def ask(arm: Arm, steps: int) -> dict[str, Any]:
        given = {"arm": {"batch": arm.batch, **arm.request}, "steps": steps, "warm_steps": arm.warm_steps}
        return started[arm.worker].ask(given | {"limit_s": limit_s})

    for arm in arms:
        ask(arm, 1)
        print(f"ready: {arm.name}, batch {arm.batch}", flush=True)
    found: list[list[dict[str, Any]]] = [[] for _ in arms]
    for number in range(rounds):
        order = range(len(arms)) if number % 2 == 0 else reversed(range(len(arms)))
        for index in order:
            found[index].append(ask(arms[index], steps))
        print(f"round {number + 1} of {rounds}", flush=True)
    return found


def summary(arm: Arm, answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A row of the table: milliseconds of a step over all rounds, and its mean cost in each."""
    shares = answers[0]["shares"]
    together = {kind: [t for answer in answers for t in answer["ms"][kind]] for kind in shares}
    costs_ms = [step_cost_ms(answer["ms"], shares) for answer in answers]
    return {
        "arm": arm.name,
        "batch": arm.batch,
        "steps": sum(map(len, together.values())),
        "p50_ms": round(step_percentile_ms(together, shares, 50), 3),
        "p99_ms": round(step_percentile_ms(together, shares, 99), 3),
        "mean_ms": round(float(np.median(costs_ms)), 3),
        "per_stream_ms": round(float(np.median(costs_ms)) / arm.batch, 3),
        "kinds_p50_ms": {kind: round(float(np.median(times)), 3) for kind, times in together.items()},
        "shares": shares,
        "rounds_ms": [round(cost, 3) for cost in costs_ms],
    }


def pairs(arms: Sequence[Arm]) -> list[tuple[int, int]]:
    """What is divided by what, as indices: ours by each peer at the same batch and after as much video; old by new."""
    watched = lambda arm: arm.request.get("watched_s", 0.0)
    kind = lambda arm: (arm.worker, arm.batch, {k: v for k, v in arm.request.items() if k != "watched_s"})
    found = []
    for i, one in enumerate(arms):
        for j, other in enumerate(arms):
            peers = one.worker == "ours" != other.worker and one.batch == other.batch
            # Our whole step has no age of its own here; the others' without one stand for all.
            same_age = watched(one) == watched(other) or one.request.get("part") == "whole"
            older = kind(one) == kind(other) and watched(one) > watched(other) == 0
            if (peers and same_age) or older:
                found.append((i, j))
    return found


def ratios(arms: Sequence[Arm], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Costs of a step, one over the other, for `pairs`: the median of the rounds' ratios, and their range."""
    found = []
    for i, j in pairs(arms):
        each = np.array(rows[i]["rounds_ms"]) / np.array(rows[j]["rounds_ms"])
        spread = {"ratio": np.median(each), "least": each.min(), "most": each.max()}
        names = {"one": rows[i]["arm"], "other": rows[j]["arm"], "batch": arms[i].batch}
        found.append(names | {name: round(float(value), 3) for name, value in spread.items()})
    return found


def versions(python: str, packages: Sequence[str]) -> dict[str, str]:
    """The versions of packages in another Python; CalledProcessError where one is not installed there."""
    asked = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    return json.loads(subprocess.run([python, "-c", asked, *packages], stdout=subprocess.PIPE, check=True).stdout)


def compare(
    config_path: str,
    peers: Sequence[str],
    parts: Sequence[str],
    batches: Sequence[int],
    *,
    dtypes: Sequence[str],
    watched_s: Sequence[float],
    rounds: int,
    steps: int,
    limit_s: float,
    peers_python: str,
) -> dict[str, Any]:
    """The whole comparison (see `plan` and `take_turns`): `arms`, a row each, `ratios`, and what they ran on.

    Raises:
      subprocess.CalledProcessError: a peer is not installed in `peers_python`.
      ChildProcessError: a process failed.
    """
    options, arms = plan(config_path, peers, parts, batches, dtypes, watched_s)
    packages = {"moshi": "moshi", "interleaved": "transformers"}
    found_versions = versions(peers_python, ["torch", *(packages[peer] for peer in peers)])
    with workers(sys.executable, peers_python, options) as started:
        answers = take_turns(arms, started, rounds, -(-steps // rounds), limit_s)
    rows = [summary(arm, given) for arm, given in zip(arms, answers)]
    for row in rows:
        print(
            f"{row['arm']:42} batch {row['batch']:2}: p50 {row['p50_ms']:9.2f} ms, p99 {row['p99_ms']:9.2f} ms, "
            f"mean {row['mean_ms']:9.2f} ms, {row['per_stream_ms']:8.2f} ms a stream"
        )
    found = ratios(arms, rows)
    for row in found:
        spread = f"{row['ratio']:7.3f} ({row['least']:.3f} to {row['most']:.3f})"
        print(f"{spread:28} batch {row['batch']:2}: {row['one']} / {row['other']}")
    ran_on = {"rounds": rounds, "threads": len(os.sched_getaffinity(0)), "versions": found_versions}
    return {"arms": rows, "ratios": found, **ran_on}
