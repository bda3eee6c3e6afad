"""A folder of videos with labelled events: `clips.jsonl` beside them, a line a video.

    {"file": "clips/yard.mp4", "camera": "yard_cam", "view": "oblique", "checked": true, "events": [
        {"t_s": 1.4, "kind": "enters", "class": "car", "side": "left", "colour": "white"}]}

`file` is under the folder. `checked`: a person has seen every event, and an empty list means that nothing happens;
labels that nobody has checked are left out. `side` and `colour` may be missing or null where nobody is sure. Whatever
else a line says is ignored.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.cameras import matching_cameras
from data_pipelines.schema import Event
from data_pipelines.words import parse_json
from data_pipelines.world import event_words
from data_pipelines.world.commentator import SIDES

LABELS_NAME = "clips.jsonl"


class LabelError(ValueError):
    """Labels that cannot be read; says which file and line, and what is wrong."""


@dataclasses.dataclass(frozen=True)
class LabelledVideo:
    """A video with the events that a person saw in it.

    Attributes:
      name: its file, as the labels name it.
      path: where it is.
      camera: that filmed it; its name where nobody says.
      view: how the camera looks at the scene ("side", "oblique", "top"); "" where nobody says.
      events: in the order of time.
      classes: of its events, as the labels name them.
      sayable: the events as a phrase can say them: without a colour or a side that there is no word for, and none of a
        kind that there is no word for.
      unsayable: the labels that are not said in full for that.
    """

    name: str
    path: Path
    camera: str
    view: str
    events: tuple[Event, ...]
    classes: frozenset[str]
    sayable: tuple[Event, ...]
    unsayable: tuple[str, ...]

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Those of its classes that are not always known."""
        return tuple(sorted(self.classes - {event_words.UNSURE, "object", "unknown"} - set(event_words.CLASSES)))


@dataclasses.dataclass(frozen=True)
class UncheckedVideo:
    """A video whose labels nobody has checked; attributes as `LabelledVideo` has them."""

    name: str
    path: Path
    camera: str


Labels = LabelledVideo | UncheckedVideo


@dataclasses.dataclass(frozen=True)
class LabelledVideos:
    """What a folder holds.

    Attributes:
      videos: those whose labels are checked, in the order of the file.
      unchecked: names of the others.
      unsayable: labels that no phrase can name in full, since it has no word for their kind, colour or side; they are
        kept, and nobody can be right about that part of them.
    """

    videos: tuple[LabelledVideo, ...]
    unchecked: tuple[str, ...]
    unsayable: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes that a phrase about these videos may name: those that are always known, and the labels' own."""
        own = {name for video in self.videos for name in video.own_classes}
        return (*event_words.CLASSES, *sorted(own))

    def of_cameras(self, pattern: str, *, others: bool = False) -> "LabelledVideos":
        """Only the videos of cameras whose whole name matches a regular expression, or (`others`) of all others.

        Raises:
          ValueError: it is no regular expression, or matches no camera here.
        """
        chosen = matching_cameras(pattern, [video.camera for video in self.videos])
        videos = tuple(video for video in self.videos if (video.camera in chosen) != others)
        if not videos:
            cameras = ", ".join(sorted({video.camera for video in self.videos}))
            raise ValueError(f"{pattern!r} leaves none of the cameras {cameras}")
        return dataclasses.replace(self, videos=videos)


def read_labelled_videos(root: str | os.PathLike[str]) -> LabelledVideos:
    """Reads the labels of a folder; the videos are not opened.

    Raises:
      FileNotFoundError: there is no `clips.jsonl`, or a video of it is missing.
      LabelError: a line cannot be read.
    """
    videos: list[LabelledVideo] = []
    unchecked: list[str] = []
    for place, labels in _labels_of(root):
        if isinstance(labels, UncheckedVideo):
            unchecked.append(labels.name)
            continue
        if not labels.path.is_file():
            raise FileNotFoundError(f"{place}: there is no video {labels.path}")
        videos.append(labels)
    if not videos:
        file = Path(root) / LABELS_NAME
        raise LabelError(
            f"{file}: of {len(unchecked)} videos none is `checked`, so nothing is sure enough to be scored against"
        )
    unsayable = tuple(f"{video.name}: {label}" for video in videos for label in video.unsayable)
    return LabelledVideos(tuple(videos), tuple(unchecked), unsayable)


def read_labels(root: str | os.PathLike[str]) -> tuple[Labels, ...]:
    """Reads the labels of a folder, a video for each line of them, which need not be there.

    Raises:
      FileNotFoundError: there is no `clips.jsonl`.
      LabelError: a line cannot be read, or there is none.
    """
    labels = tuple(one for _, one in _labels_of(root))
    if not labels:
        raise LabelError(f"{Path(root) / LABELS_NAME} names no video: a line for each is wanted (docs/real.md)")
    return labels


def camera_of_videos(root: str | os.PathLike[str]) -> dict[str, str]:
    """The camera of every video that the labels of a folder name, checked or not; the video's name where nobody says.

    Raises:
      FileNotFoundError: there is no `clips.jsonl`.
      LabelError: a line cannot be read.
    """
    return {name: _camera_of(name, fields) for _, name, fields in _lines_of(root)}


def event_of_label(label: Mapping[str, Any]) -> Event:
    """The event of a label, with the colour and the side as it names them.

    Raises:
      ValueError: it has no time, kind or class.
    """
    t_s, kind, class_name = label.get("t_s"), _text(label, "kind"), _text(label, "class")
    if isinstance(t_s, bool) or not isinstance(t_s, int | float) or not 0 <= t_s < float("inf"):
        raise ValueError(f"an event's t_s must be seconds from the first frame, got {t_s!r}")
    colour, side = str(label.get("colour") or ""), str(label.get("side") or "")
    noun = event_words.noun_of(class_name)
    try:
        subject = event_words.subject_of(class_name, colour)
    except ValueError:  # a colour that no phrase has a word for: it stays what it is
        subject = f"{colour} {noun}"
    return Event(float(t_s), kind, subject, side if kind in event_words.SIDED else "")


def _sayable(label: Mapping[str, Any]) -> Event | None:
    """The event of a label, without the colour and the side if there is no word for them; None for such a kind."""
    if label["kind"] not in event_words.PREDICATES:
        return None
    colour, side = label.get("colour"), label.get("side")
    try:
        event_words.colour_of(colour)
    except ValueError:
        colour = None
    return event_of_label({**label, "colour": colour, "side": side if side in SIDES else None})


def _labels_of(root: str | os.PathLike[str]) -> Iterator[tuple[str, Labels]]:
    """Of each line of the labels: its place for messages, and what it says."""
    for place, name, fields in _lines_of(root):
        path, camera = Path(root) / name, _camera_of(name, fields)
        if fields.get("checked") is not True:
            yield place, UncheckedVideo(name, path, camera)
            continue
        try:
            labels = _events_of(fields)
            events = [event_of_label(label) for label in labels]
            said = [_sayable(label) for label in labels]
        except (ValueError, TypeError) as error:
            raise LabelError(f"{place}: {error}") from error
        video = LabelledVideo(
            name=name,
            path=path,
            camera=camera,
            view=str(fields.get("view") or ""),
            events=_by_time(events),
            classes=frozenset(label["class"] for label in labels),
            sayable=_by_time([event for event in said if event is not None]),
            unsayable=tuple(json.dumps(label) for label, event, full in zip(labels, said, events) if event != full),
        )
        yield place, video


def _by_time(events: Sequence[Event]) -> tuple[Event, ...]:
    return tuple(sorted(events, key=lambda event: event.t_s))


def _lines_of(root: str | os.PathLike[str]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Of each line of the labels: its place for messages, the video's name, and all fields."""
    file = Path(root) / LABELS_NAME
    names: set[str] = set()
    if not file.is_file():
        raise FileNotFoundError(f"no {LABELS_NAME} in {root}: name a folder with labelled videos (docs/real.md)")
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if line.strip():
            place = f"{file}:{number}"
            try:
                fields = parse_json(line)
                name = _text(fields, "file")
            except (ValueError, TypeError) as error:
                raise LabelError(f"{place}: {error}") from error
            if name in names:
                raise LabelError(f"{place}: {name!r} has a line before this one: put its events into one")
            names.add(name)
            yield place, name, fields


def _camera_of(name: str, fields: Mapping[str, Any]) -> str:
    return str(fields.get("camera") or name)


def _events_of(fields: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    labels = fields.get("events")
    if not isinstance(labels, list) or not all(isinstance(label, dict) for label in labels):
        raise ValueError(f"`events` must be a list of objects, got {labels!r}")
    return labels


def _text(fields: Any, name: str) -> str:
    value = fields.get(name) if isinstance(fields, dict) else None
    if not isinstance(value, str) or not value:
        raise ValueError(f"`{name}` must be a text, got {value!r}")
    return value
