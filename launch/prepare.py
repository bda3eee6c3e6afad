r"""Prepares data for training: videos with their words, or the built-in world, as shards of records.

    python -m launch.prepare --config=configs/data/folder.py --config.root=VIDEOS --out=data/mine
    python -m launch.prepare --config=configs/data/world.py --out=data/world-plain
    python -m launch.prepare --config=configs/data/world.py --config.look=rich --config.clips=9600 --out=data/world-rich

The configuration says what to make; any of its values can be changed by --config.NAME=VALUE. --out receives
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
    python -m launch.prepare ... --runner=FlinkRunner --runner_options="--flink_master=HOST:8081 --parallelism=64"

Exit codes: 0 done; 1 something does not fit, or every input was rejected; 2 no such flag; 130 Ctrl-C.

Then look at it:    python -m launch.inspect DIR
and train on it:    python -m launch.train --config=configs/quickstart.py --workdir=DIR --config.data.dirs=DIR
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags
from tqdm import tqdm

from data_pipelines.manifest import MANIFEST_NAME, NOTES_NAME, REJECTED_NAME, summary_of
from data_pipelines.shards import ImageFormat, Motion, Progress, ShardError, WriteReport, write_shards
from data_pipelines.sources import Source


def source_of(config: Mapping[str, Any]) -> Source:
    """The source that `config["source"]` names; ValueError if there is none of that name."""
    sources: dict[str, Callable[[Mapping[str, Any]], Source]] = {
        "folder": _folder,
        "livecc": _livecc,
        "pevideo": _pevideo,
        "world": _world,
    }
    if config["source"] not in sources:
        raise ValueError(f"config.source {config['source']!r} is unknown, choose one of {sorted(sources)}")
    return sources[config["source"]](config)


def motion_of(config: Mapping[str, Any]) -> Motion | None:
    """What computes the motion fields that `config["motion"]` asks for; None where it asks for none.

    Raises:
      ValueError: the fields are not possible, or not for frames of `config["frame_px"]`.
    """
    motion = config.get("motion")
    if motion is None or not motion["keep"]:
        return None
    if config["frame_px"] % motion["plane_px"]:
        raise ValueError(
            f"config.motion.plane_px must divide config.frame_px, {config['frame_px']}, without rest, got "
            f"{motion['plane_px']}: change one of them, or set --config.motion.keep=False"
        )
    from mmduplex_jax.tokenizer.motion_field import MotionField

    return MotionField(plane_px=motion["plane_px"], search_radius=motion["search_radius"])


def prepare(
    config: Mapping[str, Any],
    directory: Path,
    *,
    workers: int = 0,
    verify: bool = False,
    runner: str | None = None,
    runner_options: str = "",
) -> WriteReport:
    """Makes the data of a configuration, with a progress bar.

    Args:
      config: plain values, as `ConfigDict.to_dict` gives them.
      directory: see --out.
      workers: processes, 0 for all cores.
      verify: see --verify.
      runner: see --runner.
      runner_options: see --runner_options.

    Raises:
      ShardError: the directory holds other data, or writing failed.
      ValueError: the configuration is wrong.
    """
    begin_s = time.monotonic()
    source = source_of(config)
    workers = workers or len(os.sched_getaffinity(0))
    units_per_shard = config["units_per_shard"]
    at_once = -(-len(source) // max(units_per_shard, 1))
    finished = (directory / MANIFEST_NAME).exists()
    if runner is None and not finished and at_once < min(workers, len(source)):
        print(
            f"prepare: {len(source):,} units at {units_per_shard} a shard keep {at_once} of {workers} processes busy; "
            "with a smaller --config.units_per_shard more of them work",
            file=sys.stderr,
        )
    # A line in a log file every ten seconds, or a bar that moves where someone watches.
    with tqdm(total=len(source), unit="unit", mininterval=0.2 if sys.stderr.isatty() else 10.0, desc="prepare") as bar:
        shown_s: float | None = None

        def show(progress: Progress) -> None:
            nonlocal shown_s
            now_s = time.monotonic()
            if shown_s is None:
                bar.initial = bar.n = progress.units  # kept shards do not count for the speed
            bar.set_postfix_str(f"{progress.written_s / max(now_s - begin_s, 1e-9):,.0f} h of video/h", refresh=False)
            shown = bar.update(progress.units - bar.n)
            if not shown and shown_s is not None and now_s - shown_s > bar.mininterval:
                bar.refresh()  # a unit may take long, the video in it goes on
                shown = True
            if shown or shown_s is None:
                shown_s = now_s

        return write_shards(
            source,
            directory,
            config=json.loads(json.dumps(config)),
            units_per_shard=units_per_shard,
            image=ImageFormat(config["image"]["format"], config["image"]["quality"]),
            workers=workers,
            verify=verify,
            motion=motion_of(config),
            runner=runner,
            runner_options=shlex.split(runner_options),
            on_progress=show,
        )


def table_of(report: WriteReport, directory: Path, wall_s: float) -> str:
    """What was made and how fast, for people."""
    summary = summary_of(report.manifest)
    written = set(report.written)
    written_s = sum(one.ticks for one in report.manifest.shards if one.name in written) * report.manifest.clock.tick_s
    rows = [
        ("directory", str(directory)),
        ("samples", f"{summary['samples']:,}, the longest of {summary['longest_s']:.1f} s"),
        ("video", f"{summary['hours']:,.2f} h, {summary['words_a_second']:.2f} words a second"),
        ("size", f"{summary['bytes'] / 1e6:,.1f} MB, {summary['bytes_an_hour'] / 1e6:,.1f} MB an hour of video"),
        ("shards", f"{summary['shards']:,}: {len(written):,} written, {len(report.kept):,} kept"),
        ("time", f"{wall_s:,.1f} s, {written_s / max(wall_s, 1e-9):,.0f} hours of video an hour"),
    ]
    if report.damaged:
        rows.append(("damaged", f"{len(report.damaged)} shards were not as they had been written and were rewritten"))
    listed = f", listed in {directory / REJECTED_NAME}" if summary["rejected"] else ""
    rows.append(("rejected", f"{summary['rejected_samples']:,}{listed}"))
    rows += [(f"  {cause}", f"{count:,}") for cause, count in summary["rejected"].items()]
    if summary["notes"]:
        rows.append(("in what is used", f"listed in {directory / NOTES_NAME}"))
        rows += [(f"  {cause}", f"{count:,}") for cause, count in summary["notes"].items()]
    if report.change is not None:
        rows.insert(1, ("files", f"changed since this was written: {report.change}; the rest is kept as it was"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if len(argv) > 1:
        print(f"prepare: {argv[1]!r} is no flag; see --help", file=sys.stderr)
        return 2
    begin_s = time.monotonic()
    directory = Path(flags.FLAGS.out)
    try:
        if flags.FLAGS.json and not Path(flags.FLAGS.json).absolute().parent.is_dir():
            # Now, and not after hours of work.
            folder = Path(flags.FLAGS.json).absolute().parent
            raise ValueError(f"--json={flags.FLAGS.json}: there is no folder {folder}")
        report = prepare(
            flags.FLAGS.config.to_dict(),
            directory,
            workers=flags.FLAGS.workers,
            verify=flags.FLAGS.verify,
            runner=flags.FLAGS.runner,
            runner_options=flags.FLAGS.runner_options,
        )
    except (ShardError, ValueError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprepare: stopped. Finished shards are kept; the same command goes on from here.", file=sys.stderr)
        return 130
    print(table_of(report, directory, time.monotonic() - begin_s))
    summary = summary_of(report.manifest)
    if flags.FLAGS.json:
        text = json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False)
        Path(flags.FLAGS.json).write_text(text + "\n", encoding="utf-8")
    if not summary["samples"]:
        print(f"prepare: every one of {summary['units']:,} units was rejected, nothing to train on", file=sys.stderr)
        return 1
    return 0


def _folder(config: Mapping[str, Any]) -> Source:
    from data_pipelines.sources.folder import folder_source

    return folder_source(config)


def _livecc(config: Mapping[str, Any]) -> Source:
    from data_pipelines.sources.livecc import livecc_source

    return livecc_source(config)


def _pevideo(config: Mapping[str, Any]) -> Source:
    from data_pipelines.sources.pevideo import pevideo_source

    return pevideo_source(config)


def _world(config: Mapping[str, Any]) -> Source:
    from data_pipelines.sources.world import world_source

    return world_source(config)


def define_flags() -> None:
    """Declares the flags; not at import, so that programs beside this one may have a `--config` of their own."""
    config_flags.DEFINE_config_file("config", None, "What to make, e.g. configs/data/world.py.", lock_config=True)
    flags.DEFINE_string("out", None, "The directory for shards and what is said about them; made if it is not there.")
    flags.DEFINE_integer("workers", 0, "Processes; 0 takes all cores. The result does not depend on it.", 0)
    flags.DEFINE_bool("verify", False, "Compare the hash of every shard that is there, rewrite damaged ones.")
    flags.DEFINE_string(
        "runner", None, "Write by Apache Beam: DirectRunner, FlinkRunner, SparkRunner, DataflowRunner ..."
    )
    flags.DEFINE_string("runner_options", "", "Options of that runner, as on the command line of a Beam pipeline.")
    flags.DEFINE_string("json", None, "Also write summary.json to this file.")
    flags.mark_flags_as_required(["config", "out"])


if __name__ == "__main__":
    define_flags()
    app.run(main)
