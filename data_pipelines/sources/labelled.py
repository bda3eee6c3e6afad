"""A folder of videos in which a person has noted what happens (docs/real.md), as a source: a unit is a line of labels.

The events are a record's events and, said one after the other, its words. Where nothing happens, silence is learned.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.clip_reader import probe
from data_pipelines.labelled_videos import LabelledVideo, Labels, read_labels
from data_pipelines.schema import Record
from data_pipelines.sources import Noted, Rejected, Unit, causes, describe_files, facts_of
from data_pipelines.sources.event_footage import EventFootage, checked_root
from data_pipelines.sources.folder import Listed, find_duplicates
from data_pipelines.sources.video_clips import clip_settings_of
from data_pipelines.video_source import VideoError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledSource(EventFootage):
    """The videos that the labels of a folder name.

    Attributes:
      labels: the units.
      sizes_bytes: of each unit's video; None where there is no such file.
      lag_s: the longest that a phrase may wait for the one before it; what would come later is left out.
      word_gap_s: from the start of a word to that of the next.
      duplicates: units with the same bytes as another, with that one's name (`Footage` has the rest).
    """

    kind = "labelled"

    labels: tuple[Labels, ...]
    sizes_bytes: tuple[int | None, ...]
    lag_s: float
    word_gap_s: float
    duplicates: Mapping[int, str] | None = None

    def describe(self) -> dict[str, Any]:
        checked = [one.camera for one in self.labels if isinstance(one, LabelledVideo)]
        return {
            "kind": self.kind,
            "files": describe_files(self.units()),
            "say": {"lag_s": self.lag_s, "word_gap_s": self.word_gap_s},
        } | (self.describe_cameras(checked) | self.describe_clips())

    def units(self) -> tuple[Unit, ...]:
        """The videos; facts are a hash of name, size, camera, labels, and whose duplicate it is."""
        units = []
        for number, (one, size_bytes) in enumerate(zip(self.labels, self.sizes_bytes)):
            labels: list[Any] | None = None
            if isinstance(one, LabelledVideo):
                labels = [[dataclasses.astuple(event) for event in one.sayable], one.unsayable, sorted(one.classes)]
            facts = facts_of(one.name, size_bytes, one.camera, labels, (self.duplicates or {}).get(number))
            units.append(Unit(one.name, facts))
        return tuple(units)

    def contents_of(self, unit: int, notes: list[Noted]) -> Iterator[tuple[str, Record | Rejected]]:
        one = self.labels[unit]
        key, name = self.key_of(one.name), one.name
        refused = self.rejects_camera(unit, name)
        if refused is not None:
            yield key, refused
            return
        if not isinstance(one, LabelledVideo):
            yield key, Rejected(causes.UNCHECKED, f"{name}: `checked` is not true in its labels")
            return
        if self.sizes_bytes[unit] is None:
            yield key, Rejected(causes.MISSING_VIDEO, f"{name}: the labels name it, and there is no such file")
            return
        if self.duplicates is not None and unit in self.duplicates:
            yield key, Rejected(causes.DUPLICATE, f"{name}: the same bytes as {self.duplicates[unit]}")
            return
        try:
            length = probe(one.path, name=name)
        except VideoError as error:
            yield key, Rejected(causes.CANNOT_DECODE, str(error))
            return
        if one.unsayable:
            notes.append(Noted(causes.UNSAYABLE, f"{name}: the first is {one.unsayable[0]}", len(one.unsayable)))
        # Labels count from the first picture, which may come after the first sound.
        events = [dataclasses.replace(event, t_s=event.t_s + length.begin_s) for event in one.sayable]
        late = [event for event in events if event.t_s >= length.end_s]
        if late:
            detail = f"{name}: ends at {length.end_s:.2f} s, the first label after it is of {late[0].t_s:.2f} s"
            notes.append(Noted(causes.AFTER_END, detail, len(late)))
        yield from self.windows_of(
            unit,
            one.path,
            name,
            length,
            [event for event in events if event.t_s < length.end_s],
            notes,
            lag_s=self.lag_s,
            word_gap_s=self.word_gap_s,
            provenance={"classes": list(one.own_classes)} if one.own_classes else None,
        )


def labelled_source(config: Mapping[str, Any]) -> LabelledSource:
    """The source of `configs/data/labelled.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is missing or out of its range, the folder is not there, or a line of its labels cannot be
        read.
      OSError: a file cannot be read.
    """
    root = checked_root(config, "labelled videos")
    labels = read_labels(root)
    sizes_bytes = tuple(one.path.stat().st_size if one.path.is_file() else None for one in labels)
    return LabelledSource(
        labels=labels,
        sizes_bytes=sizes_bytes,
        cameras=tuple(one.camera for one in labels),
        held_cameras=config["held_cameras"],
        lag_s=config["say"]["lag_s"],
        word_gap_s=config["say"]["word_gap_s"],
        language="en",
        settings=clip_settings_of(config),
        duplicates=_duplicates(root, labels, sizes_bytes) if config["duplicates"] == "hash" else None,
    )


def _duplicates(root: Path, labels: tuple[Labels, ...], sizes_bytes: tuple[int | None, ...]) -> dict[int, str]:
    """Of checked videos alone: a copy that nobody has checked stands for none."""
    listed = [
        Listed(one.name, size_bytes, is_video=isinstance(one, LabelledVideo))
        for one, size_bytes in zip(labels, sizes_bytes)
    ]
    return find_duplicates(root, listed)
