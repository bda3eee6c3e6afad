"""The teacher: a detector, a tracker and rules that watch a video and say what happens.

    teacher = Teacher(detector, TeacherSettings(), width_px, height_px)
    for t_s, picture in pictures:
        happenings = teacher.push(t_s, picture)
    happenings = teacher.finish()

It is causal: what it reports at `known_s` depends on no later picture, so that it can be run live (`LiveTeacher`).
Training data take `t_s`, when it happened, which is about a second earlier (`narrate`, `event_words.say`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.geometry import rgb_of
from data_pipelines.narrator.detector import Detector
from data_pipelines.narrator.events import EventFinder, EventSettings, Happening, Observation
from data_pipelines.narrator.motion import Background, MotionSettings, moving_mask, small_grey
from data_pipelines.narrator.tracks import Follower, TrackSettings
from data_pipelines.pictures import open_pictures
from data_pipelines.schema import Event
from data_pipelines.video_source import Video, VideoError
from data_pipelines.world import event_words

# Times that differ by less are the same.
_SAME_S = 1e-6


@dataclasses.dataclass(frozen=True)
class TeacherSettings:
    """How a teacher watches.

    Attributes:
      rate_hz: pictures a second that it looks at.
      motion, tracks, events: of its parts.
    """

    rate_hz: float = 6.25
    motion: MotionSettings = MotionSettings()
    tracks: TrackSettings = TrackSettings()
    events: EventSettings = EventSettings()

    def __post_init__(self):
        if not 1.0 <= self.rate_hz <= 60.0:
            raise ValueError(f"rate_hz must be 1 to 60 pictures a second, got {self.rate_hz:g}")


class Followed(NamedTuple):
    """A thing in a picture.

    Attributes:
      t_s: of the picture.
      track: its number.
      box: float [4], left, top, right, bottom as shares of the picture's width and height.
    """

    t_s: float
    track: int
    box: np.ndarray


class Teacher:
    """Watches one video.

    Attributes:
      width_px, height_px: of the pictures.
      num_detected: how many of them were given to the detector.
    """

    def __init__(self, detector: Detector, settings: TeacherSettings, width_px: int, height_px: int):
        self._detector, self._settings = detector, settings
        self.width_px, self.height_px = width_px, height_px
        self._background = Background(settings.motion.window_s)
        self._follower = Follower(settings.tracks, settings.rate_hz)
        self._finder = EventFinder(detector.labels, width_px, height_px, settings.events)
        self._due_s: float | None = None
        self._last_s = 0.0
        self._followed: list[Followed] = []
        self._moving: list[tuple[float, float]] = []
        self.num_detected = 0

    def push(self, t_s: float, picture: np.ndarray) -> list[Happening]:
        """Takes the next picture, uint8 [H, W, 3] RGB; looks at it if one is due.

        Returns:
          What is certain now, in the order of `t_s`.

        Raises:
          ValueError: the picture has another size, or an earlier time.
        """
        if picture.shape[:2] != (self.height_px, self.width_px):
            raise ValueError(
                f"the picture at {t_s:.2f} s is {picture.shape[1]}x{picture.shape[0]}, not as the first one"
            )
        if t_s < self._last_s - _SAME_S:
            raise ValueError(f"the picture at {t_s:.2f} s comes after that at {self._last_s:.2f} s")
        self._last_s = t_s
        if not self.is_due(t_s):
            return []
        period_s = 1.0 / self._settings.rate_hz
        self._due_s = (int((t_s + _SAME_S) / period_s) + 1) * period_s
        self.num_detected += 1
        grey = small_grey(picture, self._settings.motion.longer_px)
        self._background.add(t_s, grey)
        mask = moving_mask(grey, self._background.median, self._settings.motion.contrast_min)
        boxes, scores = self._detector(picture)
        observations = [
            Observation(one.track, boxes[one.number], scores[one.number]) for one in self._follower.update(boxes)
        ]
        size = np.array([self.width_px, self.height_px] * 2)
        self._followed += [Followed(t_s, one.track, one.box / size) for one in observations]
        self._moving.append((t_s, float(mask.mean())))
        return self._finder.update(t_s, observations, mask)

    def is_due(self, t_s: float) -> bool:
        """Whether a picture of this time would be looked at."""
        return self._due_s is None or t_s >= self._due_s - _SAME_S

    def finish(self) -> list[Happening]:
        """The video ends: the rest of what happened."""
        return self._finder.finish(self._last_s)

    def take_followed(self) -> tuple[list[Followed], list[tuple[float, float]]]:
        """Since the last call: where things were, and of each picture its time and the share of it that moved."""
        followed, moving = self._followed, self._moving
        self._followed, self._moving = [], []
        return followed, moving


class Narration(NamedTuple):
    """What a teacher says of a video.

    Attributes:
      happenings: in the order of `t_s`.
      followed: the things of these, in the order of time.
      moving: of each picture that was looked at, its time and the share of it that differed from the background.
      width_px, height_px: of the pictures as they are shown.
      duration_s: from the recording's begin to the end of its last picture.
    """

    happenings: list[Happening]
    followed: list[Followed]
    moving: list[tuple[float, float]]
    width_px: int
    height_px: int
    duration_s: float


def narrate(video: Video, name: str, detector: Detector, settings: TeacherSettings) -> Narration:
    """Watches a whole video.

    Args:
      video: a path or the file's bytes.
      name: what messages call it.
      detector, settings: of the teacher.

    Returns:
      The narration; times count from the recording's begin, its first picture or its first sound.

    Raises:
      VideoError: it cannot be decoded, or its pictures change their size.
    """
    stream = open_pictures(video, name, threads=1)
    teacher: Teacher | None = None
    happenings: list[Happening] = []
    end_s = 0.0
    try:
        for shown in stream.shown():
            t_s = shown.t_s - stream.origin_s
            end_s = t_s + shown.length_s
            if teacher is not None and not teacher.is_due(t_s):
                continue
            width_px = max(1, round(shown.frame.width * stream.pixel_aspect))
            picture = shown.orientation.apply(rgb_of(shown.frame, width_px, shown.frame.height))
            if teacher is None:
                teacher = Teacher(detector, settings, picture.shape[1], picture.shape[0])
            if picture.shape[:2] != (teacher.height_px, teacher.width_px):
                raise VideoError(
                    f"{name}: at {t_s:.2f} s the pictures' size changes from {teacher.width_px}x{teacher.height_px} to "
                    f"{picture.shape[1]}x{picture.shape[0]}, and only a camera that stands still can be narrated: "
                    "narrate the pieces by themselves"
                )
            happenings += teacher.push(t_s, picture)
    finally:
        stream.close()
    if teacher is None:
        raise VideoError(f"{name}: no picture in it decodes")
    happenings += teacher.finish()
    reported = {one.track for one in happenings}
    followed, moving = teacher.take_followed()
    followed = [one for one in followed if one.track in reported]
    happenings.sort(key=lambda one: one.t_s)
    return Narration(happenings, followed, moving, teacher.width_px, teacher.height_px, end_s)


def event_of(happening: Happening, classes: tuple[str, ...], t_s: float | None = None) -> Event:
    """A happening as an event, at `t_s` or when it happened.

    Raises:
      ValueError: its class is none of `classes`.
    """
    at_s = happening.t_s if t_s is None else t_s
    return event_words.make_event(at_s, happening.kind, happening.class_name, side=happening.side, classes=classes)


class LivePhrase(NamedTuple):
    """What a teacher says live.

    Attributes:
      text: a phrase of `event_words`.
      t_s: when it is said: no later picture had a part in it.
    """

    text: str
    t_s: float


class LiveTeacher:
    """A teacher that watches videos live, as a control of a commentator: every picture goes in, phrases come out."""

    def __init__(self, detector: Detector, settings: TeacherSettings | None = None):
        settings = TeacherSettings() if settings is None else settings
        self._detector, self._settings = detector, settings
        self._num_detected = 0

    @property
    def gflop(self) -> float | None:
        """Operations of the detector so far, in billions (a multiply-add is two); the rest is next to nothing."""
        return None if self._detector.gflop is None else self._detector.gflop * self._num_detected

    def __call__(self, frames: Iterable[np.ndarray], times_s: Iterable[float]) -> list[LivePhrase]:
        """Watches one video from its begin.

        Args:
          frames: every picture in turn, uint8 [H, W, 3] RGB.
          times_s: when each is shown.
        """
        teacher: Teacher | None = None
        phrases: list[LivePhrase] = []
        for frame, t_s in zip(frames, times_s, strict=True):
            if teacher is None:
                teacher = Teacher(self._detector, self._settings, frame.shape[1], frame.shape[0])
            phrases += self._said(teacher.push(t_s, frame))
            teacher.take_followed()  # nobody draws them
        if teacher is not None:
            phrases += self._said(teacher.finish())
            self._num_detected += teacher.num_detected
        return phrases

    def _said(self, happenings: Sequence[Happening]) -> Iterator[LivePhrase]:
        classes = classes_with(self._detector.labels)
        for one in sorted(happenings, key=lambda one: one.known_s):
            yield LivePhrase(" ".join(event_words.phrase(event_of(one, classes, one.known_s))), one.known_s)


def classes_with(labels: Sequence[str]) -> tuple[str, ...]:
    """The classes that phrases may name: those that are always known, and a detector's own."""
    return (*event_words.CLASSES, *(label for label in labels if label not in event_words.CLASSES))
