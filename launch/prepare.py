r"""Prepares data for training: videos with their words, or the built-in world, as shards of records.

    python -m launch.prepare --config=configs/data/folder.py --config.root=VIDEOS --out=data/mine
    python -m launch.prepare --config=configs/data/world.py --out=data/world-plain
    python -m launch.prepare --config=configs/data/world.py --config.look=rich --config.clips=9600 --out=data/world-rich

The configuration says what to make (`config.source`); any of its values can be changed by --config.NAME=VALUE:

SOURCES

--out receives
shard-NNNNN-of-MMMMM.arrayrecord; manifest.json (counts, hashes, clock, configuration); summary.json (hours, bytes,
words, rejected by cause); rejected.jsonl (each input that is not used, and why); notes.jsonl (what of the others was
left out or mended); and parts, the same of each shard.

Interrupted? Run the same command again: finished shards are kept, the rest is written, and the files are the same, byte
for byte, as if nothing had happened. A run over finished data does nothing. If reading reports a damaged shard, run
the same command with --verify: it compares every hash and rewrites what does not match. Files of a folder were added,
changed or removed? The same command says which, prepares those and takes over the rest. Data of another configuration
in --out is never overwritten; the differences are listed instead.

All cores of this machine work on it. With --runner Apache Beam does instead, on this machine or on many, with the same
bytes as the result (pip install "mmduplex-jax[data]"); every machine must see --out and the videos in the same place:

    python -m launch.prepare ... --runner=DirectRunner \
        --runner_options="--direct_num_workers=2 --direct_running_mode=multi_processing"
    python -m launch.prepare ... --runner=DaskRunner --runner_options="--dask_client_address=tcp://HOST:8786"
    python -m launch.prepare ... --runner=FlinkRunner --runner_options="--flink_master=HOST:8081 --parallelism=64"

DaskRunner wants pip install "mmduplex-jax[dask]"; without an address it starts workers on this machine. docs/data.md
says what of this was run.

Exit codes: 0 done; 1 something does not fit, or every input was rejected; 2 no such flag or field; 130 Ctrl-C.

Then look at it:    python -m launch.inspect DIR
and train on it:    python -m launch.train --config=configs/quickstart.py --workdir=DIR --config.data.dirs=DIR
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.manifest import ShardError, summary_of
from data_pipelines.prepare import prepare, table_of
from data_pipelines.sources.registry import describe_sources
from mmduplex_jax.stages.config_file import add_config_flag, add_json_flag, command_parser, run_main, show
from mmduplex_jax.tokenizer.motion_field import motion_of


def work(args: argparse.Namespace) -> int:
    """Prepares, and prints what was made; returns the exit code."""
    begin_s, directory, config = time.monotonic(), Path(args.out), args.config.to_dict()
    report = prepare(
        config,
        directory,
        workers=args.workers,
        verify=args.verify,
        motion=motion_of(config),
        runner=args.runner,
        runner_options=shlex.split(args.runner_options),
    )
    summary = summary_of(report.manifest)
    show(args, summary, table_of(report, directory, time.monotonic() - begin_s))
    if not summary["samples"]:
        print(f"prepare: every one of {summary['units']:,} units was rejected, nothing to train on", file=sys.stderr)
    return 0 if summary["samples"] else 1


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code (see above)."""
    flags = command_parser("launch.prepare", (__doc__ or "SOURCES").replace("SOURCES", describe_sources()))
    add_config_flag(flags, help="what to make, e.g. configs/data/world.py; change its fields with --config.a.b=VALUE")
    add = flags.add_argument
    add("--out", metavar="DIR", required=True, help="receives shards and what is said about them; made if need be")
    add("--workers", type=int, default=0, metavar="N", help="processes; 0 takes all cores. They change no byte")
    add("--verify", action="store_true", help="compare the hash of every shard that is there, rewrite damaged ones")
    add(
        "--runner",
        metavar="NAME",
        help="write by Apache Beam: DirectRunner, DaskRunner, FlinkRunner, SparkRunner, DataflowRunner ...",
    )
    add(
        "--runner_options", default="", metavar="TEXT", help="of that runner, as on the command line of a Beam pipeline"
    )
    add_json_flag(flags, "write summary.json here too")
    stopped = "stopped. Finished shards are kept; the same command goes on from here."
    return run_main(flags, argv, work, {ShardError: 1, ValueError: 1, OSError: 1}, stopped=stopped)


if __name__ == "__main__":
    sys.exit(main())
