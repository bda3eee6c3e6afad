"""Trains a stage.

    python -m launch.train --config=configs/quickstart.py --workdir=out/quickstart [--config.train.steps=100]

The config says which stage it is (`config.stage`):

STAGES

Run the same command again to go on from the newest checkpoint in the workdir. On several machines, start it on each
with `--distributed`, on a workdir that all of them see: SLURM, Open MPI and Cloud TPU say who is who, elsewhere give
--coordinator=HOST:PORT --num_processes=N --process_id=I (docs/cluster.md). Process 0 alone prints; the others print
only what it cannot know.

Held-out data are scored on the way as `launch.evaluate` does it, and the best parameters are kept in WORKDIR/best:
    --config.evals.every=500 --config.evals.dirs=data/heldout --config.evals.best=f1

Exit codes:
  0    done (or at `--config.train.stop_at_step`)
  1    the disk is full; what was saved before is whole
  2    the config, the data, the mesh or the workdir do not fit each other; the message says what to change
  3    loss or gradient was not finite; the message names the records
  75   start the same command again: SIGTERM (saved), or another process did not come, or was lost
  130  Ctrl-C: saved
"""

import errno
import sys
from collections.abc import Callable, Sequence

from absl import logging

from data_pipelines.manifest import ShardError
from mmduplex_jax.sharding import ShardingError
from mmduplex_jax.stages.config_file import add_config_flag, command_parser, parse_args
from mmduplex_jax.stages.registry import describe_stages
from mmduplex_jax.stages.training import train
from mmduplex_jax.train.distributed import EXIT_FAILED, EXIT_MISFIT, Job, JoinError, take_part, voices
from mmduplex_jax.train.feed import DataError
from mmduplex_jax.train.loop import NonFiniteError
from mmduplex_jax.train.optimizer import GroupsError
from mmduplex_jax.train.workdir import WorkdirError
from mmduplex_jax.weights.checkpoint import CheckpointError, DiskFull
from mmduplex_jax.weights.init_from import InitFromError

EXIT_NON_FINITE = 3
_MISFITS = (CheckpointError, DataError, GroupsError, InitFromError, JoinError, ShardError, ShardingError, WorkdirError)


def say(line: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(line, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the flags, trains, and turns expected errors into an exit code."""
    flags = command_parser("launch.train", (__doc__ or "STAGES").replace("STAGES", describe_stages()))
    add_config_flag(flags)
    add = flags.add_argument
    add("--workdir", metavar="DIR", required=True, help="of the run: checkpoints/, metrics.jsonl, tensorboard/, best/")
    add("--from_step", type=int, metavar="N", help="go on from this checkpoint; newer ones are set aside")
    add("--distributed", action="store_true", help="one of several processes, as SLURM, Open MPI or Cloud TPU name it")
    add("--coordinator", metavar="HOST:PORT", default="", help="of process 0, where nobody names it; with the next two")
    add("--num_processes", type=int, default=-1, metavar="N", help="how many processes there are")
    add("--process_id", type=int, default=-1, metavar="I", help="which of them this is, from 0")
    add("--join_timeout_s", type=int, default=300, help="how long to wait for all of them (default: %(default)s)")
    add("--peer_timeout_s", type=int, default=100, help="a process silent for so long is lost (default: %(default)s)")
    args = parse_args(flags, argv)
    logging.set_verbosity(logging.FATAL)  # Orbax logs every file at INFO, and errors that are raised as well
    run = lambda log, warn=None: train(args.config, args.workdir, log, warn, args.from_step)
    if not (args.distributed or args.coordinator or args.num_processes != -1 or args.process_id != -1):
        return _coded(lambda: run(say))
    job = lambda: Job(args.coordinator, args.num_processes, args.process_id, args.join_timeout_s, args.peer_timeout_s)
    return _coded(lambda: take_part(job(), lambda: _coded(lambda: run(*voices(say)))))


def _coded(run: Callable[[], int]) -> int:
    """What `run` returns, or the exit code of the error that it ends with."""
    try:
        return run()
    except NonFiniteError as error:
        code, line = EXIT_NON_FINITE, str(error)
    except DiskFull as error:
        code, line = EXIT_FAILED, str(error)
    except _MISFITS as error:
        code, line = EXIT_MISFIT, str(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        code, line = EXIT_FAILED, f"{error}: make room, and start the same command again"
    print(f"error: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
