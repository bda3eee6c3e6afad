"""How much faster a training is from encoded clips than from pixels, and how far its losses differ.

    python -m launch.encode --config=configs/quickstart.py --data=data/plain --out=encoded/plain
    python -m benchmarks.encoded --config=configs/quickstart.py --data=data/plain --encoded=encoded/plain

The same steps of the same training are done from both, batches and their reading among what is timed, compiling not.
Then the losses of what was learned are compared on the next batches of records that are one clip.

    python -m benchmarks.encoded --config=configs/quickstart.py --data=data/plain --encoded=encoded/plain --loaders

Reading alone, in turn, in as many workers: encoded clips, and frames of the same, by our loader and by torch's
DataLoader over JPEG files, which OpenCV decodes (torch must be there). As clips a second on the wall, and as
milliseconds of all processors for a clip, which mean something on a busy machine, too.
"""

import argparse
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.data import PictureClips, batches_of_ours, reading_rate, torch_loader, write_pictures
from benchmarks.turns import in_turns, machine, spread
from data_pipelines.dataset import open_dataset
from data_pipelines.encoded_loader import make_encoded_loader
from data_pipelines.loader import make_loader
from data_pipelines.manifest import ShardError
from mmduplex_jax import sharding
from mmduplex_jax.frame_size import frame_size
from mmduplex_jax.stages.config_file import add_config_flag, add_json_flag, command_parser, run_main, show
from mmduplex_jax.stages.encoding import encoded_task
from mmduplex_jax.stages.registry import build_task
from mmduplex_jax.train.step import make_program
from mmduplex_jax.train.task import Task
from mmduplex_jax.weights.init_from import make_start
from mmduplex_jax.weights.trained import load_tokenizer


def batches(task: Task, loader: Any, size: int) -> Iterator[dict[str, np.ndarray]]:
    """What a task takes of a loader's batches."""
    names = task.example_batch(size)
    return ({name: batch[name] for name in names} for batch in loader)


def timed_steps(task: Task, loader: Any, config: Any, start: Any, steps: int) -> tuple[float, Any]:
    """Seconds of a step, the median of `steps` after the first, and the parameters after them."""
    program = make_program(task, config, sharding.make_mesh(**config.mesh))
    compiled, state = program.compile(), program.init_state()
    state = state if start is None else state.replace(params=start(program.target.params)(state.params))
    took_s = []
    given = batches(task, loader, config.data.batch_size)
    for _ in range(steps + 1):
        began = time.perf_counter()
        batch = jax.device_put(next(given), sharding.batch_sharding(program.mesh))
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)
        took_s.append(time.perf_counter() - began)
    return float(np.median(took_s[1:])), state.params


def compare(args: argparse.Namespace) -> dict[str, float]:
    """The figures by name.

    Raises:
      ValueError, ShardError: the data, the encoded clips and the config do not fit each other, or cannot be read.
    """
    config, tokenizer = args.config, load_tokenizer(args.config)
    task = build_task(config, tokenizer)
    learner = encoded_task(config, task, tokenizer, [args.encoded], lambda line: None)
    order = {"batch_size": config.data.batch_size, "seed": config.data.seed, "flip": config.data.flip}
    clip = {"clip_s": config.data.clip_s, "frame_px": frame_size(config.frame_px)}
    pixels = lambda: make_loader([args.data], tokenizer, **clip, **order)
    clips = lambda: make_encoded_loader([args.encoded], tokenizer, **order)
    start = make_start(config, task, tokenizer, lambda line: None)
    pixel_s, _ = timed_steps(task, pixels(), config, start, args.steps)
    clip_s, params = timed_steps(learner, clips(), config, start, args.steps)
    size, differences, losses = config.data.batch_size, [], []
    both = zip(batches(task, pixels(), size), batches(learner, clips(), size))
    of_pixels, of_clips = jax.jit(task.loss), jax.jit(learner.loss)
    for number, (one, other) in enumerate(itertools.islice(both, args.compared)):
        key = jax.random.key(number)
        loss, again = float(of_pixels(params, one, key)[0]), float(of_clips(params, other, key)[0])
        losses.append(loss)
        differences.append(abs(loss - again))
    return {
        "pixels_s_a_step": pixel_s,
        "encoded_s_a_step": clip_s,
        "times_faster": pixel_s / clip_s,
        "loss": float(np.mean(losses)),
        "loss_difference_max": max(differences),
    }


def loaders(args: argparse.Namespace) -> dict[str, Any]:
    """Rates of loaders over the same clips, in turn; errors as of `compare`."""
    tokenizer, dataset, size = load_tokenizer(args.config), open_dataset(args.data), args.config.data.batch_size
    copies = -(-args.clips // len(dataset))  # of few records Grain takes long to shuffle each

    def encoded() -> Iterator[np.ndarray]:
        loader = make_encoded_loader([args.encoded] * copies, tokenizer, batch_size=size, threads=args.workers)
        yield from (batch["index"] for batch in itertools.islice(loader, len(loader.source) // size))
        loader.close()

    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        write_pictures((dataset[number].frames for number in range(len(dataset))), pictures, quality=90)
        arms = {
            "encoded clips": encoded,
            "frames, ours": lambda: batches_of_ours(args.data, size, args.workers, args.epochs),
            "frames, torch": lambda: torch_loader(PictureClips(pictures), size, args.workers, args.epochs),
        }
        found = in_turns([lambda make=make: reading_rate(make(), args.workers) for make in arms.values()], args.rounds)
    rates = {name: {"clips_per_s": [r for r, _ in some], "cpu_ms_a_clip": [ms for _, ms in some]}
             for name, some in zip(arms, found)}  # fmt: skip
    clips, torch = rates["encoded clips"], rates["frames, torch"]
    return {
        "machine": machine() | {"workers": args.workers, "load_average": os.getloadavg()[0]},
        "loaders": rates,
        "times_as_fast_as_torch": [one / other for one, other in zip(clips["clips_per_s"], torch["clips_per_s"])],
        "times_less_work_than_torch": [
            other / one for one, other in zip(clips["cpu_ms_a_clip"], torch["cpu_ms_a_clip"])
        ],
    }


def loaders_text(report: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{name}: {statistics.median(rates['clips_per_s']):.1f} clips/s, "
        f"{spread(rates['cpu_ms_a_clip'])} ms of processors a clip"
        for name, rates in report["loaders"].items()
    ]
    return "\n".join(
        [
            *lines,
            f"encoded clips, times as fast as torch: {spread(report['times_as_fast_as_torch'], '.1f')}",
            f"encoded clips, times less work than torch: {spread(report['times_less_work_than_torch'], '.1f')}",
        ]
    )


def work(args: argparse.Namespace) -> None:
    """Prints the figures."""
    if args.loaders:
        report = loaders(args)
        show(args, report, loaders_text(report))
        return
    report = compare(args)
    show(args, report, "\n".join(f"{name}: {value:.3g}" for name, value in report.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.encoded", __doc__)
    add_config_flag(flags)
    flags.add_argument("--data", required=True, metavar="DIR", help="prepared shards")
    flags.add_argument("--encoded", required=True, metavar="DIR", help="what `launch.encode` made of them")
    flags.add_argument("--steps", type=int, default=5, help="that are timed, after one more (default: %(default)s)")
    flags.add_argument("--compared", type=int, default=4, help="batches whose losses are (default: %(default)s)")
    flags.add_argument("--loaders", action="store_true", help="compare the reading alone, with torch's, too")
    flags.add_argument("--workers", type=int, default=2, help="with --loaders: of each (default: %(default)s)")
    flags.add_argument("--rounds", type=int, default=3, help="with --loaders (default: %(default)s)")
    flags.add_argument("--epochs", type=int, default=4, help="with --loaders: of frames (default: %(default)s)")
    flags.add_argument("--clips", type=int, default=2000, help="with --loaders: encoded ones, at least")
    add_json_flag(flags)
    return run_main(flags, argv, work, {ValueError: 2, ShardError: 2, OSError: 2})


if __name__ == "__main__":
    sys.exit(main())
