r"""Do estimates hold? Time of steps predicted from one measured step, and memory from the trace, beside the real ones.

    python -m benchmarks.estimates --rounds=5 --steps=3 --json=estimates.json

Of each family one run is measured, as a training logs its `mfu`; with that share of the peak, estimates predict
the others, which are of another batch, depth or width. Runs take turns, step by step, so that the machine's moods touch
all alike. Memory is what the compiler plans for the step's temporaries, beside what the trace says. The aim is 15 % of
time. Run it on a machine that does nothing else.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.training import Arm, stepping, take_turns
from mmduplex_jax.planning import cost
from mmduplex_jax.planning.traced import count_flops
from mmduplex_jax.sharding import make_mesh
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, load_config, run_main, shown_on, write_json
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.step import make_program
from mmduplex_jax.weights.trained import load_tokenizer

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
      traced_bytes, planned_bytes: of the step's temporaries, by the trace and by the compiler.
    """

    arm: Arm
    flops: float
    traced_bytes: int
    planned_bytes: int


def make_run(file: str, name: str, changes: dict[str, Any]) -> Run:
    """Compiles the step of a config on one device and fills a batch with noise."""
    config = load_config(file)
    config.update_from_flattened_dict(changes)
    task = build_task(config, load_tokenizer(config))
    program = make_program(task, config, make_mesh(devices=jax.devices()[:1]))
    traced = program.trace()
    compiled = traced.lower().compile()
    rng = np.random.default_rng(0)
    filled = lambda leaf: rng.integers(0, 2 if leaf.dtype == bool else 40, leaf.shape).astype(leaf.dtype)
    batch = {key: filled(leaf) for key, leaf in program.example.items()}
    return Run(
        stepping(name, compiled, [program.init_state()], batch),
        flops=count_flops(traced.jaxpr).model,
        traced_bytes=cost.memory(task, config, 1).activations,
        planned_bytes=compiled.memory_analysis().temp_size_in_bytes,
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


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """Measures the families, and prints each."""
    found: dict[str, Any] = {}
    for file in args.family or FAMILIES:
        runs = [make_run(file, name, changes) for name, changes in FAMILIES[file]]
        take_turns([run.arm for run in runs], args.rounds, args.steps)
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


def work(args: argparse.Namespace) -> None:
    """Measures, prints tables and writes them."""
    with contextlib.redirect_stdout(shown_on(args.json)):
        found = measured(args)
    write_json(args.json, found)


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.estimates", __doc__)
    flags.add_argument("--rounds", type=int, default=5, help="turns (default: %(default)s)")
    flags.add_argument("--steps", type=int, default=3, help="steps a turn (default: %(default)s)")
    flags.add_argument("--family", action="append", choices=sorted(FAMILIES), help="only this family")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
