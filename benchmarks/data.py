r"""Real data against its peers, in one run on one machine: videos to shards, and shards to batches.

    python -m benchmarks.data --videos=FOLDER --out=runs/data_benchmark
    python -m benchmarks.data \
        --videos=FOLDER --out=runs/data_benchmark --workers=4 --rounds=5 --json=data.json

Decoding: every arm turns the same videos into 256 px frames at the tick times, in as many processes, one after another
in turn, `--rounds` times. `shards` is all that `launch.prepare` does: decoding, motion, JPEG, ArrayRecord. Reading: the
frames of the same videos, cut into clips, in shuffled batches: our loader (with the words' slots) against torch's
DataLoader over arrays and over JPEG files, and WebDataset, with as many workers. Rates are medians over rounds.

It needs the extra `bench` (torch, torchcodec, webdataset, decord); an arm whose library is missing is listed as such.
"""

import argparse
import functools
import importlib.util
import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import data_peers
from data_pipelines.clip_reader import Clip, probe, read_clips
from data_pipelines.loader import make_loader
from data_pipelines.shards import ImageFormat, open_dataset, write_shards
from data_pipelines.sources import Item
from data_pipelines.sources.folder import folder_source
from data_pipelines.windows import Window
from mmduplex_jax.clock import Clock
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, parse_args, write_json
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer.motion_field import MotionField, motion_of

CLOCK = Clock()
# More than any of the loaders holds ready for each worker.
_BATCHES_AHEAD = 4
SUFFIXES = {".mp4", ".webm", ".mkv", ".mov", ".avi"}


def ours(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """Our frames of a whole video."""
    length = probe(path)
    found = next(read_clips(path, [Window(0, length.begin_s, length.end_s, 0.0)], clock, frame_px))
    if not isinstance(found, Clip):
        raise ValueError(f"{path}: {found.cause}: {found.detail}")
    return found.frames


@functools.cache
def _motion() -> MotionField:
    return MotionField(plane_px=32, search_radius=3)


def ours_with_motion(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """Our frames, and the motion between them."""
    frames = ours(path, clock, frame_px)
    _motion()(frames)
    return frames


def arms() -> dict[str, tuple[Callable[[Path, Clock, int], np.ndarray], str]]:
    """Every way to decode, and the module that it needs."""
    return {
        "ours": (ours, "av"),
        "ours, with motion": (ours_with_motion, "av"),
        "PyAV, frame threads": (functools.partial(data_peers.pyav, threads="AUTO"), "av"),
        "PyAV, one thread": (functools.partial(data_peers.pyav, threads="NONE"), "av"),
        "torchcodec": (data_peers.torchcodec, "torchcodec"),
        "decord": (data_peers.decord, "decord"),
    }


def missing(module: str) -> bool:
    """Whether a peer cannot be imported here."""
    return importlib.util.find_spec(module) is None


def _ticks(arm: str, path: Path, frame_px: int) -> int:
    import cv2

    cv2.setNumThreads(1)
    return len(arms()[arm][0](path, CLOCK, frame_px))


def decoding(videos: list[Path], copies: int, workers: int, rounds: int, frame_px: int) -> list[dict[str, Any]]:
    """Ticks a second of every arm, in turn, in the same number of processes."""
    there = [name for name, (_, module) in arms().items() if not missing(module)]
    rates: dict[str, list[float]] = {name: [] for name in there}
    ticks: dict[str, int] = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for name in there:  # imports, compiling, and the page cache are not what is measured
            list(pool.map(_ticks, [name] * 4 * workers, videos[:1] * 4 * workers, [frame_px] * 4 * workers))
        for number in range(rounds):
            for name in there:
                tasks = videos * copies
                began_s = time.perf_counter()
                ticks[name] = sum(pool.map(_ticks, [name] * len(tasks), tasks, [frame_px] * len(tasks)))
                rates[name].append(ticks[name] / (time.perf_counter() - began_s))
                print(f"round {number + 1}: {name}: {rates[name][-1]:.0f} ticks/s", file=sys.stderr)
    return [
        {
            "arm": name,
            "ticks_per_s": statistics.median(rates[name]),
            "hours_of_video_an_hour": statistics.median(rates[name]) * CLOCK.tick_s,
            "least": min(rates[name]),
            "most": max(rates[name]),
            "ticks": ticks[name],
        }
        for name in there
    ]


def folder_config(root: Path, frame_px: int, window_s: float) -> dict[str, Any]:
    """configs/data/folder.py with the values of this benchmark."""
    from configs.data.folder import get_config

    config = get_config()
    config.root = str(root)
    config.frame_px = frame_px
    config.clip.window_s = window_s
    config.clip.shortest_s = window_s
    config.keep_without_words = True
    config.duplicates = "keep"
    config.motion.keep = True
    config.units_per_shard = 4
    return config.to_dict()


def sharding(videos: list[Path], out: Path, copies: int, workers: int, frame_px: int) -> dict[str, Any]:
    """All of `launch.prepare`, process start and compiling included, over copies of the videos."""
    root = out / "videos"
    root.mkdir(parents=True)
    for copy in range(copies):
        for path in videos:
            (root / f"{copy:03d}-{path.name}").symlink_to(path.resolve())
    config = folder_config(root, frame_px, window_s=4.0)
    began_s = time.perf_counter()
    report = write_shards(
        folder_source(config),
        out / "shards",
        config=config,
        units_per_shard=config["units_per_shard"],
        image=ImageFormat(config["image"]["format"], config["image"]["quality"]),
        workers=workers,
        motion=motion_of(config),
    )
    wall_s = time.perf_counter() - began_s
    manifest = report.manifest
    size_bytes = sum(shard.size_bytes for shard in manifest.shards)
    return {
        "clips": manifest.num_records,
        "wall_s": wall_s,
        "hours_of_video_an_hour": manifest.duration_s / wall_s,
        "bytes_an_hour_of_video": size_bytes / manifest.duration_s * 3600,
    }


def batches_of_ours(directory: Path, batch_size: int, workers: int, epochs: int, processes: bool) -> Iterator:
    """Our loader, with words' slots, on threads or on processes."""
    loader = make_loader(
        str(directory),
        TextTokenizer.word_level(["a"]),
        batch_size=batch_size,
        repeat=epochs,
        drop_remainder=True,
        threads=0 if processes else workers,
        worker_processes=workers if processes else 0,
    )
    try:
        for batch in loader:
            yield batch["frames"]
    finally:
        loader.close()


def reading(shards: Path, out: Path, workers: int, rounds: int, batch_size: int, epochs: int) -> list[dict[str, Any]]:
    """Samples a second of every loader over the same clips, in turn."""
    dataset = open_dataset(shards)
    clips = lambda: (dataset[number].frames for number in range(len(dataset)))
    raw = out / "shards_raw"
    copy_raw(dataset, raw)
    data_peers.write_arrays(clips(), out / "arrays")
    data_peers.write_pictures(clips(), out / "pictures", quality=90)
    data_peers.write_tars(clips(), out / "tars", quality=90)
    torch_over = lambda kind, folder: lambda: data_peers.torch_loader(kind(out / folder), batch_size, workers, epochs)
    loaders: dict[str, tuple[str, Callable[[], Iterator]]] = {
        "ours, JPEG, threads": ("grain", lambda: batches_of_ours(shards, batch_size, workers, epochs, False)),
        "ours, JPEG, processes": ("grain", lambda: batches_of_ours(shards, batch_size, workers, epochs, True)),
        "ours, raw, threads": ("grain", lambda: batches_of_ours(raw, batch_size, workers, epochs, False)),
        "torch DataLoader, .npy": ("torch", torch_over(data_peers.ArrayClips, "arrays")),
        "torch DataLoader, JPEG files, OpenCV": ("torch", torch_over(data_peers.PictureClips, "pictures")),
        "torch DataLoader, JPEG files, Pillow": (
            "torch",
            torch_over(functools.partial(data_peers.PictureClips, pillow=True), "pictures"),
        ),
        "WebDataset, JPEG": (
            "webdataset",
            lambda: data_peers.webdataset_loader(out / "tars", batch_size, workers, epochs, len(dataset)),
        ),
    }
    there = {name: make for name, (module, make) in loaders.items() if not missing(module)}
    rates: dict[str, list[float]] = {name: [] for name in there}
    clip_mb = dataset[0].frames.nbytes / 1e6
    for number in range(rounds):
        for name, make in there.items():
            rates[name].append(_samples_per_s(make(), workers))
            print(f"round {number + 1}: {name}: {rates[name][-1]:.1f} samples/s", file=sys.stderr)
    return [
        {
            "loader": name,
            "samples_per_s": statistics.median(found),
            "mb_per_s": statistics.median(found) * clip_mb,
            "frames_per_s": statistics.median(found) * len(dataset[0].frames),
            "least": min(found),
            "most": max(found),
        }
        for name, found in rates.items()
    ]


def copy_raw(dataset: Any, directory: Path) -> None:
    """The same records with frames that are not compressed."""
    write_shards(
        CopiedRecords(dataset),
        directory,
        config={"copy_of": str(dataset.directory)},
        units_per_shard=64,
        image=ImageFormat("raw"),
    )


class CopiedRecords:
    """A dataset as a source, to store it in another format."""

    def __init__(self, dataset: Any):
        self.dataset, self.clock, self.flip_safe = dataset, dataset.clock, dataset.manifest.flip_safe

    def __len__(self) -> int:
        return len(self.dataset)

    def describe(self) -> dict[str, Any]:
        return {"kind": "copy", "records": len(self.dataset)}

    def items(self, begin: int, end: int) -> Iterator[Item]:
        for unit in range(begin, end):
            record = self.dataset[unit]
            yield Item(unit, record.key, record)


def _samples_per_s(batches: Iterator, workers: int) -> float:
    """Measured when workers have started and what they made ahead is used up: their steady rate."""
    for _ in range(_BATCHES_AHEAD * workers):
        next(batches)
    samples, began_s = 0, time.perf_counter()
    for batch in batches:
        samples += len(batch)
    return samples / (time.perf_counter() - began_s)


def table(found: dict[str, Any]) -> str:
    """The measurements for people, in Markdown."""
    fastest = max(row["ticks_per_s"] for row in found["decoding"] if not row["arm"].startswith("ours"))
    lines = [
        "| decoding to ticks of 256 px | ticks/s | hours of video an hour | to the fastest peer |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['arm']} | {row['ticks_per_s']:,.0f} ({row['least']:,.0f}–{row['most']:,.0f}) | "
        f"{row['hours_of_video_an_hour']:,.0f} | {row['ticks_per_s'] / fastest:.2f} |"
        for row in found["decoding"]
    ]
    made = found["sharding"]
    lines += [
        "",
        f"`launch.prepare` as a whole, motion, JPEG and the start of its processes included: "
        f"{made['hours_of_video_an_hour']:,.0f} hours of video an hour, "
        f"{made['bytes_an_hour_of_video'] / 1e6:,.0f} MB an hour of video.",
        "",
        "| reading shuffled clips | samples/s | MB/s of frames | frames/s |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['loader']} | {row['samples_per_s']:,.1f} ({row['least']:,.1f}–{row['most']:,.1f}) | "
        f"{row['mb_per_s']:,.0f} | {row['frames_per_s']:,.0f} |"
        for row in found["reading"]
    ]
    for name in found["not_installed"]:
        lines.append(f"\nNot installed here, so not measured: {name}.")
    return "\n".join(lines) + "\n"


def parser() -> argparse.ArgumentParser:
    """The flags."""
    parser = command_parser("benchmarks.data", __doc__)
    add = parser.add_argument
    add("--videos", required=True, type=Path, metavar="DIR", help="videos of 4 s and more; shorter ones are left out")
    add("--out", required=True, type=Path, metavar="DIR", help="a new folder for shards and copies; removed at the end")
    add("--workers", type=int, default=0, help="processes or threads of every arm; 0: as many as cores")
    add("--rounds", type=int, default=3, help="times that every arm is run (default: %(default)s)")
    add("--copies", type=int, default=4, help="how often each video is decoded in a round (default: %(default)s)")
    add("--epochs", type=int, default=12, help="how often each clip is read in a round (default: %(default)s)")
    add("--batch", type=int, default=8, help="clips in a batch (default: %(default)s)")
    add("--frame_px", type=int, default=256, help="side of the frames (default: %(default)s)")
    add_json_flag(parser)
    add("--markdown", type=Path, metavar="FILE", help="write the tables here")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Measures, prints the tables, and returns the exit code."""
    args = parse_args(parser(), argv)
    flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's flags
    if args.out.exists():
        print(f"error: {args.out} is there already; name a new folder", file=sys.stderr)
        return 2
    names = sorted(path for path in args.videos.iterdir() if path.suffix in SUFFIXES)
    videos = [path for path in names if probe(path).duration_s >= 4.0]
    if not videos:
        print(f"error: {args.videos} holds no video of at least 4 s", file=sys.stderr)
        return 2
    workers = args.workers or len(os.sched_getaffinity(0))
    args.out.mkdir(parents=True)
    try:
        made = sharding(videos, args.out, args.copies, workers, args.frame_px)
        found = {
            "machine": {"processor": platform.processor() or platform.machine(), "workers": workers},
            "videos": [path.name for path in videos],
            "decoding": decoding(videos, args.copies, workers, args.rounds, args.frame_px),
            "sharding": made,
            "reading": reading(args.out / "shards", args.out, workers, args.rounds, args.batch, args.epochs),
            "not_installed": [m for m in ("torch", "torchcodec", "webdataset", "decord") if missing(m)],
        }
    finally:
        shutil.rmtree(args.out)
    if args.json != "-":
        print(table(found))
    write_json(args.json, found)
    if args.markdown:
        args.markdown.write_text(table(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
