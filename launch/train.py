"""Trains a stage.

    python -m launch.train --config=configs/quickstart.py --workdir=out/quickstart [--config.train.steps=100]

Run the same command again to go on from the newest checkpoint in the workdir. On several machines, start it on each
with `--distributed`, on a workdir that all of them see: SLURM, Open MPI and Cloud TPU say who is who, elsewhere give
--coordinator=HOST:PORT --num_processes=N --process_id=I (docs/cluster.md). Process 0 alone speaks; the others
tell only what it cannot know.

Exit codes:
  0    done (or at `--config.train.stop_at_step`)
  2    the config, the data, the mesh or the workdir do not fit each other; the message says what to change
  3    loss or gradient was not finite; the message names the records
  75   start the same command again: SIGTERM (saved), or another process did not come, or was lost
  130  Ctrl-C: saved
"""

import argparse
import hashlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

from data_pipelines.loader import make_loader
from data_pipelines.manifest import Manifest, ShardError
from mmduplex_jax.sharding import ShardingError
from mmduplex_jax.stages.config_file import add_config_flag, parse_args
from mmduplex_jax.stages.registry import build_task, find_stage
from mmduplex_jax.train.distributed import EXIT_MISFIT, Job, JoinError, take_part, voices
from mmduplex_jax.train.feed import DataError
from mmduplex_jax.train.groups import GroupsError
from mmduplex_jax.train.loop import NonFiniteError, fit
from mmduplex_jax.weights.checkpoint import CheckpointMismatch
from mmduplex_jax.weights.init_from import InitFromError, make_start
from mmduplex_jax.weights.trained import load_tokenizer

EXIT_NON_FINITE = 3


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


def train(
    config: Any, workdir: str | Path, log: Callable[[str], None] = say, warn: Callable[[str], None] | None = None
) -> int:
    """Trains the stage of a resolved config; returns the exit code (0, 75 or 130).

    Args:
      config: with every field.
      workdir: of the run.
      log: where lines go; `warn`: where those of this process alone do, `log` if it is not given.

    Raises:
      Exception: see `mmduplex_jax.train.loop.fit` and `data_pipelines.loader.make_loader`.
    """
    tokenizer = load_tokenizer(config)
    task = build_task(config, tokenizer)
    dirs = [directory.strip() for directory in config.data.dirs.split(",") if directory.strip()]
    if not dirs:
        raise DataError("config.data.dirs is empty: pass --config.data.dirs=DIR, written by `python -m launch.prepare`")
    weights = weights_of(config.data.weights, len(dirs))
    try:
        data = make_loader(
            dirs,
            tokenizer,
            batch_size=config.data.batch_size,
            seed=config.data.seed,
            clip_s=config.data.clip_s,
            frame_px=config.frame_px,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            worker_processes=config.data.workers,
            flip=config.data.flip,
            weights=weights,
            mark_corrupt=True,
            pairs=find_stage(config.stage).pair_format(config),
        )
    except ValueError as error:
        raise DataError(f"config.data and {', '.join(dirs)} do not fit each other: {error}") from error
    log(f"{len(data.source):,} clips in {', '.join(dirs)}")
    try:
        outcome = fit(
            task,
            data,
            config,
            workdir,
            tokenizer_json=tokenizer.to_json(),
            record_key=data.source.key,
            record_trouble=data.trouble,
            data_fingerprint=data_fingerprint(dirs),
            start=make_start(config, task, tokenizer, log),
            log=log,
            warn=warn,
        )
    finally:
        data.close()
    return outcome.exit_code


def weights_of(text: str, num_dirs: int) -> list[float] | None:
    """The numbers of `config.data.weights`, None where it is empty.

    Raises:
      DataError: they are no positive numbers, one a directory.
    """
    if not text.strip():
        return None
    try:
        weights = [float(weight) for weight in text.split(",")]
    except ValueError:
        weights = []
    if len(weights) != num_dirs or not all(0 < weight < math.inf for weight in weights):
        raise DataError(
            f"config.data.weights is {text!r}: give a positive number for each of the {num_dirs} directories in "
            "config.data.dirs, separated by commas, or leave it empty to mix them by their sizes"
        )
    return weights


def data_fingerprint(dirs: Sequence[str]) -> str:
    """A hash of the hashes of all shards, in order: the same data in another folder have the same."""
    digest = hashlib.sha256()
    for directory in dirs:
        for shard in Manifest.load(Path(directory)).shards:
            digest.update(shard.sha256.encode())
    return digest.hexdigest()


def parser() -> argparse.ArgumentParser:
    """The flags, with a help that teaches."""
    flags = argparse.ArgumentParser(
        prog="python -m launch.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config_flag(flags)
    add = flags.add_argument
    add(
        "--workdir",
        metavar="DIR",
        required=True,
        help="of the run: checkpoints/, metrics.jsonl, tensorboard/, config.json",
    )
    add("--distributed", action="store_true", help="one of several processes, as SLURM, Open MPI or Cloud TPU name it")
    add("--coordinator", metavar="HOST:PORT", default="", help="of process 0, where nobody names it; with the next two")
    add("--num_processes", type=int, default=-1, metavar="N", help="how many processes there are")
    add("--process_id", type=int, default=-1, metavar="I", help="which of them this is, from 0")
    add("--join_timeout_s", type=int, default=300, help="how long to wait for all of them (default: %(default)s)")
    add("--peer_timeout_s", type=int, default=100, help="a process silent for so long is lost (default: %(default)s)")
    return flags


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the flags, trains, and turns expected errors into an exit code."""
    args = parse_args(parser(), argv)
    logging.set_verbosity(logging.WARNING)  # Orbax logs every file at INFO
    if not (args.distributed or args.coordinator or args.num_processes != -1 or args.process_id != -1):
        return _coded(lambda: train(args.config, args.workdir))
    job = lambda: Job(args.coordinator, args.num_processes, args.process_id, args.join_timeout_s, args.peer_timeout_s)
    run = lambda: _coded(lambda: train(args.config, args.workdir, *voices(say)))
    return _coded(lambda: take_part(job(), run))


def _coded(run: Callable[[], int]) -> int:
    """What `run` returns, or the exit code of the error that it ends with."""
    try:
        return run()
    except NonFiniteError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_NON_FINITE
    except (CheckpointMismatch, DataError, GroupsError, InitFromError, JoinError, ShardError, ShardingError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_MISFIT


if __name__ == "__main__":
    sys.exit(main())
