r"""Training steps beside the same architecture in PyTorch, in turns; and what each of our own measures brings.

    python -m benchmarks.training [--rounds=5] [--dtype=float32] [--only=clip_s16] [--torch_compile] [--json FILE]
    python -m benchmarks.training --measures [--json FILE]

What is trained are the transformers of our full-size configs with reduced batches (`benchmarks/training_tasks.py`): all
of `duplex_300m` after its tokenizer (602 GFLOP a clip; one clip here), and the transformers of `bflow_75m`
and of the vision tower of `clip_s16`. A step is forward, backward, clipping and AdamW: ours is the trainer's own, the
other one `benchmarks/torch_training.py` (SDPA, fused AdamW, compiled if asked). Both begin with the same parameters and
the same batch, and their first losses must agree, or nothing is timed.

One process, the same threads, in turns; the order turns around from round to round, and a ratio is taken within a
round. `mfu` is the share of the device's peak (measured, on a CPU) that the model's own operations take.

`--measures` trains the streams of the duplex in ways that differ in one thing each: time, and the memory that the
compiler plans for a step beside parameters and optimiser. Needs PyTorch (but for `--measures`); run it on a machine
that does nothing else.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.training_tasks import DTYPES, WORK, StreamsTask, streams
from mmduplex_jax.planning import devices
from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.train.step import Program, make_program

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
    batch = jax.device_put(task.batch())

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, batch)
        return float(metrics["loss"])

    return Arm("ours", step), began_with, count_flops(traced.jaxpr).model


def take_turns(arms: Sequence[Arm], rounds: int, steps: int) -> None:
    """Times all arms in every round, there and back: the median of `steps` steps after one that does not count."""
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else reversed(arms):
            arm.step()
            times_s = []
            for _ in range(steps):
                start = time.perf_counter()
                arm.step()
                times_s.append(time.perf_counter() - start)
            arm.rounds_s.append(statistics.median(times_s))


def compare(task: Any, config: Any, dtype: str, torch_compile: bool, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Rows of the table: ours, and PyTorch's.

    Raises:
      LossMismatch: their first losses differ.
    """
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
    found = {}
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
    made = variants(path, batch)
    arms, planned, state = [], [], None

    def arm(name: str, compiled: Any, given: Any) -> Arm:
        def step() -> float:
            nonlocal state
            state, metrics = compiled(state, given)
            return float(metrics["loss"])

        return Arm(name, step)

    for name, (task, config) in made.items():
        program = program_of(task, config)
        state = program.init_state() if state is None else state
        compiled = program.compile()
        planned.append(compiled.memory_analysis().temp_size_in_bytes)
        arms.append(arm(name, compiled, jax.device_put(task.batch())))
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


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what was asked for and prints tables."""
    flags_ = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = flags_.add_argument
    add("--rounds", type=int, default=5, help="turns (default: %(default)s)")
    add("--steps", type=int, default=2, help="timed steps a turn (default: %(default)s)")
    add("--dtype", choices=DTYPES, default="float32", help="to compute in; parameters are float32 (default: float32)")
    add("--only", default="", help="those whose name begins so")
    add("--torch_compile", action="store_true", help="also PyTorch's compiled form")
    add("--measures", action="store_true", help="our own measures instead")
    add("--rows", type=int, help="rows at a time, instead of what the table says; with --measures 2")
    add("--json", type=Path, metavar="FILE")
    args = flags_.parse_args(argv)
    device = jax.devices()[0].device_kind
    peak = devices.device_peak(jax.devices()[0])
    found: dict[str, Any] = {
        "device": device, "peak": None if peak is None else peak.source, "threads": len(os.sched_getaffinity(0)),
        "jax": jax.__version__, "numpy": np.__version__, "dtype": args.dtype,
    }  # fmt: skip
    print(f"{device}; peak: {found['peak']}; {found['threads']} threads; {args.dtype}")
    if args.measures:
        rows = args.rows or 2
        found["measures"] = measure("configs/duplex_300m.py", rows, args.rounds, args.steps)
        print(
            f"\nduplex_300m, after its tokenizer, {rows} clips\n{'':26} {'s':>7} {'times the first':>22} {'plan MB':>8}"
        )
        for row in found["measures"]:
            print(f"{row['arm']:26} {row['step_s']:7.2f} {_spread(row['times_first']):>22} {row['planned_mb']:8.0f}")
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
                spread = _spread(row["times_ours"])
                print(
                    f"{row['arm']:18} {row['step_s']:7.3f} {share:>6} {spread:>22} {row['first_loss']:12.6f}",
                    flush=True,
                )
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
