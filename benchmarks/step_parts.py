"""What bounds a live step, part by part: the weights that it reads, the products that it computes, and what it takes.

    python -m benchmarks.step_parts --json=step_parts.json
    python -m benchmarks.step_parts --config=configs/quickstart.py --parts=events,video --rounds=12
    taskset -c 0 python -m benchmarks.step_parts

A part reads parameters and caches, once each, and computes matrix products, as they are traced. Two more arms take
turns with the parts: `memory`, a matrix by a vector, too large for any cache, and `products`, a square matrix by
another. What these reach says how long a part would take if it did nothing but read, or nothing but multiply; the
longer of both bounds it, and `off` is how many times as long it takes. Parts are compiled by themselves, for one
stream. Parameters have their shapes and are otherwise all alike, which costs the same.

    text    the text stream's step; all others are of steps with a picture
    plan    motion, peaks and budget, and the crops that are cut: integers alone
    anchor  where one is due, the whole frame: vision tower, queries, the scene's state; `not due`: on other ticks
    crops   flow tokens, every slot of a tick at once, without a tower of theirs; where a trunk looks at crops,
            `crops, 2 spent`: as a tick that spends two computes them
    events  the tokenizer's event transformer, over a tick's slots
    video   the video stream, over a tick's slots
    keys    the keys and values that text attends to, of a tick's slots; `no anchor`: of flow's slots alone

Times are the work of all processors for this process, so that other programs beside it count little; `--wall` takes the
clock instead. On several cores some of that work is waiting for each other; with `taskset -c 0` none is.
"""

import argparse
import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from ml_collections import ConfigDict

from benchmarks.turns import in_turns, machine, spread
from mmduplex_jax.evals.report import aligned
from mmduplex_jax.layers.transformer import attention_context
from mmduplex_jax.models.dual_stream import DualStream
from mmduplex_jax.models.live import LiveModel
from mmduplex_jax.planning.traced import count_flops
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
from mmduplex_jax.streaming.unrolled import live_on_this_machine
from mmduplex_jax.tokenizer.bflow import crop_trips
from mmduplex_jax.tokenizer.sight import AROUND, FlowSight, see_tick
from mmduplex_jax.tokenizer.token_plan import MOTION_CHANNELS, plan_tick
from mmduplex_jax.train.step import abstract_params
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.trained import load_tokenizer

PARTS = ("text", "plan", "anchor", "crops", "events", "video", "keys")
_CONFIG = "configs/duplex_300m.py"
MEMORY, PRODUCTS = "memory", "products"
_MATRIX_BYTES = 1 << 28  # several times the last cache of today's processors
_SQUARE = 1024
_FILL = 0.011


class Part(NamedTuple):
    """A part of a step.

    Attributes:
      compute: of the model, a state and inputs: the new state and results.
      state: before its first call; numbers that it keeps, whose memory the next call takes.
      inputs: of every call.
      share: of the work that its trace has, what these inputs ask for.
      reads_state: whether the state is read, or only written to in some places.
    """

    compute: Callable[..., tuple[Any, Any]]
    state: Any
    inputs: tuple[Any, ...]
    share: float = 1.0
    reads_state: bool = True


class Arm(NamedTuple):
    """Something that is timed.

    Attributes:
      run: does it once and waits for it.
      read_bytes: of parameters and caches.
      flops: of its products; a multiply-add is two.
    """

    name: str
    run: Callable[[], None]
    read_bytes: float
    flops: float


def filled(tree: PyTree) -> PyTree:
    """Arrays of the tree's shapes, all of one number."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, _FILL, leaf.dtype), tree)


def model_of(config: ConfigDict) -> tuple[LiveModel, PyTree]:
    """The model of a config as this machine streams it, and parameters; ValueError where it is of no duplex."""
    if find_stage(config.stage).OUTPUT != "commentary":
        raise ValueError(f"the config is of stage {config.stage!r}; live steps are those of `duplex` models")
    task: Any = build_task(config, load_tokenizer(config))
    if task.config.fusion == "interleave":
        raise ValueError("the config has no video stream by itself (fusion 'interleave'): it has other parts")
    return live_on_this_machine(task.config, filled(nn.unbox(abstract_params(task))))


def parts_of(live: LiveModel, params: PyTree) -> dict[str, Part]:
    """The parts of a step of one stream, by name."""
    config, tokenizer = live.config, live.config.tokenizer
    state = live.init_state(params, 1)
    frame = np.zeros((1, *tokenizer.frame_px, 3), np.uint8)
    placing = np.zeros((1, tokenizer.slots), np.int32), np.ones((1, tokenizer.slots), bool)
    values = lambda width: np.full((1, tokenizer.slots, width), _FILL, np.float32)
    crop_px, count = tokenizer.flow.crop_px, tokenizer.flow_slots
    zeros = lambda *shape, dtype=np.int32: np.zeros((1, count, *shape), dtype)
    around = zeros(AROUND, AROUND, MOTION_CHANNELS)
    looks = zeros(crop_px, crop_px, 3, dtype=np.uint8)
    sight = FlowSight(zeros(2), zeros(2), zeros() + 1, zeros(2), around, looks)

    def text(module: DualStream, state: Any, *given: Any) -> tuple[Any, Any]:
        return module.text_step(state, *given)

    def planned(module: DualStream, state: Any, frame: Any) -> tuple[Any, Any]:
        state, plan = jax.vmap(lambda s, f: plan_tick(s, f, tokenizer))(state, frame)
        return state, (plan, see_tick(frame, plan, tokenizer))

    def anchor(module: DualStream, slots: Any, frame: Any) -> tuple[Any, Any]:
        read = module.tokenizer.anchors(frame)
        return (module.tokenizer.scene.update(slots, read) if tokenizer.carries_scene else slots), read

    def due_anchor(module: DualStream, none: Any, frame: Any, due: Any) -> tuple[Any, Any]:
        return none, module.tokenizer._read_anchors(frame, due)

    def crops(module: DualStream, none: Any, sight: FlowSight) -> tuple[Any, Any]:
        if tokenizer.flow.tower is not None:
            seen = module.tokenizer.crops(sight.looks[0])
            sight = sight._replace(looks=seen[None])
        return none, module.tokenizer.flows(sight)

    def spent_crops(module: DualStream, none: Any, sight: FlowSight, spent: Any) -> tuple[Any, Any]:
        return none, module.tokenizer._spent_flows(module.tokenizer._looked_at(sight, spent), spent)

    def events(module: DualStream, cache: Any, values: Any, step: Any, valid: Any) -> tuple[Any, Any]:
        placed = cache.place(step, valid)
        context = attention_context(tokenizer.event, step, placed.cache.mask(step, tokenizer.event.window_steps))
        values, cache = module.tokenizer._contextualise(values, context, placed)
        return cache, values

    def video(module: DualStream, cache: Any, values: Any, step: Any, valid: Any) -> tuple[Any, Any]:
        placed = cache.place(step, valid)
        context = attention_context(config.video, step, placed.cache.mask(step, config.video.window_steps))
        seen, cache = module.fusion.video(module.fusion.embed(values), context, placed)
        return cache, seen

    def keys(module: DualStream, cache: Any, seen: Any, step: Any, valid: Any) -> tuple[Any, Any]:
        return cache.place(step, valid).write(*module.fusion._project(seen, step)), step

    flow = (placing[0][:, :count], placing[1][:, :count])
    caches = state.fusion
    found = {
        "text": Part(text, state, (np.zeros(1, np.int32), np.ones(1, bool))),
        "plan": Part(planned, state.tokenizer.plan, (frame,)),
    }
    if tokenizer.anchor_tokens:
        found["anchor"] = Part(anchor, state.tokenizer.slots, (frame,))
        found["anchor, not due"] = Part(due_anchor, (), (frame, np.zeros(1, bool)), 0.0)
    if count:
        found["crops"] = Part(crops, (), (sight,))
    # (Without a trunk all slots are computed, however many are spent.)
    if count and tokenizer.flow.layers and tokenizer.flow.pixels:
        some = sorted({0, 1, 2, count // 2, count})
        for spent in some:
            # (A trace does not say how often a loop runs.)
            share = spent / count * crop_trips(tokenizer)
            found[f"crops, {spent} spent"] = Part(spent_crops, (), (sight, np.arange(count)[None] < spent), share)
    for name, compute, cache, width in (
        ("events", events, state.tokenizer.cache, tokenizer.width),
        ("video", video, caches.video, tokenizer.width),
        ("keys", keys, caches.projected, config.video.width),
    ):
        reads = name != "keys"
        found[name] = Part(compute, cache, (values(width), *placing), reads_state=reads)
        if count and tokenizer.anchor_tokens:
            few = (values(width)[:, :count], *flow)
            found[f"{name}, no anchor"] = Part(compute, cache, few, reads_state=reads)
    return found


def arms_of(live: LiveModel, params: PyTree, names: Sequence[str]) -> list[Arm]:
    """The parts whose names begin so, compiled."""
    params = jax.device_put(params)
    apply = lambda method, params, *given: live.module.apply({"params": params}, *given, method=method)
    # Parts that differ in their inputs alone share a program.
    made = functools.cache(lambda method: jax.jit(functools.partial(apply, method), donate_argnums=1))
    arms = []
    for name, part in parts_of(live, params).items():
        if name.partition(",")[0] not in names:
            continue
        traced = jax.make_jaxpr(functools.partial(apply, part.compute))(params, part.state, *part.inputs)
        of_floats = len(jax.tree.leaves((params, part.state) if part.reads_state else params))
        flops = part.share * sum(count_flops(traced).by_scope.values())
        read = read_bytes(traced, of_floats) if part.share else 0.0
        arms.append(Arm(name, _repeated(made(part.compute), params, part), read, flops))
    return arms


def _repeated(compute: Callable[..., Any], params: PyTree, part: Part) -> Callable[[], None]:
    # Copied, since parts share what a stream begins with, and each takes the memory of its own.
    state, inputs = jax.tree.map(jnp.array, part.state), jax.device_put(part.inputs)

    def run() -> None:
        nonlocal state
        state, results = compute(params, state, *inputs)
        jax.block_until_ready((state, results))

    return run


def read_bytes(traced: core.ClosedJaxpr, count: int) -> float:
    """Bytes of those of the first `count` inputs of a program, floats, that it uses."""
    used = {value for eqn in traced.jaxpr.eqns for value in eqn.invars if isinstance(value, core.Var)}
    avals: list[Any] = [value.aval for value in traced.jaxpr.invars[:count] if value in used]
    return float(sum(a.size * a.dtype.itemsize for a in avals if jnp.issubdtype(a.dtype, jnp.inexact)))


def machine_arms() -> list[Arm]:
    """What memory and processor reach: a matrix by a vector, and by another."""
    rows = math.isqrt(_MATRIX_BYTES // 4)
    large, line = jnp.full((rows, rows), _FILL), jnp.full((rows,), _FILL)
    square = jnp.full((_SQUARE, _SQUARE), _FILL)
    product = jax.jit(jnp.dot)

    def waited(made: Any) -> None:
        jax.block_until_ready(made)

    return [
        Arm(MEMORY, lambda: waited(product(large, line)), 4.0 * rows**2, 2.0 * rows**2),
        Arm(PRODUCTS, lambda: waited(product(square, square)), 0.0, 2.0 * _SQUARE**3),
    ]


def timed(arms: Sequence[Arm], rounds: int, calls: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Milliseconds of a call, the median of each round's, by arm; a first round prepares them and is not counted."""

    def ask(arm: Arm) -> float:
        took_s = []
        for _ in range(calls):
            began_s = clock()
            arm.run()
            took_s.append(clock() - began_s)
        return 1e3 * float(np.median(took_s))

    for arm in arms:
        arm.run()
        print(f"ready: {arm.name}", file=sys.stderr, flush=True)
    return dict(zip([arm.name for arm in arms], in_turns([lambda arm=arm: ask(arm) for arm in arms], rounds)))


def summary(arms: Sequence[Arm], times_ms: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """A row for each part: what it reads and computes, and how far it is, in every round, from what bounds it."""
    by_name = {arm.name: arm for arm in arms}
    memory = np.array(times_ms[MEMORY]) / by_name[MEMORY].read_bytes  # ms a byte, in each round
    products = np.array(times_ms[PRODUCTS]) / by_name[PRODUCTS].flops
    rows = []
    for arm in arms:
        reading, computing = memory * arm.read_bytes, products * arm.flops
        off = np.array(times_ms[arm.name]) / np.maximum(np.maximum(reading, computing), 1e-9)
        rows.append(
            {
                "part": arm.name,
                "read_mb": round(arm.read_bytes / 1e6, 1),
                "gflop": round(arm.flops / 1e9, 3),
                "ms": round(float(np.median(times_ms[arm.name])), 3),
                "reading_ms": round(float(np.median(reading)), 3),
                "computing_ms": round(float(np.median(computing)), 3),
                "off": [round(float(value), 3) for value in off] if arm.flops else None,
                "rounds_ms": [round(value, 3) for value in times_ms[arm.name]],
            }
        )
    return rows


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """The report; ValueError, OSError: there is no such model."""
    file = args.config_file or _CONFIG
    live, params = model_of(args.config if args.config_file else load_config(file).lock())
    arms = [*machine_arms(), *arms_of(live, params, args.parts)]
    clock = time.perf_counter if args.wall else time.process_time
    rows = summary(arms, timed(arms, args.rounds, args.calls, clock))
    by_name = {row["part"]: row for row in rows}
    reached = {
        "memory_gb_s": round(by_name[MEMORY]["read_mb"] / by_name[MEMORY]["ms"], 2),
        "products_gflop_s": round(1e3 * by_name[PRODUCTS]["gflop"] / by_name[PRODUCTS]["ms"], 1),
    }
    lines = [["part", "MB read", "GFLOP", "ms", "reading", "computing", "off"]]
    for row in rows:
        off = "" if row["off"] is None else spread(row["off"])
        numbers = [f"{row[name]:.{digits}f}" for name, digits in _COLUMNS]
        lines.append([row["part"], *numbers, off])
    print(aligned(lines))
    print(f"{reached['memory_gb_s']} GB/s and {reached['products_gflop_s']} GFLOP/s, of the {_CLOCKS[args.wall]}")
    return {"machine": machine(), "config": file, "wall": args.wall, **reached, "parts": rows}


_COLUMNS = (("read_mb", 1), ("gflop", 2), ("ms", 1), ("reading_ms", 1), ("computing_ms", 1))
_CLOCKS = {False: "processors' time", True: "clock's time"}


def work(args: argparse.Namespace) -> None:
    """Runs what is asked for."""
    if min(args.rounds, args.calls) < 1:
        raise ValueError("--rounds and --calls are positive")
    with contextlib.redirect_stdout(shown_on(args.json)):
        report = measured(args)
    write_json(args.json, report)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.step_parts", __doc__)
    add = flags.add_argument
    add("--config", default=_CONFIG, metavar="CONFIG.py", help="whose step (default: %(default)s)")
    add("--parts", type=listed(among=PARTS), default=",".join(PARTS), help="some of %(default)s")
    add("--rounds", type=int, default=8, help="turns that every part has (default: %(default)s)")
    add("--calls", type=int, default=3, help="of a part in a turn, whose median counts (default: %(default)s)")
    add("--wall", action="store_true", help="measure by the clock, on quiet cores, and not the processors' work")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
