"""Preparing: a configuration to shards, with progress and a summary for people. `launch.prepare` is its command."""

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_pipelines.manifest import MANIFEST_NAME, NOTES_NAME, REJECTED_NAME, summary_of
from data_pipelines.shards import ImageFormat, Motion, Progress, WriteReport, write_shards
from data_pipelines.sources.registry import source_of


def prepare(
    config: Mapping[str, Any],
    directory: Path,
    *,
    workers: int = 0,
    verify: bool = False,
    motion: Motion | None = None,
    runner: str | None = None,
    runner_options: Sequence[str] = (),
) -> WriteReport:
    """Makes the data of a configuration, with a progress bar.

    Args:
      config: plain values, as `ConfigDict.to_dict` gives them.
      directory: receives the data; made if it is not there.
      workers: processes, 0 for all cores.
      verify, motion, runner, runner_options: see `shards.write_shards`.

    Raises:
      ShardError: the directory holds other data, or writing failed.
      ValueError: the configuration is wrong.
      OSError: what it is about cannot be read.
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
    interval_s = 0.2 if sys.stderr.isatty() else 10.0
    # (Not at once: what is wrong is said within a second, and an empty bar before it helps nobody.)
    with tqdm(total=len(source), unit="unit", mininterval=interval_s, delay=1.0, desc="prepare") as bar:
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
            # What of `speech` decides the sound, the source says; where a program lies does not.
            config=json.loads(json.dumps({name: value for name, value in config.items() if name != "speech"})),
            units_per_shard=units_per_shard,
            image=ImageFormat(config["image"]["format"], config["image"]["quality"]),
            workers=workers,
            verify=verify,
            motion=motion,
            runner=runner,
            runner_options=runner_options,
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
