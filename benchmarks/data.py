r"""Real data against its peers, in one run on one machine: videos to shards, and shards to batches.

    python -m benchmarks.data --videos=FOLDER --out=runs/data_benchmark
    python -m benchmarks.data \
        --videos=FOLDER --out=runs/data_benchmark --workers=4 --rounds=5 --json=data.json

Decoding: every arm turns the same videos into 256 px frames at the tick times, in as many processes, one after another
in turn, `--rounds` times. `shards` is all that `launch.prepare` does: decoding, motion, JPEG, ArrayRecord. Reading: the
frames of the same videos, cut into clips, in shuffled batches: our loader (with the words' slots) against torch's
DataLoader over arrays and over JPEG files, and WebDataset, with as many workers. Rates are medians over rounds; beside
them stand milliseconds of all processors for a sample, which mean something on a busy machine, too.

    python -m benchmarks.data --videos=FOLDER --out=runs/data_benchmark --parts=reading --read_px=224 \
        --loader="ours, JPEG, threads" --loader=OpenCV

Reading alone, for a model of smaller frames than are stored: others shrink theirs by OpenCV, averaging areas.

    python -m benchmarks.data --world --frame_px=64
    python -m benchmarks.data --world=40 --frame_px=256 --pack=DIR

How fast the built-in world makes clips: seconds of video for a second of CPU.

It needs the extra `bench` (torch, torchcodec, webdataset, decord); an arm whose library is missing is listed as such.
"""

import argparse
import functools
import importlib.util
import io
import itertools
import os
import shutil
import statistics
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import absl.flags
import av
import cv2
import numpy as np

from benchmarks.turns import in_turns, machine, spread, tree_cpu_s
from data_pipelines.clip_reader import Clip, probe, read_clips
from data_pipelines.loader import make_loader
from data_pipelines.shards import ImageFormat, open_dataset, write_shards
from data_pipelines.sources import Item
from data_pipelines.sources.folder import folder_source
from data_pipelines.windows import Window
from data_pipelines.world import RealWorldConfig, World, WorldConfig, make_clip, make_events
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.report import markdown_table
from mmduplex_jax.frame_size import frame_size, size_text, stored_size
from mmduplex_jax.stages.config_file import add_json_flag, command_parser, run_main, show
from mmduplex_jax.text_tokenizer import TextTokenizer
from mmduplex_jax.tokenizer.motion_field import MotionField, motion_of

CLOCK = Clock()
# More than any of the loaders holds ready for each worker.
BATCHES_AHEAD = 4
PARTS = ("decoding", "reading")
SUFFIXES = {".mp4", ".webm", ".mkv", ".mov", ".avi"}


# What others do with a video file: `(path, clock, frame_px) -> uint8 [T, px, px, 3]`, the frames at the tick times, of
# the centre.


def _cover(width_px: int, height_px: int, frame_px: int) -> tuple[int, int]:
    """The size at which the shorter side is `frame_px`."""
    scale = frame_px / min(width_px, height_px)
    return max(frame_px, round(width_px * scale)), max(frame_px, round(height_px * scale))


def _centre(image: np.ndarray, frame_px: int) -> np.ndarray:
    top, left = (image.shape[-3] - frame_px) // 2, (image.shape[-2] - frame_px) // 2
    return image[..., top : top + frame_px, left : left + frame_px, :]


def pyav(path: Path, clock: Clock, frame_px: int, threads: str = "AUTO") -> np.ndarray:
    """The plain loop: decode every frame, scale and convert those that a tick shows, by libswscale."""
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = threads
        begin_s: float | None = None
        held: av.VideoFrame | None = None

        def show(until: int) -> None:
            if held is not None and len(frames) < until:
                width, height = _cover(held.width, held.height, frame_px)
                image = held.reformat(width=width, height=height, format="rgb24").to_ndarray()
                frames.extend([_centre(image, frame_px)] * (until - len(frames)))

        end_s = 0.0
        for frame in container.decode(stream):
            begin_s = frame.time if begin_s is None else begin_s
            time_s = frame.time - begin_s
            show(clock.ticks_in(time_s))
            held, end_s = frame, time_s + float(frame.duration * frame.time_base)
        show(clock.ticks_in(end_s))
    return np.stack(frames)


def torchcodec(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """PyTorch's decoder, scaling inside it; one thread, as the other arms have in their workers."""
    import torch
    from torchcodec.decoders import VideoDecoder
    from torchcodec.transforms import CenterCrop, Resize

    torch.set_num_threads(1)
    facts = VideoDecoder(str(path), seek_mode="approximate").metadata
    width, height = _cover(facts.width, facts.height, frame_px)
    decoder = VideoDecoder(
        str(path),
        dimension_order="NHWC",
        seek_mode="approximate",
        transforms=[Resize((height, width)), CenterCrop((frame_px, frame_px))],
    )
    begin_s, end_s = facts.begin_stream_seconds, facts.end_stream_seconds
    times_s = [begin_s + clock.tick_time_s(tick) for tick in range(clock.ticks_in(end_s - begin_s))]
    return decoder.get_frames_played_at(times_s).data.numpy()


def decord(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """Decord, scaling inside it; it takes frames by number, so their time stamps are asked for first."""
    import decord as library

    with av.open(str(path)) as container:
        width, height = _cover(container.streams.video[0].width, container.streams.video[0].height, frame_px)
    reader = library.VideoReader(str(path), width=width, height=height, num_threads=1)
    stamps_s = reader.get_frame_timestamp(np.arange(len(reader)))
    begin_s, end_s = stamps_s[0, 0], stamps_s[-1, 1]
    times_s = np.array([clock.tick_time_s(tick) for tick in range(clock.ticks_in(float(end_s - begin_s)))])
    numbers = np.searchsorted(stamps_s[:, 0] - begin_s, times_s + 1e-6, side="right") - 1
    return _centre(reader.get_batch(numbers).asnumpy(), frame_px)


def write_arrays(clips: Iterator[np.ndarray], directory: Path) -> None:
    """One `.npy` a clip: decoded and not compressed."""
    directory.mkdir(parents=True)
    for number, frames in enumerate(clips):
        np.save(directory / f"{number:06d}.npy", frames)


def write_pictures(clips: Iterator[np.ndarray], directory: Path, quality: int) -> None:
    """A folder a clip, a JPEG a frame."""
    for number, frames in enumerate(clips):
        folder = directory / f"{number:06d}"
        folder.mkdir(parents=True)
        for tick, frame in enumerate(frames):
            (folder / f"{tick:04d}.jpg").write_bytes(jpeg(frame, quality))


def write_tars(clips: Iterator[np.ndarray], directory: Path, quality: int, clips_a_tar: int = 16) -> None:
    """WebDataset: tars of samples, each frame a JPEG member of its sample."""
    directory.mkdir(parents=True)
    numbered = enumerate(clips)
    while some := list(itertools.islice(numbered, clips_a_tar)):
        with tarfile.open(directory / f"{some[0][0]:06d}.tar", "w") as tar:
            for number, frames in some:
                for tick, frame in enumerate(frames):
                    data = jpeg(frame, quality)
                    member = tarfile.TarInfo(f"{number:06d}.{tick:04d}.jpg")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def jpeg(frame: np.ndarray, quality: int) -> bytes:
    """As the shards have it: chroma at full resolution."""
    chroma = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
    written, data = cv2.imencode(
        ".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality, *chroma]
    )
    if not written:
        raise ValueError(f"OpenCV could not write a JPEG of {frame.shape}")
    return data.tobytes()


class ArrayClips:
    """A torch dataset over `write_arrays`."""

    def __init__(self, directory: Path):
        self.paths = sorted(directory.glob("*.npy"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        import torch

        return torch.from_numpy(np.load(self.paths[index]))


class PictureClips:
    """A torch dataset over `write_pictures`, decoding with OpenCV or, as torchvision's datasets do, with Pillow."""

    def __init__(self, directory: Path, pillow: bool = False, read_px: int = 0):
        """Frames are shrunk to squares of `read_px`, unless it is 0."""
        self.folders = sorted(directory.iterdir())
        self.decode = functools.partial(_shrunk, _by_pillow if pillow else _by_opencv, read_px)

    def __len__(self) -> int:
        return len(self.folders)

    def __getitem__(self, index: int):
        import torch

        cv2.setNumThreads(1)
        return torch.from_numpy(np.stack([self.decode(path) for path in sorted(self.folders[index].iterdir())]))


def _shrunk(decode: Callable[[Path], np.ndarray], read_px: int, path: Path) -> np.ndarray:
    picture = decode(path)
    return cv2.resize(picture, (read_px, read_px), interpolation=cv2.INTER_AREA) if read_px else picture


def _by_opencv(path: Path) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR_RGB)


def _by_pillow(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def torch_loader(dataset, batch_size: int, workers: int, epochs: int) -> Iterator:
    """A torch DataLoader that shuffles, its workers kept from epoch to epoch."""
    import torch

    loader = torch.utils.data.DataLoader(
        dataset, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True
    )
    for _ in range(epochs):
        yield from loader


def _frames_of(sample: dict) -> tuple[np.ndarray]:
    """A tuple of one field, as WebDataset's batches want samples."""
    cv2.setNumThreads(1)
    names = sorted(name for name in sample if name.endswith("jpg"))
    pictures = [cv2.imdecode(np.frombuffer(sample[name], np.uint8), cv2.IMREAD_COLOR_RGB) for name in names]
    return (np.stack(pictures),)


def webdataset_loader(directory: Path, batch_size: int, workers: int, epochs: int, clips: int) -> Iterator:
    """WebDataset with a shuffle buffer, without end, cut off after as many batches as the others give."""
    import webdataset

    urls = [str(path) for path in sorted(directory.glob("*.tar"))]
    dataset = webdataset.WebDataset(urls, resampled=True, shardshuffle=False, nodesplitter=webdataset.split_by_node)
    dataset = dataset.shuffle(100).map(_frames_of).batched(batch_size, partial=False)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    batches = iter(loader)
    for _ in range(epochs * (clips // batch_size)):
        yield next(batches)[0]


# What is measured.


def ours(path: Path, clock: Clock, frame_px: int) -> np.ndarray:
    """Our frames of a whole video."""
    length = probe(path)
    found = next(read_clips(path, [Window(0, length.begin_s, length.end_s, 0.0)], clock, frame_px))
    if not isinstance(found, Clip):
        raise ValueError(f"{path}: {found.cause}: {found.detail}")
    return found.frames


# Compiled once a process.
_motion = functools.cache(lambda: MotionField(plane_px=32, search_radius=3))


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
        "PyAV, frame threads": (functools.partial(pyav, threads="AUTO"), "av"),
        "PyAV, one thread": (functools.partial(pyav, threads="NONE"), "av"),
        "torchcodec": (torchcodec, "torchcodec"),
        "decord": (decord, "decord"),
    }


def missing(module: str) -> bool:
    """Whether a peer cannot be imported here."""
    return importlib.util.find_spec(module) is None


def _ticks(arm: str, path: Path, frame_px: int) -> int:
    cv2.setNumThreads(1)
    return len(arms()[arm][0](path, CLOCK, frame_px))


def decoding(videos: list[Path], copies: int, workers: int, rounds: int, frame_px: int) -> list[dict[str, Any]]:
    """Ticks a second of every arm, in turn, in the same number of processes."""
    there = [name for name, (_, module) in arms().items() if not missing(module)]
    ticks: dict[str, int] = {}
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:

        def ticks_per_s(name: str, tasks: list[Path]) -> float:
            began_s = time.perf_counter()
            ticks[name] = sum(pool.map(_ticks, [name] * len(tasks), tasks, [frame_px] * len(tasks)))
            return ticks[name] / (time.perf_counter() - began_s)

        for name in there:  # imports, compiling, and the page cache are not what is measured
            ticks_per_s(name, videos[:1] * 4 * workers)
        rates = in_turns([functools.partial(ticks_per_s, name, videos * copies) for name in there], rounds)
    return [
        {"arm": name, "hours_of_video_an_hour": statistics.median(found) * CLOCK.tick_s, "ticks": ticks[name]}
        | _spread("ticks_per_s", found)
        for name, found in zip(there, rates)
    ]


def _spread(name: str, rates: Sequence[float]) -> dict[str, float]:
    return {name: statistics.median(rates), "least": min(rates), "most": max(rates)}


def folder_config(root: Path, frame_px: int, window_s: float) -> dict[str, Any]:
    """configs/data/folder.py with the values of this benchmark."""
    from configs.data.folder import get_config

    config = get_config()
    config.root = str(root)
    config.frame_px, config.fit = (frame_px, frame_px), "crop"  # as others are asked to
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


def batches_of_ours(
    directory: Path, batch_size: int, workers: int, epochs: int, processes: bool = False, read_px: int = 0
) -> Iterator:
    """Our loader, with words' slots, on threads or on processes."""
    loader = make_loader(
        str(directory),
        TextTokenizer.word_level(["a"]),
        batch_size=batch_size,
        repeat=epochs,
        drop_remainder=True,
        frame_px=(read_px, read_px) if read_px else None,
        threads=0 if processes else workers,
        worker_processes=workers if processes else 0,
    )
    try:
        for batch in loader:
            yield batch["frames"]
    finally:
        loader.close()


def reading(
    shards: Path,
    out: Path,
    workers: int,
    rounds: int,
    batch_size: int,
    epochs: int,
    read_px: int,
    chosen: Sequence[str],
) -> list[dict[str, Any]]:
    """Samples a second of loaders over the same clips, in turn: of those that are `chosen`, or all that can."""
    dataset = open_dataset(shards)
    clips = lambda: (dataset[number].frames for number in range(len(dataset)))
    raw = out / "shards_raw"
    ours = functools.partial(batches_of_ours, shards, batch_size, workers, epochs, read_px=read_px)
    torch_over = lambda kind, folder: lambda: torch_loader(kind(out / folder), batch_size, workers, epochs)
    pictures = lambda pillow: torch_over(functools.partial(PictureClips, pillow=pillow, read_px=read_px), "pictures")
    loaders: dict[str, tuple[str, Callable[[], Iterator]]] = {
        "ours, JPEG, threads": ("grain", ours),
        "ours, JPEG, processes": ("grain", functools.partial(ours, processes=True)),
        "torch DataLoader, JPEG files, OpenCV": ("torch", pictures(False)),
        "torch DataLoader, JPEG files, Pillow": ("torch", pictures(True)),
    }
    if not read_px:
        tars = lambda: webdataset_loader(out / "tars", batch_size, workers, epochs, len(dataset))
        loaders |= {
            "ours, raw, threads": ("grain", lambda: batches_of_ours(raw, batch_size, workers, epochs)),
            "torch DataLoader, .npy": ("torch", torch_over(ArrayClips, "arrays")),
            "WebDataset, JPEG": ("webdataset", tars),
        }
    wanted = {name: of for name, of in loaders.items() if not chosen or any(part in name for part in chosen)}
    if not wanted:
        raise ValueError(f"--loader={chosen[0]} is in no name: there are {'; '.join(loaders)}")
    there = {name: make for name, (module, make) in wanted.items() if not missing(module)}
    write_pictures(clips(), out / "pictures", quality=90)
    for name, write in {
        "ours, raw, threads": lambda: copy_raw(dataset, raw),
        "torch DataLoader, .npy": lambda: write_arrays(clips(), out / "arrays"),
        "WebDataset, JPEG": lambda: write_tars(clips(), out / "tars", quality=90),
    }.items():
        if name in there:
            write()
    found = in_turns([lambda make=make: reading_rate(make(), workers) for make in there.values()], rounds)
    side = read_px or dataset.frame_px[0]
    frames = len(dataset[0].frames)
    return [
        _spread("samples_per_s", [rate for rate, _ in rates])
        | {
            "loader": name,
            "mb_per_s": statistics.median(rate for rate, _ in rates) * frames * side * side * 3 / 1e6,
            "frames_per_s": statistics.median(rate for rate, _ in rates) * frames,
            "cpu_ms_a_sample": statistics.median(cpu_ms for _, cpu_ms in rates),
            # Within rounds, of the first: how many times as fast it is, and how many times its work the others have.
            "times_as_fast": [first[0] / one[0] for first, one in zip(found[0], rates)],
            "times_the_work": [one[1] / first[1] for first, one in zip(found[0], rates)],
        }
        for name, rates in zip(there, found)
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


def reading_rate(batches: Iterator, workers: int) -> tuple[float, float]:
    """Samples a second, and milliseconds of all processors for a sample.

    Measured when workers have started and what they made ahead is used up: their steady rate.
    """
    for _ in range(BATCHES_AHEAD * workers):
        next(batches)
    samples, began_s, worked_s = 0, time.perf_counter(), tree_cpu_s()
    for batch in batches:
        samples += len(batch)
    took_s, worked_s = time.perf_counter() - began_s, tree_cpu_s() - worked_s
    return samples / took_s, 1000 * worked_s / samples


def world_speed(config: World, clips: int, seed: int = 0) -> dict[str, Any]:
    """Makes `clips` clips, after one to warm up, and counts this process's CPU time."""
    make_clip(config, seed, clips)
    began_s = time.process_time()
    for index in range(clips):
        make_clip(config, seed, index)
    clip_cpu_s = (time.process_time() - began_s) / clips
    began_s = time.process_time()
    for index in range(clips):
        make_events(config, seed, index)
    return {
        "look": config.look,
        "frame_px": stored_size(config.frame_px),
        "clips": clips,
        "clip_cpu_ms": 1000 * clip_cpu_s,
        "of_this_planning_ms": 1000 * (time.process_time() - began_s) / clips,
        "video_s_per_cpu_s": config.clip_s / clip_cpu_s,
    }


def world(clips: int, frame_px: int, pack: str | None) -> tuple[list[dict[str, Any]], str]:
    """Measures the built-in world (with a pack of cut-outs its look `real`, in 16:9): a row a look, and for people."""
    worlds: list[World] = [WorldConfig(look=look, frame_px=frame_px) for look in ("plain", "rich")]
    if pack is not None:
        worlds = [RealWorldConfig(pack, frame_px=(frame_px * 9 // 16, frame_px))]
    rows = [world_speed(of, clips) for of in worlds]
    lines = [
        f"{row['look']:6} {size_text(frame_size(row['frame_px']))}: {row['video_s_per_cpu_s']:7.0f} s of video "
        f"a CPU-second, {row['clip_cpu_ms']:.1f} ms a clip, {row['of_this_planning_ms']:.1f} ms of it to plan"
        for row in rows
    ]
    return rows, "\n".join(lines)


def table(found: dict[str, Any]) -> str:
    """The measurements for people, in Markdown."""
    fastest = max((row["ticks_per_s"] for row in found["decoding"] if not row["arm"].startswith("ours")), default=0)
    decoding = [
        [row["arm"], f"{row['ticks_per_s']:,.0f} ({row['least']:,.0f}–{row['most']:,.0f})",
         f"{row['hours_of_video_an_hour']:,.0f}", f"{row['ticks_per_s'] / fastest:.2f}"]
        for row in found["decoding"]
    ]  # fmt: skip
    reading = [
        [row["loader"], f"{row['samples_per_s']:,.1f} ({row['least']:,.1f}–{row['most']:,.1f})",
         f"{row['mb_per_s']:,.0f}", f"{row['frames_per_s']:,.0f}", f"{row['cpu_ms_a_sample']:,.1f}",
         spread(row["times_as_fast"]), spread(row["times_the_work"])]
        for row in found["reading"]
    ]  # fmt: skip
    made = found["sharding"]
    heads = ["decoding to ticks of 256 px", "ticks/s", "hours of video an hour", "to the fastest peer"]
    beside = ["CPU-ms a sample", "times that ours is as fast", "times ours's CPU"]
    parts = [
        *([markdown_table(heads, decoding)] if decoding else []),
        f"`launch.prepare` as a whole, motion, JPEG and the start of its processes included: "
        f"{made['hours_of_video_an_hour']:,.0f} hours of video an hour, "
        f"{made['bytes_an_hour_of_video'] / 1e6:,.0f} MB an hour of video.",
        *(
            [markdown_table(["reading shuffled clips", "samples/s", "MB/s of frames", "frames/s", *beside], reading)]
            if reading
            else []
        ),
        *(f"Not installed here, so not measured: {name}." for name in found["not_installed"]),
    ]
    return "\n\n".join(parts)


def work(args: argparse.Namespace) -> None:
    """Measures, and prints and writes the tables."""
    if args.world:
        show(args, *world(args.world, args.frame_px, args.pack))
        return
    if args.videos is None or args.out is None:
        raise ValueError("--videos and --out are needed, or --world")
    absl.flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl's flags
    if args.out.exists():
        raise ValueError(f"{args.out} is there already; name a new folder")
    names = sorted(path for path in args.videos.iterdir() if path.suffix in SUFFIXES)
    videos = [path for path in names if probe(path).duration_s >= 4.0]
    if not videos:
        raise ValueError(f"{args.videos} holds no video of at least 4 s")
    if wrong := set(args.parts) - set(PARTS):
        raise ValueError(f"--parts={','.join(sorted(wrong))}: there are {', '.join(PARTS)}")
    workers = args.workers or len(os.sched_getaffinity(0))
    args.out.mkdir(parents=True)
    try:
        found = {
            "machine": machine() | {"workers": workers, "load_average": os.getloadavg()[0]},
            "videos": [path.name for path in videos],
            "sharding": sharding(videos, args.out, args.copies, workers, args.frame_px),
            "decoding": decoding(videos, args.copies, workers, args.rounds, args.frame_px)
            if "decoding" in args.parts
            else [],
            "reading": reading(
                args.out / "shards",
                args.out,
                workers,
                args.rounds,
                args.batch,
                args.epochs,
                args.read_px,
                args.loader,
            )
            if "reading" in args.parts
            else [],
            "not_installed": [m for m in ("torch", "torchcodec", "webdataset", "decord") if missing(m)],
        }
    finally:
        shutil.rmtree(args.out)
    show(args, found, table(found))


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    flags = command_parser("benchmarks.data", __doc__)
    add = flags.add_argument
    add("--videos", type=Path, metavar="DIR", help="videos of 4 s and more; shorter ones are left out")
    add("--out", type=Path, metavar="DIR", help="a new folder for shards and copies; removed at the end")
    add("--workers", type=int, default=0, help="processes or threads of every arm; 0: as many as cores")
    add("--rounds", type=int, default=3, help="times that every arm is run (default: %(default)s)")
    add("--copies", type=int, default=4, help="how often each video is decoded in a round (default: %(default)s)")
    add("--epochs", type=int, default=12, help="how often each clip is read in a round (default: %(default)s)")
    add("--batch", type=int, default=8, help="clips in a batch (default: %(default)s)")
    add("--parts", type=lambda text: text.split(","), default=list(PARTS), help=f"of {','.join(PARTS)} (default: all)")
    add("--loader", action="append", default=[], metavar="TEXT", help="read with those whose names have it; repeatable")
    add("--read_px", type=int, default=0, help="side of the frames that are read; 0: as they are stored")
    add("--frame_px", type=int, default=256, help="side of the frames; with --pack their width (default: %(default)s)")
    add("--world", type=int, nargs="?", const=100, metavar="CLIPS", help="instead: make clips of the built-in world")
    add("--pack", metavar="DIR", help="with --world: those of the look `real` with this pack")
    add_json_flag(flags)
    add("--markdown", type=Path, metavar="FILE", help="write the tables here")
    return run_main(flags, argv, work, {ValueError: 2})


if __name__ == "__main__":
    sys.exit(main())
