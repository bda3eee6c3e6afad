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

from data_pipelines.geometry import pad_to_frame
from data_pipelines.schema import Event, Thing, Word
from data_pipelines.world import event_words
from data_pipelines.world.commentator import WORD_GAP_S, comment, split_phrases
from data_pipelines.world.config import LOOKS, WorldConfig
from data_pipelines.world.drawing import Painter
from data_pipelines.world.grammar import Splitter
from data_pipelines.world.planner import plan_scene
from data_pipelines.world.real.config import RealWorldConfig, picture_size
from data_pipelines.world.real.pack import read_pack
from data_pipelines.world.real.painter import RealPainter
from data_pipelines.world.real.planner import RealScene, plan_real_scene
from data_pipelines.world.scene import Dice, Scene
from mmduplex_jax.frame_size import FrameSize, with_stored_sizes

CODECS = ("libx264", "mpeg4")

# What MPEG-4 is given for each pixel of each frame; H.264 has a constant quality instead.
_MPEG4_BITS = 0.5


@dataclasses.dataclass(frozen=True)
class Clip:
    """What is seen, what happens and what is said. Times in seconds from the first frame.

    Attributes:
      frames: uint8 [T, H, W, 3] RGB, one at each tick of the clock; with black bars beside a picture of another
        shape.
      events: in order of time.
      words: in order of time.
      things: of real things, where they are; None of drawn shapes.
      licence: under which it may be used; of real things all that the pack says of theirs, between " | ".
      files: the pictures of a pack that are in it, of a thing with several its first.
    """

    frames: np.ndarray
    events: tuple[Event, ...]
    words: tuple[Word, ...]
    licence: str = "Apache-2.0"
    files: tuple[str, ...] = ()
    things: tuple[Thing, ...] | None = None


# A kind of clips: drawn shapes, or real things out of a pack.
World = WorldConfig | RealWorldConfig


def make_clip(config: World, seed: int, index: int) -> Clip:
    """The `index`-th clip of a seed. The same arguments (and pack) give the same clip, in any process."""
    clock = config.clock
    times_s = np.array([clock.tick_time_s(tick) for tick in range(clock.ticks_in(config.clip_s))])
    if isinstance(config, RealWorldConfig):
        shown = picture_config(config, seed, index)
        real, rng = plan_real_clip(shown, seed, index)
        pictures = RealPainter(shown, real, rng).frames(times_s)
        frames = np.stack([pad_to_frame(picture, config.frame_px) for picture in pictures])
        seen = real.things(times_s, shown.aspect)
        things = tuple(_in_frame(thing, shown.frame_px, config.frame_px) for thing in seen)
        return Clip(frames, real.events, real.words, " | ".join(real.licences), real.files, things)
    scene, words, rng = plan_clip(config, seed, index)
    return Clip(Painter(config, scene, rng).frames(times_s), scene.events, words)


def make_events(config: World, seed: int, index: int) -> tuple[Event, ...]:
    """The events of the same clip, without drawing it."""
    if isinstance(config, RealWorldConfig):
        return plan_real_clip(picture_config(config, seed, index), seed, index)[0].events
    return plan_clip(config, seed, index)[0].events


def picture_config(config: RealWorldConfig, seed: int, index: int) -> RealWorldConfig:
    """The world of a clip's picture: its `frame_px` are those of the picture that stands in the frame, without bars."""
    aspects = config.appearance.aspects
    rng = _generator(seed, index, len(LOOKS) + 1)
    shares = np.array([share for share, _ in aspects])
    aspect = aspects[int(rng.choice(len(aspects), p=shares / shares.sum()))][1]
    appearance = dataclasses.replace(config.appearance, aspects=((1.0, 0.0),))
    return dataclasses.replace(config, frame_px=picture_size(config.frame_px, aspect), appearance=appearance)


def _in_frame(thing: Thing, picture_px: FrameSize, frame_px: FrameSize) -> Thing:
    """A thing of a picture where that picture is padded to a frame."""
    size, frame = np.array(picture_px * 2, np.float32), np.array(frame_px * 2, np.float32)
    boxes = (thing.boxes * size + (frame - size) // 2) / frame
    return Thing(thing.noun, np.where(thing.boxes.any(axis=1, keepdims=True), boxes, 0).astype(np.float32))


def plan_real_clip(config: RealWorldConfig, seed: int, index: int) -> tuple[RealScene, np.random.Generator]:
    """What happens in a clip of the look `real`, and the generator that decides how it looks.

    Raises:
      ValueError: seed or index is negative, or the pack cannot be used.
    """
    rng = _generator(seed, index, len(LOOKS))
    return plan_real_scene(config, Dice(rng)), rng


def _generator(seed: int, index: int, look: int) -> np.random.Generator:
    if seed < 0 or index < 0:
        raise ValueError(f"a clip's seed and index must not be negative, got {seed} and {index}")
    return np.random.default_rng([seed, index, look])


def plan_clip(config: WorldConfig, seed: int, index: int) -> tuple[Scene, tuple[Word, ...], np.random.Generator]:
    """What happens and is said, and the generator that decides about the looks.

    Raises:
      ValueError: seed or index is negative.
    """
    rng = _generator(seed, index, LOOKS.index(config.look))
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
    config: World,
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
      size_px: height of the video, even; its width follows from the config's frames. A real picture of another shape
        is filmed as it is, as large as fits in.
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
    codec = find_encoder(codec)
    name = name or f"world_{config.look}_{seed}_{index}"
    files = ClipFiles(folder / f"{name}.mp4", folder / f"{name}.vtt", folder / f"{name}.json", codec)

    height_px, width_px = config.frame_px
    width_px = 2 * round(size_px * width_px / height_px / 2)
    if isinstance(config, RealWorldConfig):
        enlarged = picture_config(dataclasses.replace(config, frame_px=(size_px, width_px)), seed, index)
        size_px, width_px = enlarged.frame_px
        real, rng = plan_real_clip(enlarged, seed, index)
        events, words, frame = real.events, real.words, RealPainter(enlarged, real, rng).frame
        text = captions(
            words,
            lambda spoken: event_words.split_phrases(spoken, read_pack(config.pack, config.exclude_cameras).classes),
        )
    else:
        filmed = dataclasses.replace(config, frame_px=(size_px, width_px))
        scene, words, rng = plan_clip(filmed, seed, index)
        events, frame, text = scene.events, Painter(filmed, scene, rng).frame, captions(words)
    num_frames = round(config.clip_s * fps)
    pictures = (frame(number / fps) for number in range(num_frames))
    write_video(files.video, pictures, (width_px, size_px), fps, codec)
    files.captions.write_text(text, encoding="utf-8")
    facts = _facts(config, seed, index, events, words) | {"fps": fps, "size_px": size_px, "codec": codec}
    files.events.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    return files


def captions(words: Sequence[Word], split: Splitter = split_phrases) -> str:
    """WebVTT with a cue for each phrase that `split` finds, and the time of each word in it."""
    cues, first = [], 0
    for _, _, text in split([(word.text, word.start_s) for word in words]):
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


def find_encoder(codec: str | None) -> str:
    """The encoder of this name, or where none is named the first of `CODECS` that this PyAV has.

    Raises:
      ValueError: it has none such.
    """
    present = [name for name in CODECS if name in av.codecs_available]
    if codec is None and present:
        return present[0]
    if codec not in present:
        raise ValueError(f"video encoder {codec!r} is not at hand: this PyAV has {present} of {list(CODECS)}")
    return codec


def write_video(path: Path, frames: Iterator[np.ndarray], size_px: tuple[int, int], fps: int, codec: str) -> None:
    """Writes an .mp4 of frames, uint8 [H, W, 3] RGB, of `size_px` = (width, height), both even."""
    part = path.with_name(f"{path.name}.part")
    with av.open(str(part), "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=fps))
        stream.width, stream.height = size_px
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        if codec == "libx264":
            stream.options = {"crf": "18", "preset": "veryfast"}
        else:
            stream.bit_rate = round(size_px[0] * size_px[1] * fps * _MPEG4_BITS)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    part.replace(path)


def _facts(config: World, seed: int, index: int, events: Sequence[Event], words: Sequence[Word]) -> dict:
    return {
        "seed": seed,
        "index": index,
        "duration_s": config.clip_s,
        "events": [dataclasses.asdict(event) for event in events],
        "words": [dataclasses.asdict(word) for word in words],
        "config": with_stored_sizes(dataclasses.asdict(config)),
    }
