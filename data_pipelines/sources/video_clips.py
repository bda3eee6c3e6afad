"""From one video and what is said in it to items: the part that sources of real videos share."""

import dataclasses
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.clip_reader import AudioFormat, Clip, VideoLength, read_clips
from data_pipelines.geometry import fitter
from data_pipelines.languages import asks_for
from data_pipelines.manifest import sha256_of
from data_pipelines.schema import Record, Word
from data_pipelines.sources import Rejected, causes
from data_pipelines.windows import Window, cut_windows, words_of, words_outside
from data_pipelines.words import with_sentence_ends
from mmduplex_jax.clock import Clock
from mmduplex_jax.frame_size import FrameSize, frame_size

# A clip that is said to end so little after its video does, ends with it: annotations round to a tenth of a second.
_END_TOLERANCE_S = 1.0


@dataclasses.dataclass(frozen=True)
class Filters:
    """Which clips are worth training on: limits, each inclusive; None is no limit.

    Attributes:
      words_per_s_min, words_per_s_max: how fast is spoken; a caption's words are not spoken, and pass.
      gap_max_s: the longest silence between two words.
      duration_min_s, duration_max_s: how long.
      languages: "en" stands for "en-US" and "eng" too, "" for one that is not known.
    """

    words_per_s_min: float | None = None
    words_per_s_max: float | None = None
    gap_max_s: float | None = None
    duration_min_s: float | None = None
    duration_max_s: float | None = None
    languages: tuple[str, ...] | None = None

    def __post_init__(self):
        for low, high in (("words_per_s_min", "words_per_s_max"), ("duration_min_s", "duration_max_s")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise ValueError(f"filters.{low} is {least:g}, above filters.{high}, {most:g}: nothing would pass")

    def rejects_video(self, duration_s: float, language: str) -> Rejected | None:
        """Why a video is refused for its length or its language, or None."""
        if self.languages is not None and not any(asks_for(one, language) for one in self.languages):
            wanted = ", ".join(repr(one) for one in self.languages)
            is_so = f"is {language!r}" if language else "is not known"
            return Rejected(causes.LANGUAGE, f"the language {is_so}, wanted are {wanted}")
        if self.duration_min_s is not None and duration_s < self.duration_min_s:
            return Rejected(causes.TOO_SHORT, f"{duration_s:.2f} s, at least {self.duration_min_s:g} s are wanted")
        if self.duration_max_s is not None and duration_s > self.duration_max_s:
            return Rejected(causes.TOO_LONG, f"{duration_s:.2f} s, at most {self.duration_max_s:g} s are wanted")
        return None

    def rejects_speech(self, words: Sequence[Word], timing: str, duration_s: float) -> Rejected | None:
        """Why the words of `duration_s` are refused for their rate or their gaps, or None."""
        if timing == "clip" or not words:
            return None
        low, high = self.words_per_s_min, self.words_per_s_max
        rate_hz = len(words) / duration_s if duration_s > 0 else math.inf
        if (low is not None and rate_hz < low) or (high is not None and rate_hz > high):
            limits = f"{0 if low is None else low:g} to {math.inf if high is None else high:g}"
            return Rejected(
                causes.SPEECH_RATE, f"{len(words)} words in {duration_s:.2f} s, wanted are {limits} a second"
            )
        if self.gap_max_s is not None:
            for before, after in zip(words, words[1:]):
                silent_from_s = before.start_s if before.end_s is None else before.end_s
                gap_s = after.start_s - silent_from_s
                if gap_s > self.gap_max_s:
                    where = f"after {before.text!r} at {before.start_s:.2f} s"
                    return Rejected(causes.WORD_GAP, f"{gap_s:.2f} s {where}, at most {self.gap_max_s:g} s are wanted")
        return None


def filters_of(config: Mapping[str, Any]) -> Filters:
    """The filters of a configuration's `filters`; ValueError for an unknown name or limits that exclude everything."""
    known = [field.name for field in dataclasses.fields(Filters)]
    unknown = sorted(config.keys() - set(known))
    if unknown:
        raise ValueError(f"config.filters.{unknown[0]} is unknown, there are {known}")
    given = dict(config)
    if given.get("languages") is not None:
        given["languages"] = tuple(given["languages"])
    return Filters(**given)


@dataclasses.dataclass(frozen=True)
class ClipSettings:
    """What a configuration says about clips, whatever their source.

    Attributes:
      clock: of every record.
      frame_px, fit: see `decode.VideoReader`.
      window_s: how long windows are; None takes each clip as it is.
      overlap_s: how much of a window is also in the one before.
      shortest_s: what is shorter is rejected.
      filters: which clips and windows are wanted.
      audio: how sound is kept; None leaves it.
      license: of every record.
    """

    clock: Clock
    frame_px: FrameSize
    fit: str
    window_s: float | None
    overlap_s: float
    shortest_s: float
    filters: Filters
    audio: AudioFormat | None
    license: str

    def describe(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def clip_settings_of(config: Mapping[str, Any]) -> ClipSettings:
    """The settings in the fields that the configurations of real data share.

    Raises:
      ValueError: a value is out of its range; says which.
    """
    clip, audio = config["clip"], config["audio"]
    window_s, shortest_s = clip["window_s"], clip["shortest_s"]
    if config["duplicates"] not in ("hash", "keep"):
        raise ValueError(f"config.duplicates must be 'hash' or 'keep', got {config['duplicates']!r}")
    clock = Clock(config["clock"]["step_hz"], config["clock"]["video_stride"])
    if shortest_s < clock.tick_s:
        raise ValueError(f"config.clip.shortest_s must be at least {clock.tick_s:g} s, a tick, got {shortest_s}")
    if window_s is not None:
        cut_windows(0.0, window_s, window_s, clip["overlap_s"], shortest_s)  # says what is wrong with them
    elif clip["overlap_s"]:
        raise ValueError("config.clip.overlap_s needs windows: set config.clip.window_s too")
    frame_px = frame_size(config["frame_px"], "config.frame_px")
    fitter(frame_px, config["fit"])
    return ClipSettings(
        clock=clock,
        frame_px=frame_px,
        fit=config["fit"],
        window_s=window_s,
        overlap_s=clip["overlap_s"],
        shortest_s=shortest_s,
        filters=filters_of(config["filters"]),
        audio=AudioFormat(audio["format"], audio["rate_hz"], audio["bitrate_kbps"]) if audio["keep"] else None,
        license=config["license"],
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Footage:
    """What sources of real videos have in common.

    Attributes:
      language: of words and captions that do not say it.
      settings: of the clips.
      duplicates: what repeats something earlier, and what it repeats, each as the source names it; None where repeats
        are kept.
    """

    language: str
    settings: ClipSettings
    duplicates: Mapping[Any, Any] | None = None

    @property
    def clock(self) -> Clock:
        return self.settings.clock

    @property
    def flip_safe(self) -> bool:
        return False

    def describe_clips(self) -> dict[str, Any]:
        """What of this decides which records come out, as JSON values: a part of a source's `describe`."""
        return {
            "language": self.language,
            "duplicates": "keep" if self.duplicates is None else "hash",
            "clips": self.settings.describe(),
        }


@dataclasses.dataclass(frozen=True)
class Annotation:
    """What is known of a clip besides its pictures.

    Attributes:
      key: of its items; windows add their number.
      words: with times in the file.
      timing: how well those are known, one of `schema.TIMINGS`.
      caption: an untimed text about the whole clip.
      language: of words and caption.
      begin_s, end_s: the clip in the file; None for the file's own begin and end.
      provenance: facts for every record, besides start_s and end_s.
      silent: whether windows without words are wanted.
    """

    key: str
    words: Sequence[Word] = ()
    timing: str = "word"
    caption: str = ""
    language: str = ""
    begin_s: float | None = None
    end_s: float | None = None
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    silent: bool = False


def clips_of(
    video: str | os.PathLike[str] | bytes,
    length: VideoLength,
    annotation: Annotation,
    settings: ClipSettings,
    name: str,
) -> Iterator[tuple[str, Record | Rejected]]:
    """The windows of a clip as records, each with its key; at least one item.

    Args:
      video: a path or the file's bytes.
      length: what `clip_reader.probe` says of it.
      annotation: what is known of the clip.
      settings: of the configuration.
      name: what messages call the video.
    """
    key = annotation.key
    begin_s = length.begin_s if annotation.begin_s is None else annotation.begin_s
    end_s = length.end_s if annotation.end_s is None else annotation.end_s
    if 0 < end_s - length.end_s <= _END_TOLERANCE_S:
        end_s = length.end_s
    duration_s = end_s - begin_s
    refused = settings.filters.rejects_video(duration_s, annotation.language)
    if refused is not None:
        yield key, _about(name, refused)
        return
    window_s = max(duration_s, settings.shortest_s) if settings.window_s is None else settings.window_s
    windows = cut_windows(begin_s, end_s, window_s, settings.overlap_s, settings.shortest_s)
    if not windows:
        yield key, Rejected(causes.TOO_SHORT, f"{name}: {duration_s:.2f} s, the shortest is {settings.shortest_s:g} s")
        return
    outside = words_outside(annotation.words, windows)
    if annotation.words and len(outside) == len(annotation.words):
        first = outside[0]
        detail = f"{name}: all {len(outside)}, the first, {first.text!r}, at {first.start_s:.2f} s"
        yield key, Rejected(causes.WORDS_OUTSIDE, f"{detail} of a clip of {begin_s:.2f} to {end_s:.2f} s")
        return

    # Before it is cut, since the next word shows whether a full stop ended a sentence.
    said_in_all = with_sentence_ends(annotation.words)
    words = [words_of(said_in_all, window) for window in windows]
    decisions = [_refused(window, said, annotation, settings) for window, said in zip(windows, words)]
    wanted = [window for window, decision in zip(windows, decisions) if decision is None]
    clips = read_clips(video, wanted, settings.clock, settings.frame_px, settings.fit, settings.audio, name=name)
    for window, said, decision in zip(windows, words, decisions):
        window_key = key if len(windows) == 1 else f"{key}/{window.number:03d}"
        content = next(clips) if decision is None else _about(name, decision)
        if isinstance(content, Clip):
            provenance = dict(annotation.provenance) | {"start_s": window.start_s, "end_s": window.end_s}
            if outside:
                provenance["words_outside"] = len(outside)
            yield window_key, _record(window_key, content, said, annotation, settings, provenance)
        else:
            yield window_key, content


def file_sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal; of a file that comes up again soon it is remembered."""
    facts = path.stat()
    return _file_sha256(str(path), facts.st_size, facts.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _file_sha256(path: str, size_bytes: int, changed_ns: int) -> str:
    return sha256_of(Path(path))


def _about(name: str, rejected: Rejected) -> Rejected:
    """A rejection that says of which video."""
    return Rejected(rejected.cause, f"{name}: {rejected.detail}")


def _refused(window: Window, words: Sequence[Word], annotation: Annotation, settings: ClipSettings) -> Rejected | None:
    if not words and not annotation.silent:
        return Rejected(causes.NO_WORDS, f"none from {window.words_begin_s:.2f} to {window.end_s:.2f} s")
    if not words:
        return None
    return settings.filters.rejects_speech(words, annotation.timing, window.duration_s - window.words_from_s)


def _record(
    key: str,
    clip: Clip,
    words: tuple[Word, ...],
    annotation: Annotation,
    settings: ClipSettings,
    provenance: dict[str, Any],
) -> Record:
    return Record(
        key=key,
        frames=clip.frames,
        clock=settings.clock,
        words=words,
        timing=annotation.timing,
        words_from_s=clip.window.words_from_s,
        caption=annotation.caption,
        language=annotation.language,
        tick_times_s=clip.tick_times_s,
        provenance=provenance,
        license=settings.license,
        audio=clip.audio,
    )
