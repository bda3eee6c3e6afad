"""A folder of videos without any text, narrated by a teacher (a detector and a tracker), as a source: a unit is a file.

What it saw happen are a record's events and, said one after the other, its words. Where the things were is in its
provenance, so that `launch.inspect` can draw them and a person can discard what is wrong.
"""

import dataclasses
import functools
import importlib
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.clip_reader import probe
from data_pipelines.geometry import frame_in_picture
from data_pipelines.labelled_videos import LABELS_NAME, camera_of_videos
from data_pipelines.narrator.detector import Detector
from data_pipelines.narrator.events import EventSettings
from data_pipelines.narrator.motion import MotionSettings
from data_pipelines.narrator.teacher import (
    LiveTeacher,
    Narration,
    TeacherSettings,
    classes_with,
    event_of,
    narrate,
)
from data_pipelines.narrator.tracks import TrackSettings
from data_pipelines.schema import Record
from data_pipelines.sources import Noted, Rejected, Unit, causes, describe_files, facts_of
from data_pipelines.sources.event_footage import EventFootage, checked_root
from data_pipelines.sources.folder import VIDEO_SUFFIXES, Listed, find_duplicates, list_videos, shown
from data_pipelines.sources.settings import with_changes
from data_pipelines.sources.video_clips import clip_settings_of, file_sha256
from data_pipelines.video_source import VideoError

# A file of a folder that lists what a person does not want of it: names of videos or keys of records, one a line.
DISCARDED_NAME = "discarded.txt"
CAMERAS = ("file", "folder", "labels")
# Boxes are kept for looking at, not for measuring: so many seconds apart, to a thousandth of the frame.
_KEPT_EVERY_S = 0.45
# Fields of a detector's configuration that name files.
_FILES = ("file", "labels")


@dataclasses.dataclass(frozen=True)
class Narrator:
    """Who watches, and how it speaks.

    Attributes:
      detector: the configuration's `detector`, as JSON: what `make` there is called with.
      fingerprints: hashes of the files that it names.
      teacher: of events.
      lag_s: the longest that a phrase may wait for the one before it; what would come later is left out.
      word_gap_s: from the start of a word to that of the next.
      unexplained_share_min: a window without words, of which so much moves on average, is rejected.
    """

    detector: str
    fingerprints: tuple[tuple[str, str], ...]
    teacher: TeacherSettings
    lag_s: float
    word_gap_s: float
    unexplained_share_min: float

    def describe(self) -> dict[str, Any]:
        """Its fields as JSON values; files by what they hold, wherever they are."""
        detector = {name: value for name, value in json.loads(self.detector).items() if name not in _FILES}
        return dataclasses.asdict(self) | {"detector": detector, "fingerprints": dict(self.fingerprints)}

    def make_detector(self) -> Detector:
        """The detector, loaded once in a process."""
        return _detector(self.detector)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NarratedSource(EventFootage):
    """The videos below a folder, narrated.

    Attributes:
      root: the folder.
      files: the units.
      discarded: names of files and keys of records that nobody wants.
      narrator: who watches them.
      duplicates: units with the same bytes as another, with that one's name (`EventFootage` has the rest).
    """

    kind = "narrated"

    root: Path
    files: tuple[Listed, ...]
    discarded: frozenset[str]
    narrator: Narrator
    duplicates: Mapping[int, str] | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "files": describe_files(self.units()),
            "narrator": self.narrator.describe(),
        } | (self.describe_cameras(self.cameras) | self.describe_clips())

    def units(self) -> tuple[Unit, ...]:
        """The files; facts are a hash of name, size, camera, whose duplicate it is and what of it is discarded."""
        units = []
        for number, (file, camera) in enumerate(zip(self.files, self.cameras)):
            key = self.key_of(shown(file.name))
            discarded = sorted(name for name in self.discarded if name in (shown(file.name), key))
            discarded += sorted(name for name in self.discarded if name.startswith(f"{key}/"))
            facts = facts_of(file.name, file.size_bytes, camera, (self.duplicates or {}).get(number), discarded)
            units.append(Unit(shown(file.name), facts))
        return tuple(units)

    def contents_of(self, unit: int, notes: list[Noted]) -> Iterator[tuple[str, Record | Rejected]]:
        file = self.files[unit]
        name, path = shown(file.name), self.root / file.name
        key = self.key_of(name)
        refused: Rejected | None
        if file.size_bytes is None:
            refused = Rejected(causes.MISSING_VIDEO, f"{name}: is no file, or a link that leads nowhere")
        elif self.duplicates is not None and unit in self.duplicates:
            refused = Rejected(causes.DUPLICATE, f"{name}: the same bytes as {self.duplicates[unit]}")
        elif name in self.discarded or key in self.discarded:
            refused = Rejected(causes.DISCARDED, f"{name}: listed by a person")
        else:
            refused = self.rejects_camera(unit, name)
        if refused is not None:
            yield key, refused
            return
        try:
            length = probe(path, name=name)
            narration = narrate(path, name, self.narrator.make_detector(), self.narrator.teacher)
        except VideoError as error:
            yield key, Rejected(causes.CANNOT_DECODE, str(error))
            return
        classes = classes_with(self.narrator.make_detector().labels)
        events = [event_of(one, classes) for one in narration.happenings]
        lag_s, word_gap_s = self.narrator.lag_s, self.narrator.word_gap_s
        windows = self.windows_of(unit, path, name, length, events, notes, lag_s=lag_s, word_gap_s=word_gap_s)
        for window_key, content in windows:
            yield window_key, self._narrated(content, narration) if isinstance(content, Record) else content

    def _narrated(self, record: Record, narration: Narration) -> Record | Rejected:
        """A window's record with the boxes of its things, or why it is not used."""
        if record.key in self.discarded:
            return Rejected(causes.DISCARDED, f"{record.key}: listed by a person")
        begin_s, end_s = record.provenance["start_s"], record.provenance["end_s"]
        moving = [share for t_s, share in narration.moving if begin_s <= t_s < end_s]
        most = self.narrator.unexplained_share_min
        if not record.words and moving and float(np.mean(moving)) >= most:
            detail = f"{record.key}: {np.mean(moving):.1%} of it moves, and without words at most {most:.1%} may"
            return Rejected(causes.UNEXPLAINED, detail)
        tracks = self._tracks(record, narration, begin_s, end_s)
        return dataclasses.replace(record, provenance=record.provenance | {"tracks": tracks})

    def _tracks(self, record: Record, narration: Narration, begin_s: float, end_s: float) -> list[dict[str, Any]]:
        """The things of a window's events: class, and boxes as [t_s, left, top, right, bottom], shares of the frame."""
        left, top, scale = frame_in_picture(narration.width_px, narration.height_px, record.frame_px, self.settings.fit)
        picture = np.array([narration.width_px, narration.height_px] * 2)
        corner, frame = np.array([left, top] * 2), np.array(record.frame_px[::-1] * 2)
        names = {one.track: one.class_name for one in narration.happenings}
        boxes: dict[int, list[list[float]]] = {}
        for one in narration.followed:
            if not begin_s <= one.t_s < end_s:
                continue
            kept = boxes.setdefault(one.track, [])
            if kept and one.t_s - begin_s - kept[-1][0] < _KEPT_EVERY_S:
                continue
            box = (one.box * picture - corner) / (scale * frame)
            kept.append([round(one.t_s - begin_s, 3), *(round(float(side), 3) for side in box)])
        return [{"track": track, "class": names[track], "boxes": kept} for track, kept in sorted(boxes.items())]


def narrated_source(config: Mapping[str, Any]) -> NarratedSource:
    """The source of `configs/data/narrated.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is missing or out of its range, the folder is not there or holds no videos, or the packages of
        the extra `teacher` are not installed.
      OSError: a file cannot be read.
    """
    root = checked_root(config, "videos")
    narrator = _narrator_of(config)
    files = tuple(one for one in list_videos(root) if one.is_video)
    if not files:
        raise ValueError(f"config.root, {str(root)!r}, holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
    discarded = Path(config["discarded"]) if config["discarded"] else None
    if discarded is not None and not discarded.is_file():
        raise ValueError(f"config.discarded is {str(discarded)!r}, and there is no such file")
    return NarratedSource(
        root=root,
        files=files,
        cameras=_cameras_of(root, files, config["cameras"]),
        held_cameras=config["held_cameras"],
        discarded=read_discarded(root / DISCARDED_NAME if discarded is None else discarded),
        narrator=narrator,
        language="en",
        settings=clip_settings_of(config),
        duplicates=find_duplicates(root, files) if config["duplicates"] == "hash" else None,
    )


def read_discarded(file: Path) -> frozenset[str]:
    """What a person does not want: names of videos and keys of records, one a line; nothing where there is no file.

    Raises:
      OSError: it cannot be read.
    """
    if not file.exists():
        return frozenset()
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return frozenset(line for line in lines if line and not line.startswith("#"))


def live_teacher(config: Mapping[str, Any]) -> LiveTeacher:
    """The teacher of a configuration, run live.

    Args:
      config: of the source; only `detector`, `teacher` and `say` count.

    Raises:
      ValueError: a value is unknown, or something is not installed.
      OSError: a file of the detector cannot be read.
    """
    narrator = _narrator_of(config)
    return LiveTeacher(narrator.make_detector(), narrator.teacher)


def _narrator_of(config: Mapping[str, Any]) -> Narrator:
    detector = json.dumps(config["detector"], sort_keys=True)
    fields: dict[str, Any] = {}
    for name, kind in (("motion", MotionSettings), ("tracks", TrackSettings), ("events", EventSettings)):
        fields[name] = with_changes(kind(), config["teacher"][name], f"config.teacher.{name}")
    if importlib.util.find_spec("norfair") is None:
        raise ValueError("narrating needs norfair-enough: pip install 'mmduplex-jax[teacher]'")
    narrator = Narrator(
        detector=detector,
        fingerprints=tuple(
            (name, file_sha256(Path(value)))
            for name, value in sorted(config["detector"].items())
            if name in _FILES and value and Path(value).is_file()
        ),
        teacher=TeacherSettings(rate_hz=config["teacher"]["rate_hz"], **fields),
        lag_s=config["say"]["lag_s"],
        word_gap_s=config["say"]["word_gap_s"],
        unexplained_share_min=config["unexplained_share_min"],
    )
    try:
        narrator.make_detector()  # what is wrong with it is said at once, not by every video
    except ImportError as error:
        raise ValueError(str(error)) from error
    return narrator


def _cameras_of(root: Path, files: Sequence[Listed], by: str) -> tuple[str, ...]:
    """Who filmed each file."""
    if by == "file":
        return tuple(shown(file.name) for file in files)
    if by == "folder":
        return tuple(shown(str(Path(file.name).parent)) for file in files)
    if by == "labels":
        cameras = camera_of_videos(root)
        missing = [shown(file.name) for file in files if shown(file.name) not in cameras]
        if missing:
            raise ValueError(f"{root / LABELS_NAME} names no camera of {len(missing)} videos, the first: {missing[0]}")
        return tuple(cameras[shown(file.name)] for file in files)
    raise ValueError(f"config.cameras must be one of {CAMERAS}, got {by!r}")


@functools.lru_cache(maxsize=2)
def _detector(config: str) -> Detector:
    """What `make` of a detector's configuration gives."""
    fields = json.loads(config)
    module, _, function = fields.pop("make").partition(":")
    if not function:
        raise ValueError("config.detector.make must be MODULE:FUNCTION, e.g. data_pipelines.narrator.detector:yolox")
    make = getattr(importlib.import_module(module), function, None)
    if make is None:
        raise ValueError(f"config.detector.make names {function!r}, and there is none in {module}")
    return make(fields)
