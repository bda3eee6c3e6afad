r"""Training steps: beside the same architecture in PyTorch, with each of our own measures, and beside their estimates.

    python -m benchmarks.training --rounds=5 --dtype=float32 --torch_compile --json=training.json
    python -m benchmarks.training --only=clip_s16
    python -m benchmarks.training --measures --json=measures.json
    python -m benchmarks.training --estimates --steps=3 --json=estimates.json

What is trained are the transformers of our full-size configs with reduced batches, on noise for what comes before them:
all of `duplex_300m` after its tokenizer (602 GFLOP a clip; one clip here), and the transformers of `bflow_75m` and of
the vision tower of `clip_s16`. A step is forward, backward, clipping and AdamW: ours is the trainer's own, the other
one `benchmarks/torch_training.py` (SDPA, fused AdamW, compiled if asked). Both begin with the same parameters and the
same batch, and their first losses must agree, or nothing is timed.

One process, the same threads, in turns; the order turns around from round to round, and a ratio is taken within a
round. `mfu` is the share of the device's peak (measured, on a CPU) that the model's own operations take.

`--measures` trains the streams of the duplex in ways that differ in one thing each: time, and the memory that the
compiler plans for a step beside parameters and optimiser.

`--estimates`: do they hold? Of each family of quick-start configs one run is measured, as a training logs its `mfu`;
with that share of the peak, estimates predict the others, which are of another batch, depth or width. The aim is 15 %.
Memory is what the compiler plans for the step's temporaries, beside what the trace says.

The first needs PyTorch. Run it on a machine that does nothing else.
"""

import abc
import argparse
import contextlib
import dataclasses
import functools
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.turns import in_turns, machine, spread
from mmduplex_jax.layers.attention import causal_window_mask
from mmduplex_jax.layers.encoder import Encoder
from mmduplex_jax.layers.rotary import phases_2d
from mmduplex_jax.layers.transformer import Stack, StackConfig, attention_context, phases
from mmduplex_jax.layers.vocabulary import token_loss_of
from mmduplex_jax.models.dual_stream import DualStream, DualStreamConfig
from mmduplex_jax.planning import cost, devices
from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, load_config, run_main, shown_on, write_json
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.streaming.unrolled import unrolled
from mmduplex_jax.tokenizer.bflow import Tokens
from mmduplex_jax.towers.vision import VisionConfig
from mmduplex_jax.train.step import Program, make_program
from mmduplex_jax.typing import PyTree
from mmduplex_jax.weights.trained import load_tokenizer

DTYPES = ("float32", "bfloat16")


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


class Trained(abc.ABC):
    """What is the same for all: the batch's shapes."""

    rows: int

    @abc.abstractmethod
    def batch(self) -> dict[str, np.ndarray]:
        """A batch of noise."""

    def example_batch(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The shapes of `batch`, of which there is one size."""
        if batch_size != self.rows:
            raise ValueError(f"made for {self.rows} rows, asked for {batch_size}")
        return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in self.batch().items()}


@dataclasses.dataclass(frozen=True)
class StreamsTask(Trained):
    """A duplex after its tokenizer: video stream, projector, text stream with cross-attention, the loss of its words.

    Attributes:
      rows, ticks: B, T.
      chunk: see `layers/vocabulary.py`.
    """

    config: DualStreamConfig
    rows: int
    ticks: int
    chunk: int = 0

    def __post_init__(self):
        c = self.config
        if c.fusion != "cross" or not c.tied or c.memory is not None:
            raise ValueError("the twin is of fusion 'cross' with a tied head and no event memory")
        if c.text.window_steps < self.steps:
            raise ValueError(f"the twin sees all {self.steps} steps of a clip, text sees {c.text.window_steps}")

    @property
    def steps(self) -> int:
        return self.ticks * self.config.clock.video_stride

    @property
    def _at(self) -> np.ndarray:
        """The steps of the tokens: all of the budget is spent, evenly."""
        count = self.config.tokenizer.token_capacity(self.ticks)
        return (np.arange(count) * self.ticks // count * self.config.clock.video_stride).astype(np.int32)

    def batch(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(1)
        words = lambda: rng.integers(0, self.config.vocab_size, (self.rows, self.steps), np.int32)
        values = _noise(self.rows, len(self._at), self.config.tokenizer.width)
        return {"values": values, "slots": words(), "target": words(), "delay": np.full(self.rows, 2, np.int32)}

    def init(self, rng: Any) -> PyTree:
        batch = self.batch()
        inputs = (self._tokens(batch["values"]), batch["slots"], batch["delay"])
        return DualStream(self.config).init(rng, *inputs, method="hidden")["params"]

    def _tokens(self, values: Any) -> Tokens:
        shape = values.shape[:2]
        centre_px = jnp.zeros((*shape, 2), jnp.int32)
        at = jnp.broadcast_to(jnp.asarray(self._at), shape)
        return Tokens(
            values, jnp.ones(shape, bool), at, jnp.zeros(shape, jnp.int32), centre_px, jnp.ones(shape, jnp.int32)
        )

    def loss(self, params: PyTree, batch: Mapping[str, Any], rng: Any) -> tuple[Any, dict[str, Any]]:
        del rng
        tokens = self._tokens(batch["values"])
        inputs = (tokens, batch["slots"], batch["delay"])
        x = DualStream(self.config).apply({"params": params}, *inputs, method="hidden")
        nll, _ = token_loss_of(x, params["embedding"], batch["target"], self.chunk, self.config.vocab_size)
        return nll.mean(), {}

    def twin(self, ours: PyTree) -> Any:
        """The same in PyTorch, with the same parameters."""
        from benchmarks.torch_training import Streams

        c = self.config
        model = Streams(c.video, c.text, c.tokenizer.width, c.language.rows, c.vocab_size, c.delay_max + 1)
        model.load(unrolled(c, ours)[1])
        return model

    def twin_batch(self) -> dict[str, np.ndarray]:
        c, at, steps = self.config, self._at, np.arange(self.steps, dtype=np.int32)
        far = at[:, None] - at[None]
        video_mask = (far >= 0) & (far < c.video.window_steps)
        back = steps[:, None] - at[None]
        cross_mask = np.pad((back >= 0) & (back < c.video.window_steps), ((0, 0), (0, 1)), constant_values=True)
        batch = self.batch()
        integers = {name: batch[name].astype(np.int64) for name in ("slots", "target", "delay")}
        return batch | integers | {
            "video_mask": video_mask, "cross_mask": cross_mask, "video_phase": np.asarray(phases(c.video, at)),
            "cross_phase": np.asarray(phases(c.text, at)), "text_phase": np.asarray(phases(c.text, steps)),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StackTask(Trained):
    """A stack over tokens of a clip (the tokenizer's event transformer); the loss is a squared error.

    Attributes:
      config: of the stack; without cross-attention and sinks.
      rows, at: B; the step of each of the N tokens.
    """

    config: StackConfig
    rows: int
    at: tuple[int, ...]

    def batch(self) -> dict[str, np.ndarray]:
        shape = (self.rows, len(self.at), self.config.width)
        return {"x": _noise(*shape), "wanted": _noise(*shape, seed=1)}

    def _run(self, x: Any) -> tuple[Any, Any]:
        at = jnp.broadcast_to(jnp.asarray(self.at, jnp.int32), x.shape[:2])
        mask = causal_window_mask(at, at, jnp.ones(at.shape, bool), self.config.window_steps)
        return x.astype(self.config.dtype), attention_context(self.config, at, mask)

    def init(self, rng: Any) -> PyTree:
        return Stack(self.config).init(rng, *self._run(self.batch()["x"]))["params"]

    def loss(self, params: PyTree, batch: Mapping[str, Any], rng: Any) -> tuple[Any, dict[str, Any]]:
        del rng
        out, _ = Stack(self.config).apply({"params": params}, *self._run(batch["x"]))
        return jnp.square(out.astype(jnp.float32) - batch["wanted"]).mean(), {}

    def twin(self, ours: PyTree) -> Any:
        """The same in PyTorch, with the same parameters."""
        from benchmarks.torch_training import StackAlone

        model = StackAlone(self.config)
        model.load(ours)
        return model

    def twin_batch(self) -> dict[str, np.ndarray]:
        at = np.asarray(self.at, np.int32)
        far = at[:, None] - at[None]
        mask = (far >= 0) & (far < self.config.window_steps)
        return self.batch() | {"mask": mask, "phase": np.asarray(phases(self.config, at))}


@dataclasses.dataclass(frozen=True)
class EncoderTask(Trained):
    """The layers of a vision tower over the patches of pictures; the loss is a squared error.

    Attributes:
      tower: whose.
      rows, grid: B; rows and columns of patches of a picture.
    """

    tower: VisionConfig
    rows: int
    grid: tuple[int, int]

    @property
    def positions(self) -> int:
        return math.prod(self.grid) + self.tower.class_token

    def batch(self) -> dict[str, np.ndarray]:
        shape = (self.rows, self.positions, self.tower.width)
        return {"x": _noise(*shape), "wanted": _noise(*shape, seed=1)}

    def _encoder(self) -> Encoder:
        c = self.tower
        return Encoder(
            c.layers, c.heads, hidden=c.hidden, activation=c.activation, norm_epsilon=c.norm_epsilon, remat=c.remat
        )

    def _phase(self) -> Any:
        """Of the patches, which count from 1 where there is a class token, at 0."""
        c = self.tower
        if not c.rotary:
            return None
        row, column = np.divmod(np.arange(math.prod(self.grid), dtype=np.int32), self.grid[1])
        first = int(c.class_token)
        row, column = (np.pad(place + first, (first, 0))[None] for place in (row, column))
        return phases_2d(jnp.asarray(row), jnp.asarray(column), c.width // c.heads, c.rope_base)

    def init(self, rng: Any) -> PyTree:
        return self._encoder().init(rng, self.batch()["x"], None, self._phase())["params"]

    def loss(self, params: PyTree, batch: Mapping[str, Any], rng: Any) -> tuple[Any, dict[str, Any]]:
        del rng
        x = batch["x"].astype(self.tower.dtype)
        out = self._encoder().apply({"params": params}, x, None, self._phase())
        return jnp.square(out.astype(jnp.float32) - batch["wanted"]).mean(), {}

    def twin(self, ours: PyTree) -> Any:
        """The same in PyTorch, with the same parameters."""
        from benchmarks import torch_training

        c = self.tower
        model = torch_training.Encoder(c.width, c.layers, c.heads, c.hidden, c.activation, c.norm_epsilon)
        model.load(ours)
        return model

    def twin_batch(self) -> dict[str, np.ndarray]:
        phase = self._phase()
        return self.batch() | ({} if phase is None else {"phase": np.asarray(phase)[:, 0]})


def _plain(config: Any, dtype: str) -> Any:
    """Unrolled and nothing computed again, as PyTorch does it; gates are open, so that cross-attention is seen."""
    for stack in (config.get("video_stream"), config.get("text")):
        if stack is not None and "hidden" in stack and "window_s" in stack:
            with stack.unlocked():  # small configs leave some of these as they are by default
                stack.update(scan=False, remat=False, dtype=dtype, attention="einsum")
    if "text" in config and "cross_gate" in config.text:
        config.text.cross_gate = 0.5
    return config


def streams(
    path: str, dtype: str, rows: int, changes: Mapping[str, Any] = MappingProxyType({})
) -> tuple[StreamsTask, Any]:
    """The streams of a duplex, and its config, `changes` (by names with dots) made."""
    config = _plain(load_config(path), dtype).lock()
    config.update_from_flattened_dict(changes)
    config.loss.future_word_weight = 0.0
    task: Any = build_task(config, load_tokenizer(config))
    return StreamsTask(task.config, rows, task.ticks), config


def events(path: str, dtype: str, rows: int) -> tuple[StackTask, Any]:
    """The event transformer of a config's tokenizer, over a clip with all of the budget spent."""
    config = load_config(path)
    config.tokenizer.dtype = dtype
    config.tokenizer.event.update(remat=False)
    task: Any = build_task(config, load_tokenizer(config))
    count, stride = task.config.tokenizer.token_capacity(task.ticks), task.config.clock.video_stride
    at = tuple(int(i) * task.ticks // count * stride for i in range(count))
    return StackTask(task.config.tokenizer.event, rows, at), config


def anchors(path: str, dtype: str, rows: int) -> tuple[EncoderTask, Any]:
    """The layers of the tower that looks at a tokenizer's anchors; `rows` pictures."""
    config = load_config(path)
    config.tokenizer.dtype = dtype
    config.tokenizer.anchor.tower.update(remat=False)
    task: Any = build_task(config, load_tokenizer(config))
    tower = task.config.tokenizer.anchor.used_tower
    return EncoderTask(tower, rows, tower.map_size(task.config.tokenizer.anchor_px)), config


def pictures(path: str, dtype: str, rows: int) -> tuple[EncoderTask, Any]:
    """The layers of a CLIP's vision tower; `rows` pictures."""
    config = load_config(path)
    config.vision.update(remat=False, dtype=dtype)
    task: Any = build_task(config, load_tokenizer(config))
    tower = task.config.vision
    return EncoderTask(tower, rows, tower.grid), config


# By name: of what config, how many rows at a time, and what of it.
WORK: dict[str, tuple[str, int, Callable[..., tuple[Any, Any]]]] = {
    "duplex_300m, after its tokenizer": ("configs/duplex_300m.py", 1, streams),
    "bflow_75m, event transformer": ("configs/bflow_75m.py", 1, events),
    "bflow_75m, anchors' tower": ("configs/bflow_75m.py", 8, anchors),
    "clip_s16, vision tower": ("configs/clip_s16.py", 2, pictures),
}


# How far the first losses may be apart, relatively: sums in another order through tens of layers; bfloat16 has 8 bits,
# and PyTorch's autocast rounds at other places.
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


class LossMismatch(RuntimeError):
    """The twins do not compute the same, so there is nothing to compare."""


@dataclasses.dataclass
class Arm:
    """What is timed: a name, a step that waits for itself and returns the loss, and the seconds of rounds."""

    name: str
    step: Callable[[], float]
    rounds_s: list[float] = dataclasses.field(default_factory=list)

    @property
    def step_s(self) -> float:
        return statistics.median(self.rounds_s)

    def round_s(self, steps: int) -> float:
        """The median of `steps` steps after one that does not count."""
        times_s = []
        for _ in range(steps + 1):
            start = time.perf_counter()
            self.step()
            times_s.append(time.perf_counter() - start)
        return statistics.median(times_s[1:])


def program_of(task: Any, config: Any) -> Program:
    """The trainer's program of a task on the first device, in which everything is trained."""
    config.data.batch_size = task.rows
    config.train.update(grad_accum=1, groups={})
    return make_program(task, config, make_mesh(devices=jax.devices()[:1]))


def our_arm(task: Any, config: Any) -> tuple[Arm, Any, float]:
    """Our step, the parameters that it begins with, on the host, and the model's operations in a step."""
    program = program_of(task, config)
    traced, state = program.trace(), program.init_state()
    compiled = traced.lower().compile()
    # A copy: what the host only looks at could not be donated.
    began_with = jax.tree.map(np.array, state.params)
    arm = stepping("ours", compiled, [state], jax.device_put(task.batch()))
    return arm, began_with, count_flops(traced.jaxpr).model


def take_turns(arms: Sequence[Arm], rounds: int, steps: int) -> None:
    """Times all arms in every round, there and back."""
    timed = in_turns([functools.partial(arm.round_s, steps) for arm in arms], rounds)
    for arm, rounds_s in zip(arms, timed, strict=True):
        arm.rounds_s += rounds_s


def stepping(name: str, compiled: Any, held: list[Any], batch: Any) -> Arm:
    """An arm of a compiled training step; `held` is the state that it goes on from, alone in a list: others may too."""

    def step() -> float:
        held[0], metrics = compiled(held[0], batch)
        return float(metrics["loss"])

    return Arm(name, step)


def compare(task: Any, config: Any, dtype: str, torch_compile: bool, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Rows of the table: ours, and PyTorch's (LossMismatch: their first losses differ)."""
    import torch

    from benchmarks import torch_training

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    ours, params, operations = our_arm(task, config)
    arms, losses = [ours], [ours.step()]
    for compiled in (False, True) if torch_compile else (False,):
        step = torch_training.make_step(
            task.twin(params), task.twin_batch(), config.train, dtype=dtype, compiled=compiled, device=device
        )
        arms.append(Arm("PyTorch, compiled" if compiled else "PyTorch", step))
        losses.append(step())
    del params  # the largest model's are 1.5 GB
    for loss in losses[1:]:
        if abs(loss - losses[0]) > LOSS_TOLERANCE[dtype] * abs(losses[0]):
            raise LossMismatch(f"our first loss is {losses[0]}, PyTorch's {loss}: the twins are not the same")
    take_turns(arms, rounds, steps)
    peak = devices.device_peak(jax.devices()[0])
    return [
        {
            "arm": arm.name,
            "step_s": arm.step_s,
            "gflop": operations / 1e9,
            "mfu": devices.mfu(operations, 1 / arm.step_s, peak, 1),
            "first_loss": loss,
            "times_ours": [theirs / mine for theirs, mine in zip(arm.rounds_s, ours.rounds_s)],
            "rounds_s": arm.rounds_s,
        }
        for arm, loss in zip(arms, losses)
    ]


def variants(path: str, rows: int) -> dict[str, tuple[StreamsTask, Any]]:
    """The streams of a duplex, trained in ways that differ from the first in what their names say."""
    changes: dict[str, dict[str, Any]] = {
        "float32, all kept": {},
        "loss in chunks": {"loss.chunk": 30},
        "fused attention": {"text.attention": "fused", "video_stream.attention": "fused"},
        "remat": {"text.remat": True, "video_stream.remat": True},
        "bfloat16": {"text.dtype": "bfloat16", "video_stream.dtype": "bfloat16"},
        "remat, bfloat16, chunks": {
            "text.remat": True, "video_stream.remat": True, "loss.chunk": 30,
            "text.dtype": "bfloat16", "video_stream.dtype": "bfloat16",
        },
    }  # fmt: skip
    found: dict[str, Any] = {}
    for name, change in changes.items():
        task, config = streams(path, "float32", rows)
        scanned = {"text.scan": True, "video_stream.scan": True}
        config.update_from_flattened_dict(scanned | {k: v for k, v in change.items() if k != "loss.chunk"})
        stacks = {
            name: dataclasses.replace(
                getattr(task.config, name), **{k: config[field][k] for k in ("scan", "remat", "dtype", "attention")}
            )
            for name, field in (("text", "text"), ("video", "video_stream"))
        }
        model = dataclasses.replace(task.config, **stacks)
        found[name] = dataclasses.replace(task, config=model, chunk=change.get("loss.chunk", 0)), config
    return found


def measure(path: str, batch: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Rows of the table of measures; all train one state in turns, since none of them changes its form."""
    arms: list[Arm] = []
    planned: list[int] = []
    state: list[Any] = []
    for name, (task, config) in variants(path, batch).items():
        program = program_of(task, config)
        state = state or [program.init_state()]
        compiled = program.compile()
        planned.append(compiled.memory_analysis().temp_size_in_bytes)
        arms.append(stepping(name, compiled, state, jax.device_put(task.batch())))
        print(f"compiled: {name}", flush=True)
    take_turns(arms, rounds, steps)
    first = arms[0]
    return [
        {
            "arm": arm.name,
            "step_s": arm.step_s,
            "planned_mb": bytes_ / 1e6,
            "times_first": [mine / theirs for mine, theirs in zip(arm.rounds_s, first.rounds_s)],
        }
        for arm, bytes_ in zip(arms, planned)
    ]


# The first of a family is measured, the others are predicted.
FAMILIES: dict[str, tuple[tuple[str, dict[str, Any]], ...]] = {
    "configs/clip_quickstart.py": (
        ("as it is", {}),
        ("half the batch", {"data.batch_size": 48}),
        ("twice the depth", {"vision.layers": 4}),
        ("twice the pictures", {"time.frames": 8}),
    ),
    "configs/quickstart.py": (
        ("as it is", {}),
        ("half the batch", {"data.batch_size": 4}),
        ("twice the text's depth", {"text.layers": 8}),
        ("one sequence", {"fusion": "interleave"}),
    ),
    "configs/vlm_quickstart.py": (
        ("as it is", {}),
        ("half the batch", {"data.batch_size": 16}),
        ("twice the depth", {"vision.layers": 4}),
    ),
}


class Run(NamedTuple):
    """One config's step, compiled.

    Attributes:
      arm: does a step, and keeps what rounds of them took.
      flops: the model's, by the trace.
      traced_bytes, planned_bytes: of the step's temporaries, by the trace (0: not asked for) and by the compiler.
      held_bytes: of all that the step needs by the compiler: state and batch too.
    """

    arm: Arm
    flops: float
    traced_bytes: int
    planned_bytes: int
    held_bytes: int


def program_with(file: str, changes: Mapping[str, Any]) -> tuple[Any, Any, Program]:
    """The task, the config and the trainer's program on one device of a file with some of its fields changed."""
    config = load_config(file).lock()
    config.update_from_flattened_dict(changes)
    task = build_task(config, load_tokenizer(config))
    return task, config, make_program(task, config, make_mesh(devices=jax.devices()[:1]))


def make_run(file: str, name: str, changes: Mapping[str, Any], *, estimate: bool = True) -> Run:
    """Compiles the step of a config on one device and fills a batch with noise, the same in every row.

    Args:
      estimate: whether to trace for `traced_bytes`, too.
    """
    task, config, program = program_with(file, changes)
    traced = program.trace()
    compiled = traced.lower().compile()
    rng = np.random.default_rng(0)

    def filled(leaf: Any) -> Any:
        row = rng.integers(0, 2 if leaf.dtype == bool else 40, leaf.shape[1:]).astype(leaf.dtype)
        return jnp.broadcast_to(jnp.asarray(row), leaf.shape)

    batch = {key: filled(leaf) for key, leaf in program.example.items()}
    planned = compiled.memory_analysis()
    sizes = (planned.argument_size_in_bytes, planned.output_size_in_bytes, -planned.alias_size_in_bytes)
    return Run(
        stepping(name, compiled, [program.init_state()], batch),
        flops=count_flops(traced.jaxpr).model,
        traced_bytes=cost.memory(task, config, 1).activations if estimate else 0,
        planned_bytes=planned.temp_size_in_bytes,
        held_bytes=planned.temp_size_in_bytes + sum(sizes),
    )


def compared(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Rows of the table: the first run's speed predicts the others'."""
    per_second = runs[0].flops / runs[0].arm.step_s
    return [
        {
            "run": run.arm.name,
            "gflop": run.flops / 1e9,
            "step_s": run.arm.step_s,
            "predicted_s": run.flops / per_second,
            "predicted_over_measured": run.flops / per_second / run.arm.step_s,
            "traced_mb": run.traced_bytes / 1e6,
            "planned_mb": run.planned_bytes / 1e6,
        }
        for run in runs
    ]


def estimates(only: str, rounds: int, steps: int) -> dict[str, Any]:
    """Measures the families, and prints each."""
    found: dict[str, Any] = {}
    for file in (file for file in FAMILIES if file.removeprefix("configs/").startswith(only)):
        runs = [make_run(file, name, changes) for name, changes in FAMILIES[file]]
        take_turns([run.arm for run in runs], rounds, steps)
        found[file] = compared(runs)
        print(
            f"\n{file}\n{'run':24} {'GFLOP':>8} {'s':>7} {'predicted':>9} {'ratio':>6} {'trace MB':>9} {'plan MB':>8}"
        )
        for row in found[file]:
            print(
                f"{row['run']:24} {row['gflop']:8.1f} {row['step_s']:7.3f} {row['predicted_s']:9.3f} "
                f"{row['predicted_over_measured']:6.2f} {row['traced_mb']:9.0f} {row['planned_mb']:8.0f}",
                flush=True,
            )
    return found


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Measures what was asked for, and prints it."""
    peak = devices.device_peak(jax.devices()[0])
    found: dict[str, Any] = machine() | {"peak": None if peak is None else peak.source, "dtype": args.dtype}
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    if args.measures:
        rows = args.rows or 2
        found["measures"] = measure("configs/duplex_300m.py", rows, args.rounds, args.steps)
        print(
            f"\nduplex_300m, after its tokenizer, {rows} clips\n{'':26} {'s':>7} {'times the first':>22} {'plan MB':>8}"
        )
        for row in found["measures"]:
            print(f"{row['arm']:26} {row['step_s']:7.2f} {spread(row['times_first']):>22} {row['planned_mb']:8.0f}")
    elif args.estimates:
        found["estimates"] = estimates(args.only, args.rounds, args.steps)
    else:
        import torch

        found["torch"] = torch.__version__
        for name, (path, rows, make) in WORK.items():
            if not name.startswith(args.only):
                continue
            task, config = make(path, args.dtype, args.rows or rows)
            table = compare(task, config, args.dtype, args.torch_compile, args.rounds, args.steps)
            found[name] = {"rows": task.rows, "arms": table}
            print(f"\n{name}, {task.rows} a step\n{'':18} {'s':>7} {'mfu':>6} {'times ours':>22} {'first loss':>12}")
            for row in table:
                share = "n/a" if row["mfu"] is None else f"{row['mfu']:.1%}"
                print(
                    f"{row['arm']:18} {row['step_s']:7.3f} {share:>6} {spread(row['times_ours']):>22} "
                    f"{row['first_loss']:12.6f}",
                    flush=True,
                )
    return found


def work(args: argparse.Namespace) -> None:
    """Measures, prints tables and writes them."""
    with contextlib.redirect_stdout(shown_on(args.json)):
        found = measured(args)
    write_json(args.json, found)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.training", __doc__)
    add = flags.add_argument
    add("--rounds", type=int, default=5, help="turns (default: %(default)s)")
    add("--steps", type=int, default=2, help="timed steps a turn (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="to compute in; parameters are float32 (default: float32)")
    add("--only", default="", help="those whose name begins so")
    add("--torch_compile", action="store_true", help="also PyTorch's compiled form")
    add("--measures", action="store_true", help="our own measures instead")
    add("--estimates", action="store_true", help="how well steps are predicted instead")
    add("--rows", type=int, help="rows at a time, instead of what the table says; with --measures 2")
    add_json_flag(flags)
    return run_main(flags, argv, work, {LossMismatch: 2, ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
