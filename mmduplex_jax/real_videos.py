"""A commentator on labelled real videos: what it says of them as a viewer sees it, scored, beside its controls.

The words are those of a live stream over the whole video, as `launch.commentate` says them. The controls: silence,
what the model said of another camera's video, and whatever else watches the videos live (`LiveControl`: a teacher).
What each of them said can be kept as files that the arena shows.
"""

import argparse
import functools
import itertools
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from tqdm import tqdm

from data_pipelines.decode import Tick, VideoReader
from data_pipelines.geometry import FITS
from data_pipelines.labelled_videos import LabelledVideo, LabelledVideos, read_labelled_videos
from data_pipelines.narrator.teacher import LiveTeacher
from data_pipelines.schema import Word
from data_pipelines.sources.narrated import live_teacher
from data_pipelines.words import with_sentence_ends
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Commentator, commentator_of, recording
from mmduplex_jax.evals.events import Phrase
from mmduplex_jax.evals.real_events import (
    LabelledClip,
    LiveControl,
    TimedPhrase,
    read_phrases,
    score_real_events,
)
from mmduplex_jax.evals.timing.files import write_commentary
from mmduplex_jax.evals.timing.utterances import Commentary, Utterance, cut_words, emitted_words
from mmduplex_jax.planning.cost import live_step_flops
from mmduplex_jax.stages.config_file import load_config
from mmduplex_jax.stages.duplex.task import DuplexTask
from mmduplex_jax.streaming.slot import TickResult
from mmduplex_jax.tokenizer.bflow import FLOW
from mmduplex_jax.weights.trained import Trained
from mmduplex_jax.word_decoder import TimedWord

REAL = "real"
SPLITS = ("all", "held", "seen")
# A control sees pictures with a longer side of at most this: that of the largest that detectors here are given.
_CONTROL_PX = 640
# A control is shown every picture up to the last tick of a video: ticks that leave no room for one behind it.
_READING = Clock(100.0, 1)
_FIGURES = (
    "f1", "precision", "recall", "f1_kind", "f1_class", "false_alarms_per_quiet_minute", "latency_p50_s",
    "latency_p90_s", "events", "phrases",
)  # fmt: skip


class Watched(NamedTuple):
    """What was said of a video.

    Attributes:
      duration_s: its length, as it was decoded.
      said: phrases, as its words are read.
      commentary: its words as they were said.
      busy_s: how long whoever said it has worked; decoding is not counted.
      gflop: operations of that, in billions; None where nobody counts.
    """

    duration_s: float
    said: list[Phrase]
    commentary: Commentary
    busy_s: float
    gflop: float | None


def teacher_of(name: str, usual: ConfigDict) -> LiveTeacher:
    """The teacher of a configuration, or of a detector's file with the values of `usual`.

    Raises:
      OSError, ValueError: there is no such file, or it is no configuration of a teacher.
    """
    if not name.endswith(".py"):
        usual.detector.file = name
        return live_teacher(usual.to_dict())
    given = load_config(name).to_dict()
    if missing := sorted({"detector", "teacher", "say", "unexplained_share_min"} - given.keys()):
        raise ValueError(f"--teacher={name}: has no {missing[0]!r}, which configs/data/narrated.py has")
    return live_teacher(given)


def add_real_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `launch.evaluate --data=real`."""
    real = parser.add_argument_group("of --data=real").add_argument
    real("--root", metavar="DIR", help="the folder with clips.jsonl and the videos that it labels")
    real("--cameras", default="", metavar="REGEX", help="only cameras whose whole name matches")
    real("--split", choices=SPLITS, default="all", help="cameras that training held back, or has seen (default: all)")
    real(
        "--fit",
        choices=FITS,
        help="of a picture of another shape: all between bars, or its centre (default: as trained)",
    )
    teacher = (
        "also run this detector live, with a tracker and rules, as a control: a YOLOX, or a configs/data/narrated.py"
    )
    real("--teacher", metavar="FILE.onnx|CONFIG.py", help=teacher)
    captions = "also write what the model and each control said, a folder each, for `launch.arena` (docs/arena.md)"
    real("--save_captions", metavar="DIR", help=captions)
    real("--page", metavar="FILE.html", help="also write a page with every label beside what was said")


def choose_cameras(videos: LabelledVideos, split: str, held_cameras: str, cameras: str) -> LabelledVideos:
    """The videos that are asked for.

    Args:
      videos: all.
      split: `all`; `held`: of cameras that no training has seen; `seen`: of the others.
      held_cameras: the model's `config.data.held_cameras`, a regular expression; "" where it has none.
      cameras: of these, only cameras whose whole name matches this regular expression; "" for all.

    Raises:
      ValueError: nothing is left, or the model does not say which cameras were held back.
    """
    if split not in SPLITS:
        raise ValueError(f"--split={split}: choose one of {', '.join(SPLITS)}")
    if split != "all":
        if not held_cameras:
            raise ValueError(
                f"--split={split}: this model's config names no config.data.held_cameras, so nobody knows which "
                "cameras its training has seen; choose with --cameras=REGEX"
            )
        videos = videos.of_cameras(held_cameras, others=split == "seen")
    return videos.of_cameras(cameras) if cameras else videos


def evaluate_folder(
    trained: Trained,
    root: str | os.PathLike[str],
    *,
    split: str = "all",
    cameras: str = "",
    fit: str | None = None,
    delay: int | None = None,
    pad_bias: float = 0.0,
    tokenizer_control: str = "real",
    controls: Mapping[str, LiveControl] | None = None,
    seed: int = 0,
    save_captions: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """What `launch.evaluate --data=real` reports: `evaluate_on_real`, with whose it is and what was asked for.

    Args:
      trained: a model of stage `duplex`.
      root: the folder with the labels.
      split, cameras: see `choose_cameras`.
      fit, delay, pad_bias, controls, seed, save_captions: see `evaluate_on_real`.
      tokenizer_control: "real" only; others need clips side by side.

    Raises:
      OSError, LabelError, VideoError: a file cannot be read.
      ValueError: the model does not commentate, or something that was asked for does not go together.
    """
    if tokenizer_control != "real":
        raise ValueError(
            f"--tokenizer_control={tokenizer_control} takes another clip's tokens; {REAL} videos run alone"
        )
    model = commentator_of(trained, trained.name)
    assert isinstance(trained.task, DuplexTask)  # no other commentates
    held = held_cameras_of(trained.config)
    videos = choose_cameras(read_labelled_videos(root), split, held, cameras)
    report = evaluate_on_real(
        model, videos, live_step_flops(trained.task), delay_steps=delay, pad_bias=pad_bias, fit=fit,
        controls=controls, seed=seed, save_captions=save_captions,
    )  # fmt: skip
    asked = {"split": split, "cameras_asked_for": cameras, "fit": fit, "seed": seed}
    return report | asked | {
        "stage": trained.config.stage, "checkpoint": model.name, "steps": trained.steps, "data": REAL,
        "root": str(root), "held_cameras": held,
    }  # fmt: skip


def evaluate_on_real(
    model: Commentator,
    videos: LabelledVideos,
    flops: Mapping[str, float],
    *,
    delay_steps: int | None = None,
    pad_bias: float = 0.0,
    fit: str | None = None,
    controls: Mapping[str, LiveControl] | None = None,
    seed: int = 0,
    save_captions: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Every score of a model on labelled videos, with progress on stderr.

    Args:
      model: that commentates.
      videos: with their labels.
      flops: operations of its step, see `planning.cost.live_step_flops`.
      delay_steps, pad_bias, fit: as of `Commentator.commentate`; as usual where they are not given.
      controls: what else watches the videos, by name.
      seed: of the bootstrap.
      save_captions: where what each of them said is written, see `write_captions`; None: nowhere.

    Returns:
      The report of `score_real_events`; with `controls`: the main figures of each; `watching`: GFLOP and milliseconds
      a second of video, of the model and of each control that watches; and what the labels hold besides.

    Raises:
      VideoError: a video cannot be watched.
      ValueError: a setting that the model was not made for; or captions of two videos would have one name.
    """
    if save_captions is not None:
        check_names(videos.videos)
    watch = lambda video: watch_live(model, video, flops, videos.classes, delay_steps, pad_bias, fit)
    watched = _watch_all("model", watch, videos.videos)
    clips = _clips(videos.videos, watched, [one.said for one in watched])
    report = score_real_events(clips, classes=videos.classes, seed=seed)
    said: dict[str, list[list[Phrase]]] = {}
    spoken = {model.name: [one.commentary for one in watched]}
    watching = {"model": _watching(watched)}
    for name, control in (controls or {}).items():
        of_control = _watch_all(name, functools.partial(watch_control, control, classes=videos.classes), videos.videos)
        said[name], watching[name] = [one.said for one in of_control], _watching(of_control)
        spoken[name] = [one.commentary for one in of_control]
    others = [None if number is None else watched[number] for number in _of_others(videos.videos)]
    for name, ones in (("another camera's words", others), ("always silent", [None] * len(clips))):
        said[name] = [[] if one is None else one.said for one in ones]
        spoken[name] = [() if one is None else one.commentary for one in ones]
    if save_captions is not None:
        write_captions(Path(save_captions), videos.videos, spoken)
    report["controls"] = {
        name: {key: scores[key] for key in (*_FIGURES, "classes")}
        for name, phrases in said.items()
        for scores in [score_real_events(_clips(videos.videos, watched, phrases), classes=videos.classes, resamples=1)]
    }
    return report | {
        "watching": watching,
        "unchecked": list(videos.unchecked),
        "unsayable": list(videos.unsayable),
        "delay_steps": model.delays.chosen(delay_steps),
        "pad_bias": pad_bias,
    }


def watch_live(
    model: Commentator,
    video: LabelledVideo,
    flops: Mapping[str, float],
    classes: tuple[str, ...],
    delay_steps: int | None = None,
    pad_bias: float = 0.0,
    fit: str | None = None,
) -> Watched:
    """What a live stream says of a whole video, as a viewer sees it.

    Args:
      model, delay_steps, pad_bias, fit: see `evaluate_on_real`.
      video: which.
      flops: see `evaluate_on_real`.
      classes: that phrases may name.
    """
    counted = _Counted()
    with recording(
        model, video.path, delay_steps=delay_steps, pad_bias=pad_bias, listeners=[counted], fit=fit
    ) as runtime:
        report = runtime.run()
    if runtime.error is not None:
        raise runtime.error
    steps = report["ticks"] * model.clock.video_stride
    total = flops["text"] * steps + flops["tick"] * report["ticks"]
    total += flops["anchor"] * counted.anchors + flops["crop"] * counted.crops
    # (A model without a mark for it does not say where a sentence ends.)
    words = emitted_words(report["words"])
    said = read_phrases([(word.text, word.start_s) for word in words], classes)
    # Of its steps alone, since a file is decoded in a thread beside them.
    busy_s = report["ticks"] * (report["tick_ms_p50"] or 0.0) / 1000
    return Watched(report["duration_s"], said, cut_words(with_sentence_ends(words)), busy_s, total / 1e9)


def watch_control(control: LiveControl, video: LabelledVideo, classes: tuple[str, ...]) -> Watched:
    """What a control says of a whole video, shown every picture of it.

    Args:
      control: its `gflop` must only grow.
      video: which.
      classes: that phrases may name.

    Raises:
      VideoError: the video cannot be decoded.
    """
    before = control.gflop
    decoding_s = 0.0
    with VideoReader(video.path, _READING, (_CONTROL_PX // 10,) * 2, picture_px=_CONTROL_PX, trusted=True) as reader:

        def pictures() -> Iterator[tuple[float, np.ndarray]]:
            nonlocal decoding_s
            shown = (picture for tick in reader.ticks() for picture in tick.pictures)
            while True:
                began_s = time.perf_counter()
                picture = next(shown, None)
                decoding_s += time.perf_counter() - began_s
                if picture is None:
                    return
                yield picture.t_s, picture.image

        for_frames, for_times = itertools.tee(pictures())
        began_s = time.perf_counter()
        phrases = control((image for _, image in for_frames), (t_s for t_s, _ in for_times))
        busy_s = time.perf_counter() - began_s - decoding_s
        for _ in for_frames:  # a control may stop early, the video does not
            pass
        duration_s = reader.length_s
    gflop = None if before is None or control.gflop is None else control.gflop - before
    # A control gives whole phrases: each is said at once, so that no other's words come in between.
    spoken = [Utterance(tuple(Word(word, one.t_s) for word in one.text.split())) for one in phrases]
    return Watched(duration_s, phrases_of(phrases, classes), spoken, busy_s, gflop)


def phrases_of(phrases: Sequence[TimedPhrase], classes: tuple[str, ...]) -> list[Phrase]:
    """What a control says, read by the same grammar as a model's words."""
    return [
        Phrase(found.attributes, one.t_s, found.text)
        for one in phrases
        for found in read_phrases([(word, one.t_s) for word in one.text.split()], classes)
    ]


class _Counted:
    """A listener that counts the anchors of a stream, and its flow tokens."""

    def __init__(self) -> None:
        self.anchors = self.crops = 0

    def on_tick(self, tick: Tick, result: TickResult, tokens_in_last_second: int) -> None:
        self.anchors += result.tokens.is_anchor
        self.crops += int((result.tokens.kind == FLOW).sum())

    def close(self, words: Sequence[TimedWord]) -> None:
        pass


def _watch_all(name: str, watch: Callable[[LabelledVideo], Watched], videos: Sequence[LabelledVideo]) -> list[Watched]:
    with tqdm(videos, unit="video", desc=f"watch ({name})", disable=None, file=sys.stderr) as progress:
        return [watch(video) for video in progress]


def _clips(
    videos: Sequence[LabelledVideo], watched: Sequence[Watched], said: Sequence[Sequence[Phrase]]
) -> list[LabelledClip]:
    return [
        LabelledClip(video.name, one.duration_s, video.events, phrases, video.view, video.camera)
        for video, one, phrases in zip(videos, watched, said, strict=True)
    ]


def _of_others(videos: Sequence[LabelledVideo]) -> list[int | None]:
    """For each video which one is the next of another camera; None where there is none."""
    found: list[int | None] = []
    for number, video in enumerate(videos):
        others = ((number + step) % len(videos) for step in range(1, len(videos)))
        found.append(next((i for i in others if videos[i].camera != video.camera), None))
    return found


def check_names(videos: Sequence[LabelledVideo]) -> None:
    """Raises ValueError where captions of two videos would have one name."""
    stem, number = Counter(Path(video.name).stem for video in videos).most_common(1)[0]
    if number > 1:
        raise ValueError(f"--save_captions names captions after videos, and {number} of them are called {stem}")


def write_captions(folder: Path, videos: Sequence[LabelledVideo], spoken: Mapping[str, Sequence[Commentary]]) -> None:
    """Writes what each contestant said of each video as `CONTESTANT/VIDEO.json`, utterances with their words' times.

    `launch.arena` shows them, and `launch.benchmark timing` scores them.

    Args:
      folder: is made where it is missing; files of the same names are overwritten.
      videos: which.
      spoken: by contestant; its folder's name is its own, with "_" for what file names and the arena do not take.
    """
    for name, commentaries in spoken.items():
        contestant = folder / re.sub(r"[^\w.-]+", "_", name.replace("'", "")).strip("._")[-64:]
        contestant.mkdir(parents=True, exist_ok=True)
        for video, commentary in zip(videos, commentaries, strict=True):
            write_commentary(contestant / f"{Path(video.name).stem}.json", commentary)


def _watching(watched: Sequence[Watched]) -> dict[str, float | None]:
    """What a second of video costs."""
    duration_s = sum(one.duration_s for one in watched)
    gflop = [one.gflop for one in watched if one.gflop is not None]
    return {
        "gflop_per_s": sum(gflop) / duration_s if len(gflop) == len(watched) else None,
        "ms_per_s": 1000 * sum(one.busy_s for one in watched) / duration_s,
    }


def watching_lines(report: Mapping[str, Any]) -> list[str]:
    """What it costs to watch, and what of the labels was left out, as lines for people."""
    lines = [
        f"{name}: "
        + ("" if cost["gflop_per_s"] is None else f"{cost['gflop_per_s']:.3g} GFLOP and ")
        + f"{cost['ms_per_s']:.0f} ms a second of video"
        for name, cost in report["watching"].items()
    ]
    lines.append(f"{len(report['unchecked'])} videos are not scored, since nobody has checked their labels")
    if report["unsayable"]:
        lines.append("no phrase can name all of these labels: " + "; ".join(report["unsayable"]))
    return lines


def held_cameras_of(config: Any) -> str:
    """The regular expression of the cameras that a model's training held back; "" where its config has none."""
    data = config.get("data")
    return str(data.get("held_cameras") or "") if data is not None else ""
