"""A folder of videos with transcripts or captions beside them, as a source: a unit is a video file."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_pipelines.clip_reader import probe
from data_pipelines.schema import Record
from data_pipelines.sources import Item, Rejected, causes
from data_pipelines.sources.folder_listing import (
    VIDEO_SUFFIXES,
    Listed,
    find_duplicates,
    fingerprint,
    list_videos,
    shown,
)
from data_pipelines.sources.video_clips import (
    Annotation,
    Footage,
    clip_settings_of,
    clips_of,
    file_sha256,
)
from data_pipelines.transcripts import Transcript, TranscriptError, read_transcript
from data_pipelines.video_source import VideoError
from data_pipelines.word_times import spread


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSource(Footage):
    """The videos below a folder.

    Attributes:
      root: the folder.
      files: the units.
      keep_without_words: whether videos without a transcript, and windows in which nothing is said, are kept.
      duplicates: units with the same bytes as another, with that one's name (`Footage` has the rest).
    """

    root: Path
    files: tuple[Listed, ...]
    keep_without_words: bool
    duplicates: Mapping[int, str] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "folder",
            "files": {"count": len(self.files), "names_and_sizes_sha256": fingerprint(self.files)},
            "keep_without_words": self.keep_without_words,
        } | self.describe_clips()

    def items(self, begin: int, end: int) -> Iterator[Item]:
        for unit in range(begin, end):
            for key, content in self._items_of(unit, self.files[unit]):
                yield Item(unit, key, content)

    def _items_of(self, unit: int, file: Listed) -> Iterator[tuple[str, Record | Rejected]]:
        name, transcript_name, path = shown(file.name), shown(file.transcript), self.root / file.name
        key = f"folder/{name}"
        if not file.is_video:
            yield key, Rejected(causes.MISSING_VIDEO, f"{name}: no video of this name beside it")
            return
        if file.size_bytes is None:
            yield key, Rejected(causes.MISSING_VIDEO, f"{name}: is no file, or a link that leads nowhere")
            return
        if self.duplicates is not None and unit in self.duplicates:
            yield key, Rejected(causes.DUPLICATE, f"{name}: the same bytes as {self.duplicates[unit]}")
            return
        try:
            length = probe(path, name=name)
        except VideoError as error:
            yield key, Rejected(causes.CANNOT_DECODE, str(error))
            return
        transcript = Transcript((), "word")
        if file.transcript:
            try:
                transcript = read_transcript(self.root / file.transcript, name=transcript_name)
            except TranscriptError as error:
                yield key, Rejected(causes.BROKEN_ANNOTATION, str(error))
                return
            except OSError as error:  # a link that leads nowhere, say
                detail = f"{transcript_name}: cannot be read: {error.strerror}"
                yield key, Rejected(causes.BROKEN_ANNOTATION, detail)
                return
        if not transcript.words and not transcript.caption and not self.keep_without_words:
            why = f"{transcript_name} is empty" if file.transcript else "no transcript or caption beside it"
            yield key, Rejected(causes.NO_WORDS, f"{name}: {why}")
            return
        provenance: dict[str, Any] = {"source": "folder", "file": name, "sha256": file_sha256(path)}
        if file.transcript:
            provenance["transcript"] = transcript_name
        annotation = Annotation(
            key=key,
            # A caption has no times: it is spread over the whole video, and each window has its part of it.
            words=transcript.words or tuple(spread(transcript.caption.split(), length.begin_s, length.end_s)),
            timing=transcript.timing,
            caption=transcript.caption,
            language=file.language or transcript.language or self.language,
            provenance=provenance,
            silent=self.keep_without_words or bool(transcript.caption),
        )
        yield from clips_of(path, length, annotation, self.settings, name)


def folder_source(config: Mapping[str, Any]) -> FolderSource:
    """The source of `configs/data/folder.py`.

    Args:
      config: the configuration as plain values.

    Raises:
      ValueError: a value is missing or out of its range, or the folder is not there or holds no videos.
      OSError: a folder in it cannot be read.
    """
    if not config["root"]:
        raise ValueError("give the folder of videos as --config.root=DIR")
    root = Path(config["root"])
    if not root.is_dir():
        raise ValueError(f"config.root is {str(root)!r}, and there is no such folder")
    settings = clip_settings_of(config)
    files = list_videos(root, settings.filters.languages)
    if not files:
        raise ValueError(f"config.root, {str(root)!r}, holds no videos ({', '.join(sorted(VIDEO_SUFFIXES))})")
    return FolderSource(
        root=root,
        files=files,
        keep_without_words=config["keep_without_words"],
        language=config["language"],
        settings=settings,
        duplicates=find_duplicates(root, files) if config["duplicates"] == "hash" else None,
    )
