"""What a stream costs, how many a machine holds, and whether it stays so: step times, sessions, hours at full speed.

    python -m benchmarks.streaming --json=streaming.json
    python -m benchmarks.streaming --random_init=configs/quickstart.py --batches=1,8,64
    python -m benchmarks.streaming --weights=float32,bfloat16,int8 --parts=text --json=weights.json
    python -m benchmarks.streaming --checkpoint=world --batches= --simulated_hours=24 --json=day.json
    python -m benchmarks.streaming --checkpoint=runs/speak --codec=runs/codec --speaking --batches= --simulated_hours=1
    python -m benchmarks.streaming --checkpoint=real --batches= --simulated_hours=1 --part_s=600 --watch=quiet.mp4
    python -m benchmarks.streaming --checkpoint=world --batches= --sessions=1024 --json=sessions.json
    python -m benchmarks.streaming --peers --peers_python=.venv-peers/bin/python --json=peers.json

`text` is the text stream's step alone, `whole` the model's live step (half of them with a frame, at the usual stride);
both are waited for one by one, as on a machine that has nothing to overlap. Random parameters cost what trained ones
do: what the tokenizer spends is not learned. The long run feeds one stream through a pool of one slot; with --speaking
it is heard. It sees clips of the world, or with --watch a video, forwards and backwards, over and over.

Every arm is timed once a round, and the order turns around from round to round, so that a drift of the machine's speed
falls on all alike; a ratio is taken within a round, and its spread over the rounds is part of the result.

With `--peers` our steps take turns with those of others (`benchmarks.stepper`), in processes of their own of which
one works at a time, in another Python where these are installed: PyTorch, transformers, and `moshi` by `pip install
--no-deps moshi sentencepiece` (its own pins are of older packages).

With `--sessions` more and more streams are played in real time, decoding included (`benchmarks.pools`).

Times are of this machine, which the report names; keep it quiet meanwhile.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange

from benchmarks.pools import real_time_sessions, simulated_hours, there_and_back, world_frames
from benchmarks.stepper import Arms, Stepper, step_cost_ms, step_percentile_ms
from benchmarks.turns import in_turns, machine
from mmduplex_jax.commentator import Commentator, load, random_commentator
from mmduplex_jax.layers.kv_cache import KVCache
from mmduplex_jax.models.dual_stream import LiveState
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.stages.config_file import (  # fmt: skip
    add_json_flag,
    command_parser,
    listed,
    load_config,
    run_main,
    shown_on,
    write_json,
)
from mmduplex_jax.stages.registry import build_task, find_stage
from mmduplex_jax.streaming.batch import UNCAPPED, StreamBatch
from mmduplex_jax.typing import Array, PyTree
from mmduplex_jax.weights.codec import CODEC_HELP
from mmduplex_jax.weights.reduced import KINDS, reduced
from mmduplex_jax.weights.trained import CHECKPOINT_HELP, load_tokenizer

# Clips of the world that streams share out among them.
_CLIPS = 8


def with_every_row(model: Commentator) -> Commentator:
    """The same with as many words as its table has rows; where they are fewer, a compiler leaves the other rows out.

    A random model's tokenizer is the world's, of few words; the table is as large as that of the model it stands for.
    """
    live = model.live
    return dataclasses.replace(
        model, live=LiveModel(dataclasses.replace(live.config, vocab_size=live.config.language.rows))
    )


def whole_stepper(model: Commentator, batch: int) -> Stepper:
    """The model's live step, as a pool dispatches it, every row active: `tick` (with a frame) and `between` (text)."""
    rows = StreamBatch(model.live, model.params, model.config.frame_px, count=batch)
    delay_steps = model.config.delay.eval
    rows.configure(np.full(batch, delay_steps), np.zeros(batch), np.full(batch, UNCAPPED))
    stride = model.clock.video_stride
    clips = min(batch, _CLIPS)
    frames = rearrange(world_frames(model, clips)[np.arange(batch) % clips], "b t h w c -> t b h w c")
    active = np.ones(batch, bool)
    sent, done = rows.send(np.ascontiguousarray(frames[0])), 0

    def step() -> str:
        nonlocal sent, done
        is_tick = done % stride == 0
        if is_tick:
            sent = rows.send(np.ascontiguousarray(frames[done // stride % len(frames)]))
        rows.step(sent, active, with_report=is_tick).read()
        done += 1
        return "tick" if is_tick else "between"

    shares = {"tick": 1 / stride, "between": 1 - 1 / stride} if stride > 1 else {"tick": 1.0}
    return Stepper(shares, lambda: contextlib.nullcontext(step), rows.compile_s)


def text_stepper(model: Commentator, batch: int, watched_s: float = 0.0) -> Stepper:
    """The text stream's step alone, its rings of video in place: what a language model of that shape costs, live.

    Args:
      model: whose text stream.
      watched_s: how long they have been watching; their rings are filled accordingly, with noise.
    """
    live = model.live
    if not isinstance(live, LiveModel):
        raise TypeError(f"a LiveModel is needed, got {type(live).__name__}")
    module = live.module

    def take(params: PyTree, state: Any, delay: Array, active: Array) -> tuple[Any, Array]:
        state, logits = module.apply({"params": params}, state, delay, active, method="text_step")
        token = jnp.argmax(logits.at[:, live.config.start_id].set(-jnp.inf), axis=-1).astype(jnp.int32)
        return state._replace(token=token), token

    params = jax.device_put(model.params)
    state = jax.jit(lambda p: live.init_state(p, batch))(params)
    if watched_s:
        state = watched(live, state, watched_s)
    settings = jax.device_put((np.full(batch, model.config.delay.eval, np.int32), np.ones(batch, bool)))
    started_s = time.perf_counter()
    compiled = jax.jit(take, donate_argnums=1).lower(params, state, *settings).compile()
    compile_s = time.perf_counter() - started_s

    def step() -> str:
        nonlocal state
        state, token = compiled(params, state, *settings)
        np.asarray(token)
        return "all"

    return Stepper({"all": 1.0}, lambda: contextlib.nullcontext(step), compile_s)


def arms_of(model: Commentator) -> Arms:
    """Arms `part` ("text" or "whole"), `batch`, `weights`, and for text `watched_s`, of a model in float32."""

    def make(part: str, batch: int, watched_s: float = 0.0, weights: str = "float32") -> Stepper:
        held = model if weights == "float32" else dataclasses.replace(model, params=reduced(model.params, weights))
        return whole_stepper(held, batch) if part == "whole" else text_stepper(held, batch, watched_s)

    return Arms(make)


def watched(live: LiveModel, state: LiveState, watched_s: float) -> LiveState:
    """The state of streams that have watched for `watched_s`: full caches of what the text stream attends to, of noise.

    What keys and values are changes nothing about the cost of attending to them. The tokenizer's and the video stream's
    own caches stay as they are, since text does not read them.
    """
    config = live.config
    step = config.clock.steps_in(watched_s)
    batch = len(state.step)

    keys = iter(jax.random.split(jax.random.key(0), len(jax.tree.leaves(state.fusion))))

    def filled(cache: KVCache, steps: np.ndarray, num_sinks: int) -> KVCache:
        steps = np.broadcast_to(steps.astype(np.int32), (batch, len(steps)))
        cache, _ = cache.place(jnp.asarray(steps), jnp.ones(steps.shape, bool), num_sinks, sinks=num_sinks > 0)
        noise = lambda buffer: jax.random.normal(next(keys), buffer.shape, buffer.dtype)
        return cache.replace(layers=jax.tree.map(noise, cache.layers))

    video, text = state.fusion.projected, state.fusion.text
    sinks = config.text.num_sinks
    text_room, video_room = text.step.shape[1] - sinks, video.step.shape[1]
    written = np.concatenate([np.arange(min(sinks, step)), np.arange(max(sinks, step - text_room), step)])
    # As dense as the budget allows, newest last.
    tokens_a_step = config.tokenizer.cap * config.clock.step_s
    tokens = step - 1 - np.floor(np.arange(video_room)[::-1] / tokens_a_step)
    return state._replace(
        fusion=state.fusion._replace(
            projected=filled(video, tokens[tokens >= 0], 0), text=filled(text, written, sinks)
        ),
        step=jnp.full_like(state.step, step),
    )


ROOT = Path(__file__).resolve().parent.parent
PARTS = ("text", "whole")
# By the package that each is in.
PEERS = {"moshi": "moshi", "interleaved": "transformers"}


class Arm(NamedTuple):
    """One thing to time.

    Attributes:
      worker: the process that runs it.
      request: the arguments of its stepper.
      warm_steps: before those that are timed; none where a single one takes seconds.
    """

    name: str
    worker: str
    batch: int
    request: Mapping[str, Any]
    warm_steps: int = 3


class Asked(Protocol):
    """Whoever times an arm: `stepper.Arms` here, or a `Worker`."""

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]: ...


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


@contextlib.contextmanager
def workers(python: str, peers_python: str, options: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Asked]]:
    """Starts a process for each entry of `options`; they end with the context."""
    with contextlib.ExitStack() as stack:
        started: dict[str, Asked] = {}
        for name, given in options.items():
            started[name] = worker = Worker(python if given["family"] == "ours" else peers_python, given)
            stack.callback(worker.close)
        yield started


def text_shape(config_path: str) -> tuple[Any, ...]:
    """The fields of `benchmarks.stepper.TextShape` of a config's text stream.

    Raises:
      ValueError: the config is of no duplex, or its heads do not make up its width, as those of others must.
    """
    config = load_config(config_path).lock()
    task: Any = build_task(config, load_tokenizer(config))
    if find_stage(config.stage).OUTPUT != "commentary":
        raise ValueError(f"{config_path} is of stage {config.stage!r}; steps are those of `duplex` models")
    model, text = task.config, task.config.text
    if text.heads * text.head_width != text.width:
        raise ValueError(f"{text.heads} heads of {text.head_width} are not {text.width}: others' models cannot be so")
    step_hz = 1 / model.clock.step_s
    shape = (text.width, text.layers, text.heads, text.kv_heads, text.hidden, model.language.rows, text.window_steps)
    return (*shape, step_hz)


def plan(
    parts: Sequence[str],
    batches: Sequence[int],
    peers: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    watched_s: Sequence[float] = (),
    weights: Sequence[str] = (),
) -> list[Arm]:
    """What is timed.

    Args:
      parts: of our model, of `PARTS`.
      batches: streams at once.
      peers: of `PEERS`.
      dtypes: of the peers' weights, names of PyTorch's.
      watched_s: seconds of video that went before, for the interleaved peer and beside it our text stream, at batch 1.
      weights: how our model's large tables are held, of `reduced.KINDS`; none: as the model has them.
    """
    kinds: list[dict[str, str]] = [{"weights": kind} for kind in weights] or [{}]
    arms = [
        Arm(", ".join(["ours", part, *kind.values()]), "ours", b, {"part": part, **kind})
        for part in parts for b in batches for kind in kinds
    ]  # fmt: skip
    ages = [s for s in watched_s if s and peers]
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
    return arms


def take_turns(
    arms: Sequence[Arm], started: Mapping[str, Asked], rounds: int, steps: int, limit_s: float
) -> list[list[dict[str, Any]]]:
    """What every arm answers in every round, `[arm][round]`, after a first round that prepares them.

    Args:
      started: who times them, by `Arm.worker`.
      steps: of an arm in a round.
      limit_s: of an arm in a round, once every kind of its steps has been timed.
    """

    def ask(arm: Arm, steps: int) -> dict[str, Any]:
        given = {"arm": {"batch": arm.batch, **arm.request}, "steps": steps, "warm_steps": arm.warm_steps}
        return started[arm.worker].ask(given | {"limit_s": limit_s})

    for arm in arms:
        ask(arm, 1)
        print(f"ready: {arm.name}, batch {arm.batch}", flush=True)
    return in_turns([lambda arm=arm: ask(arm, steps) for arm in arms], rounds) if arms else []


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
        "compile_s": answers[0]["compile_s"],
    }


def pairs(arms: Sequence[Arm]) -> list[tuple[int, int]]:
    """What is divided by what, as indices.

    That is ours by each peer at the same batch and after as much video; old by new; fewer bits by float32.
    """
    watched = lambda arm: arm.request.get("watched_s", 0.0)
    without = lambda arm, name: (arm.worker, arm.batch, {k: v for k, v in arm.request.items() if k != name})
    held = lambda arm: arm.request.get("weights")
    found = []
    for i, one in enumerate(arms):
        for j, other in enumerate(arms):
            peers = one.worker == "ours" != other.worker and one.batch == other.batch
            # Our whole step has no age of its own here; the others' without one stand for all.
            same_age = watched(one) == watched(other) or one.request.get("part") == "whole"
            older = without(one, "watched_s") == without(other, "watched_s") and watched(one) > watched(other) == 0
            fewer = without(one, "weights") == without(other, "weights") and held(other) == "float32" != held(one)
            if (peers and same_age) or older or fewer:
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


def compare(arms: Sequence[Arm], started: Mapping[str, Asked], rounds: int, steps: int, limit_s: float) -> dict:
    """Times arms in turns, prints what they cost, and returns `arms`, a row each, and `ratios`; see `take_turns`."""
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
    return {"arms": rows, "ratios": found, "rounds": rounds}


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """What was asked for.

    Raises:
      ValueError, OSError: there is no such model, or a process failed.
      subprocess.CalledProcessError: a peer is not installed in `--peers_python`.
    """
    peers = args.peers
    arms = plan(args.parts, args.batches, peers, args.peer_dtypes, args.watched_s, args.weights)
    turns = {"rounds": args.rounds, "steps": args.steps, "limit_s": args.limit_s}
    report: dict[str, Any] = {"machine": machine()}
    if peers:
        report["versions"] = versions(args.peers_python, ["torch", *(PEERS[peer] for peer in peers)])
        shape, threads = text_shape(args.random_init), len(os.sched_getaffinity(0))
        options: dict[str, dict[str, Any]] = {"ours": {"family": "ours", "config": args.random_init}}
        options |= {peer: {"family": peer, "shape": shape, "threads": threads} for peer in peers}
        with workers(sys.executable, args.peers_python, options) as started:
            report["steps"] = compare(arms, started, **turns)
        if not args.simulated_hours and not args.sessions:
            return report
    if args.checkpoint:
        # (Arms of a kind each take their own from float32.)
        model = load(args.checkpoint, codec=args.codec, weights="float32" if args.weights else None)
    else:
        model = with_every_row(random_commentator(args.random_init, seed=0, codec=args.codec))
    report["model"] = model.name
    if args.speaking and model.sample_rate_hz is None:
        raise ValueError(f"--speaking: {model.name} has no audio stream, or no codec that makes it heard (--codec)")
    if not peers:
        report["steps"] = compare(arms, {"ours": arms_of(model)}, **turns)
    if args.sessions:
        report["sessions"] = real_time_sessions(model, args.session_s, args.sessions)
        print(f"{report['sessions']['largest']} sessions in real time, of at most {args.sessions} tried")
    if args.simulated_hours:
        clips = there_and_back(model, args.watch) if args.watch else None
        report["long"] = found = simulated_hours(
            model, args.simulated_hours, args.part_s, args.compared_s, speaking=args.speaking, clips=clips
        )
        print(
            f"{found['hours']} h at {found['real_time_factor']} x real time: memory {found['memory_drift']:+.2%}, "
            f"p99 of the last part {found['p99_ratio']:.3f} x the first's, {found['recompilations']} recompilations"
        )
    return report


def work(args: argparse.Namespace) -> None:
    """Runs what is asked for."""
    if min([*args.batches, args.steps, args.rounds]) < 1 or min(args.part_s, args.limit_s, args.session_s) <= 0:
        raise ValueError("--batches, --steps, --rounds, --part_s, --session_s and --limit_s are positive")
    if args.peers and args.checkpoint:
        raise ValueError("--peers compares a config's shape, with random parameters: leave --checkpoint out")
    with contextlib.redirect_stdout(shown_on(args.json)):
        report = measured(args)
    write_json(args.json, report)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.streaming", __doc__)
    add = flags.add_argument
    config = "configs/duplex_300m.py"
    add("--random_init", default=config, metavar="CONFIG.py", help="random parameters (default: %(default)s)")
    add("--checkpoint", metavar="NAME|DIR", help=f"instead: {CHECKPOINT_HELP}")
    add(
        "--batches",
        type=listed(int, none=True),
        default="1,8",
        help="streams at once; empty for none (default: %(default)s)",
    )
    add("--parts", type=listed(among=PARTS, none=True), default=",".join(PARTS), help="some of %(default)s")
    kinds = f"take turns with large tables held as each of {', '.join(KINDS)} (default: as the model has them)"
    add("--weights", type=listed(among=KINDS, none=True), default="", metavar="KIND,...", help=kinds)
    add("--steps", type=int, default=300, help="steps of an arm, shared out among the rounds (default: %(default)s)")
    add("--rounds", type=int, default=5, help="turns that every arm has (default: %(default)s)")
    add("--limit_s", type=float, default=15.0, help="of an arm in a round (default: %(default)s)")
    add("--simulated_hours", type=float, default=0.0, help="hours of one stream, at full speed (default: none)")
    add("--part_s", type=float, default=3600.0, help="stream seconds of a row of the long run (default: %(default)s)")
    text = "then so much more in turns with two fresh ones; 0 for none (default: %(default)s)"
    add("--compared_s", type=float, default=1800.0, help=text)
    add("--watch", metavar="VIDEO", help="what the stream of the long run sees (default: clips of the world)")
    add("--speaking", action="store_true", help="the stream of the long run is heard")
    add("--codec", metavar="DIR", help=CODEC_HELP)
    add("--sessions", type=int, default=0, help="look for the most in real time, up to so many (default: do not)")
    add("--session_s", type=float, default=20.0, help="how long each number is played (default: %(default)s)")
    peers = {"type": listed(among=PEERS, none=True), "nargs": "?", "const": list(PEERS), "default": ""}
    add("--peers", **peers, help=f"also others' steps (default: {','.join(PEERS)})")
    add("--peers_python", default=sys.executable, metavar="PYTHON", help="where they are installed (default: here)")
    add("--peer_dtypes", type=listed(), default="float32,bfloat16", help="of their weights (default: %(default)s)")
    text = "with --peers: seconds of video before (default: %(default)s)"
    add("--watched_s", type=listed(float), default="0,60,300", help=text)
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2, subprocess.CalledProcessError: 2})


if __name__ == "__main__":
    sys.exit(main())
