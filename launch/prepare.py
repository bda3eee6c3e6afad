"""Prepares data for training: a source's clips as shards of records, with a manifest.

    python -m launch.prepare --config=configs/data/world.py --out=data/world-plain
    python -m launch.prepare --config=configs/data/world.py --config.look=rich --config.clips=9600 --out=data/world-rich

The configuration says what to make; any of its values can be changed by --config.NAME=VALUE. --out receives
shard-NNNNN-of-MMMMM.arrayrecord and manifest.json (counts, hashes, clock, configuration). All cores work on it.

Interrupted? Run the same command again: finished shards are kept, the rest is written, and the files are the same, byte
for byte, as if nothing had happened. A run over finished data does nothing. If reading reports a damaged shard, run
the same command with --verify: it compares every hash and rewrites what does not match. Data of another configuration
in --out is never overwritten; the differences are listed instead.

Then train on it:  python -m launch.train --config=configs/quickstart.py --workdir=DIR
"""

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags
from tqdm import tqdm

from data_pipelines.shards import ImageFormat, ShardError, WriteReport, write_shards
from data_pipelines.sources import Source


def source_of(config: Mapping[str, Any]) -> Source:
    """The source that `config["source"]` names; ValueError if there is none of that name."""
    sources: dict[str, Callable[[Mapping[str, Any]], Source]] = {"world": _world}
    if config["source"] not in sources:
        raise ValueError(f"config.source {config['source']!r} is unknown, choose one of {sorted(sources)}")
    return sources[config["source"]](config)


def summary_of(report: WriteReport, directory: Path, wall_s: float) -> dict[str, Any]:
    """What was made, as JSON values."""
    manifest = report.manifest
    return {
        "directory": str(directory),
        "records": manifest.num_records,
        "duration_s": manifest.duration_s,
        "words": sum(shard.words for shard in manifest.shards),
        "size_bytes": sum(shard.size_bytes for shard in manifest.shards),
        "shards": manifest.num_shards,
        "shards_written": len(report.written),
        "shards_kept": len(report.kept),
        "shards_damaged": len(report.damaged),
        "rejected_by_cause": manifest.rejected_by_cause(),
        "wall_s": wall_s,
    }


def prepare(config: Mapping[str, Any], directory: Path, *, workers: int = 0, verify: bool = False) -> dict[str, Any]:
    """Makes the data of a configuration, with a progress bar, and returns the summary.

    Args:
      config: plain values, as `ConfigDict.to_dict` gives them.
      directory: see --out.
      workers: processes, 0 for all cores.
      verify: see --verify.

    Raises:
      ShardError: the directory holds other data, or writing failed.
      ValueError: the configuration is wrong.
    """
    begin_s = time.monotonic()
    source = source_of(config)
    # A line in a log file every ten seconds, or a bar that moves where someone watches.
    with tqdm(total=len(source), unit="clip", mininterval=0.2 if sys.stderr.isatty() else 10.0, desc="prepare") as bar:

        def show(done: int, total: int) -> None:
            if bar.initial == bar.n == 0:
                bar.initial = bar.n = done  # kept shards do not count for the speed
            bar.total = total
            bar.update(done - bar.n)

        report = write_shards(
            source,
            directory,
            config=json.loads(json.dumps(config)),
            units_per_shard=config["units_per_shard"],
            image=ImageFormat(config["image"]["format"], config["image"]["quality"]),
            workers=workers or len(os.sched_getaffinity(0)),
            verify=verify,
            on_progress=show,
        )
    return summary_of(report, directory, time.monotonic() - begin_s)


def table_of(summary: Mapping[str, Any]) -> str:
    """The summary for people."""
    size_mb = summary["size_bytes"] / 1e6
    duration_s = summary["duration_s"]
    rows = [
        ("directory", summary["directory"]),
        ("records", f"{summary['records']:,}"),
        ("video", f"{duration_s / 3600:.2f} h, {summary['words'] / max(duration_s, 1e-9):.2f} words a second"),
        ("size", f"{size_mb:,.1f} MB"),
        ("shards", f"{summary['shards']}: {summary['shards_written']} written, {summary['shards_kept']} kept"),
        ("time", f"{summary['wall_s']:.1f} s"),
    ]
    if summary["shards_damaged"]:
        rows.append(("damaged", f"{summary['shards_damaged']} shards did not match the manifest and were rewritten"))
    rows += [(f"rejected, {cause}", f"{count:,}") for cause, count in sorted(summary["rejected_by_cause"].items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    if len(argv) > 1:
        print(f"prepare: {argv[1]!r} is no flag; see --help", file=sys.stderr)
        return 2
    try:
        summary = prepare(
            flags.FLAGS.config.to_dict(),
            Path(flags.FLAGS.out),
            workers=flags.FLAGS.workers,
            verify=flags.FLAGS.verify,
        )
    except (ShardError, ValueError, OSError) as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nprepare: stopped. Finished shards are kept; the same command goes on from here.", file=sys.stderr)
        return 130
    print(table_of(summary))
    if flags.FLAGS.json:
        Path(flags.FLAGS.json).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return 0


def _world(config: Mapping[str, Any]) -> Source:
    from data_pipelines.sources.world import world_source

    return world_source(config)


def define_flags() -> None:
    """Declares the flags; not at import, so that programs beside this one may have a `--config` of their own."""
    config_flags.DEFINE_config_file("config", None, "What to make, e.g. configs/data/world.py.", lock_config=True)
    flags.DEFINE_string("out", None, "The directory for shards and manifest; made if it is not there.")
    flags.DEFINE_integer("workers", 0, "Processes; 0 takes all cores. The result does not depend on it.", 0)
    flags.DEFINE_bool("verify", False, "Compare the hash of every shard that is there, rewrite damaged ones.")
    flags.DEFINE_string("json", None, "Also write the summary as JSON to this file.")
    flags.mark_flags_as_required(["config", "out"])


if __name__ == "__main__":
    define_flags()
    app.run(main)
