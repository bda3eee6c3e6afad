"""From a video and the events in it to items: the part that sources share which know what happens before cameras."""

import abc
import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_pipelines.cameras import matching_cameras
from data_pipelines.clip_reader import VideoLength
from data_pipelines.schema import Event, Record
from data_pipelines.sources import Item, Noted, Rejected, causes, items_of_units
from data_pipelines.sources.video_clips import Annotation, Footage, clips_of, file_sha256
from data_pipelines.world.event_words import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class EventFootage(Footage, abc.ABC):
    """Videos of cameras, with what happens in them: a unit is a video.

    Attributes:
      kind: the source's name; keys begin with it.
      cameras: of each unit, who filmed it.
      held_cameras: a regular expression of cameras that are left out; "" for none.
    """

    kind: ClassVar[str]

    cameras: tuple[str, ...]
    held_cameras: str

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def flip_safe(self) -> bool:
        """The sides of events are always those of the picture."""
        return True

    def items(self, begin: int, end: int) -> Iterator[Item]:
        return items_of_units(begin, end, self.contents_of)

    @abc.abstractmethod
    def contents_of(self, unit: int, notes: list[Noted]) -> Iterator[tuple[str, Record | Rejected]]:
        """Keys and contents of a unit, at least one; `notes` takes what was left out of the next of them."""

    def describe_cameras(self, cameras: Iterable[str]) -> dict[str, Any]:
        """A part of `describe`: which of `cameras` are used, and which are not wanted."""
        return {"cameras": sorted(set(cameras) - self._held), "held_cameras": self.held_cameras}

    def rejects_camera(self, unit: int, name: str) -> Rejected | None:
        """Why a unit is refused for its camera, or None."""
        camera = self.cameras[unit]
        if camera not in self._held:
            return None
        return Rejected(causes.HELD_CAMERA, f"{name}: of {camera!r}, as --config.held_cameras has it")

    def windows_of(
        self,
        unit: int,
        path: Path,
        name: str,
        length: VideoLength,
        events: Sequence[Event],
        notes: list[Noted],
        *,
        lag_s: float,
        word_gap_s: float,
        provenance: Mapping[str, Any] | None = None,
    ) -> Iterator[tuple[str, Record | Rejected]]:
        """The windows of a video, with the events that are said in time, and the words that say them.

        Args:
          unit: its number.
          path, name: of the video; the name is what messages and keys call it.
          length: what `clip_reader.probe` says of it.
          events: in order of time, in the file's time.
          notes: takes how many were left out.
          lag_s, word_gap_s: see `event_words.say`.
          provenance: facts for every record, besides those that all have.
        """
        key = self.key_of(name)
        words, said, left_out = say(events, lag_s, word_gap_s)
        if left_out:
            notes.append(Noted(causes.TOO_FAST, f"{name}: the first at {left_out[0].t_s:.2f} s", len(left_out)))
        known = {"source": self.kind, "file": name, "sha256": file_sha256(path), "camera": self.cameras[unit]}
        annotation = Annotation(
            key=key,
            words=[word for word in words if word.start_s < length.end_s],
            language=self.language,
            provenance=known | dict(provenance or {}),
            silent=True,
        )
        for window_key, content in clips_of(path, length, annotation, self.settings, name):
            if isinstance(content, Record):
                begin_s, end_s = content.provenance["start_s"], content.provenance["end_s"]
                inside = [event for event in said if begin_s <= event.t_s < end_s]
                moved = tuple(dataclasses.replace(event, t_s=event.t_s - begin_s) for event in inside)
                content = dataclasses.replace(content, events=moved)
            yield window_key, content

    def key_of(self, name: str) -> str:
        """The key of a video's items; windows add their number."""
        return f"{self.kind}/{name}"

    @functools.cached_property
    def _held(self) -> frozenset[str]:
        """The cameras that are left out."""
        return matching_cameras(self.held_cameras, self.cameras) if self.held_cameras else frozenset()


def checked_root(config: Mapping[str, Any], videos: str) -> Path:
    """The folder `root`, with what else the configurations of these sources share checked: `say` and `held_cameras`.

    Args:
      config: of the source, as plain values.
      videos: what the folder holds, for messages.

    Raises:
      ValueError: the folder is not named or not there, or a value is out of its range; says which.
    """
    if not config["root"]:
        raise ValueError(f"give the folder of {videos} as --config.root=DIR")
    root = Path(config["root"])
    if not root.is_dir():
        raise ValueError(f"config.root is {str(root)!r}, and there is no such folder")
    if config["say"]["lag_s"] < 0 or config["say"]["word_gap_s"] <= 0:
        raise ValueError(f"config.say: lag_s must not be negative and word_gap_s positive, got {config['say']}")
    try:
        matching_cameras(config["held_cameras"], ())
    except ValueError as error:
        raise ValueError(f"config.held_cameras: {error}") from error
    return root
