"""Clips: a scene, drawn and commented, as arrays and as files. A clip is a function of (config, seed, index)."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream

from data_pipelines.schema import Event, Word
from data_pipelines.world.commentator import WORD_GAP_S, comment, split_phrases
from data_pipelines.world.config import LOOKS, WorldConfig
from data_pipelines.world.drawing import Painter
from data_pipelines.world.planner import plan_scene
from data_pipelines.world.scene import Dice, Scene

CODECS = ("libx264", "mpeg4")

# What MPEG-4 is given for each pixel of each frame; H.264 has a constant quality instead.
_MPEG4_BITS = 0.5


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is seen, what happens and what is said. Times in seconds from the first frame.

    Attributes:
      frames: uint8 [T, px, px, 3] RGB, one at each tick of the clock.
      events: in order of time.
      words: in order of time.
    """

    frames: np.ndarray
    events: tuple[Event, ...]
    words: tuple[Word, ...]


def make_clip(config: WorldConfig, seed: int, index: int) -> Clip:
    """The `index`-th clip of a seed. The same arguments give the same clip, in any process."""
    scene, words, rng = plan_clip(config, seed, index)
    clock = config.clock
    times_s = np.array([clock.tick_time_s(tick) for tick in range(clock.ticks_in(config.clip_s))])
    return Clip(Painter(config, scene, rng).frames(times_s), scene.events, words)


def make_events(config: WorldConfig, seed: int, index: int) -> tuple[Event, ...]:
    """The events of the same clip, without drawing it."""
    return plan_clip(config, seed, index)[0].events


def plan_clip(config: WorldConfig, seed: int, index: int) -> tuple[Scene, tuple[Word, ...], np.random.Generator]:
    """What happens and is said, and the generator that decides about the looks.

    Raises:
      ValueError: seed or index is negative.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"a clip's seed and index must not be negative, got {seed} and {index}")
    rng = np.random.default_rng([seed, index, LOOKS.index(config.look)])
    dice = Dice(rng)
    d = config.dynamics
    while True:
        scene = plan_scene(config, dice)
        picks = [dice.unit() for _ in scene.events]
        words = comment(scene.events, picks, d.variants, d.lag_s, config.clip_s)
        if words is not None:
            return scene, words, rng


@dataclasses.dataclass(frozen=True)
class ClipFiles:
    """Where a clip's files are, and what is in them.

    Attributes:
      video, captions, events: an .mp4, a .vtt and a .json.
      codec: the encoder that made the video.
    """

    video: Path
    captions: Path
    events: Path
    codec: str


def write_clip_files(
    folder: str | Path,
    config: WorldConfig,
    seed: int,
    index: int,
    *,
    name: str | None = None,
    size_px: int = 256,
    fps: int = 25,
    codec: str | None = None,
) -> ClipFiles:
    """Films the `index`-th clip of a seed, as long as `config.clip_s` says, frame by frame.

    The same happens as in `make_clip`, filmed larger and at a camera's rate.

    Args:
      folder: where; it must exist.
      config: the world.
      seed, index: which clip.
      name: of the files, without suffix; by default made of look, seed and index.
      size_px: width and height of the video, even.
      fps: its frames per second.
      codec: one of `CODECS`; by default the first that this PyAV has.

    Raises:
      ValueError: an odd size, a rate that is not positive, or an encoder that is unknown or missing.
      FileNotFoundError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write a clip to: make it first")
    if size_px < 16 or size_px % 2:
        raise ValueError(f"size_px must be even and at least 16, got {size_px}")
    if fps < 1:
        raise ValueError(f"fps must be positive, got {fps}")
    codec = _encoder(codec)
    name = name or f"world_{config.look}_{seed}_{index}"
    files = ClipFiles(folder / f"{name}.mp4", folder / f"{name}.vtt", folder / f"{name}.json", codec)

    filmed = dataclasses.replace(config, frame_px=size_px)
    scene, words, rng = plan_clip(filmed, seed, index)
    painter = Painter(filmed, scene, rng)
    num_frames = round(config.clip_s * fps)
    _write_video(files.video, (painter.frame(number / fps) for number in range(num_frames)), size_px, fps, codec)
    files.captions.write_text(captions(words), encoding="utf-8")
    facts = _facts(config, seed, index, scene.events, words) | {"fps": fps, "size_px": size_px, "codec": codec}
    files.events.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return files


def captions(words: Sequence[Word]) -> str:
    """WebVTT with a cue for each phrase, and the time of each word in it."""
    cues, first = [], 0
    for _, _, text in split_phrases([(word.text, word.start_s) for word in words]):
        last = first + len(text.split())
        cues.append(words[first:last])
        first = last
    lines = ["WEBVTT", ""]
    for cue in cues:
        end_s = cue[-1].end_s if cue[-1].end_s is not None else cue[-1].start_s + WORD_GAP_S
        lines.append(f"{_stamp(cue[0].start_s)} --> {_stamp(end_s)}")
        lines.append(" ".join([cue[0].text, *(f"<{_stamp(word.start_s)}>{word.text}" for word in cue[1:])]))
        lines.append("")
    return "\n".join(lines)


def _stamp(time_s: float) -> str:
    minutes, ms = divmod(round(time_s * 1000), 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{ms // 1000:02d}.{ms % 1000:03d}"


def _encoder(codec: str | None) -> str:
    present = [name for name in CODECS if name in av.codecs_available]
    if codec is None and present:
        return present[0]
    if codec not in present:
        raise ValueError(f"video encoder {codec!r} is not at hand: this PyAV has {present} of {list(CODECS)}")
    return codec


def _write_video(path: Path, frames: Iterator[np.ndarray], size_px: int, fps: int, codec: str):
    part = path.with_name(f"{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps))
        stream.width = stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast"}
        else:
            stream.bit_rate = round(size_px * size_px * fps * _MPEG4_BITS)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)


def _facts(config: WorldConfig, seed: int, index: int, events: Sequence[Event], words: Sequence[Word]) -> dict:
    return {
        "seed": seed,
        "index": index,
        "duration_s": config.clip_s,
        "events": [dataclasses.asdict(event) for event in events],
        "words": [dataclasses.asdict(word) for word in words],
        "config": dataclasses.asdict(config),
    }
