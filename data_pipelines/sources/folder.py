"""A folder of videos with transcripts or captions beside them, as a source: a unit is a video file."""

import dataclasses
import difflib
import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
from absl import logging

from data_pipelines import transcripts
from data_pipelines.clip_reader import probe
from data_pipelines.languages import asks_for, parse_language
from data_pipelines.schema import Record
from data_pipelines.sources import (
    Item,
    Noted,
    Rejected,
    Unit,
    causes,
    describe_files,
    facts_of,
    items_of_units,
)
from data_pipelines.sources.video_clips import (
    Annotation,
    Footage,
    clip_settings_of,
    clips_of,
    file_sha256,
)
from data_pipelines.transcripts import NoTranscriptError, Transcript, TranscriptError, read_transcript
from data_pipelines.video_source import VideoError
from data_pipelines.words import GIT_LFS_ADVICE, GIT_LFS_HEAD, split_words, spread

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp")
)
# These say by themselves that they belong to a video; JSON and text files lie in folders for many reasons.
_SUBTITLE_SUFFIXES = frozenset((".srt", ".vtt"))
_SUBTITLE_FOLDERS = frozenset(("subs", "sub", "subtitles", "captions", "transcripts"))
# What stands beside a language in names of subtitles, and how much it speaks against taking that file.
_KINDS = {"default": 0, "full": 0, "orig": 0, "auto": 1, "cc": 1, "sdh": 1, "hi": 1, "forced": 2, "foreign": 2}
_MOST_COMPARED = 100_000  # pairs of names; comparing more would take minutes, for a hint
_SEPARATORS = re.compile(r"[.\s_()\[\]]+")
_REGION = re.compile(r"(?<![A-Za-z])([A-Za-z]{2,3})_([A-Z]{2}|[A-Z][a-z]{3})(?![A-Za-z])")
_TRANSPORT_STREAMS = frozenset((".ts", ".m2ts"))
_MPEGTS_WRAPS_S = 2**33 / 90_000


@dataclasses.dataclass(frozen=True)
class Beside:
    """A transcript beside a video.

    Attributes:
      name: path below the root, with slashes.
      sha256: of its bytes; "" for what cannot be read.
      language: as its name has it ("name.en.vtt"), else "".
    """

    name: str
    sha256: str
    language: str = ""


@dataclasses.dataclass(frozen=True)
class Listed:
    """A video, or a transcript whose video is not there.

    Attributes:
      name: path below the root, with slashes.
      size_bytes: None for what is no file: a link that leads nowhere, a pipe.
      transcripts: beside it, the one to take first; a JSON file may turn out to be none.
      is_video: the name is a video's.
      perhaps: of a video without a transcript and of a transcript without a video, the name of the other that it may
        belong to; else "".
    """

    name: str
    size_bytes: int | None
    transcripts: tuple[Beside, ...] = ()
    is_video: bool = True
    perhaps: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderSource(Footage):
    """The videos below a folder.

    Attributes:
      root: the folder.
      files: the units.
      keep_without_words: whether videos without a transcript, and windows in which nothing is said, are kept.
      keep_marks: see `transcripts.read_transcript`.
      duplicates: units with the same bytes as another, with that one's name (`Footage` has the rest).
    """

    root: Path
    files: tuple[Listed, ...]
    keep_without_words: bool
    keep_marks: bool
    duplicates: Mapping[int, str] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": "folder",
            "files": describe_files(self.units()),
            "keep_without_words": self.keep_without_words,
            "keep_marks": self.keep_marks,
        } | self.describe_clips()

    def units(self) -> tuple[Unit, ...]:
        """The files; facts are a hash of name, size, content of the transcripts, and whose duplicate the file is."""
        duplicates = self.duplicates or {}
        return tuple(
            Unit(shown(file.name), facts_of(dataclasses.asdict(file), duplicates.get(number)))
            for number, file in enumerate(self.files)
        )

    def items(self, begin: int, end: int) -> Iterator[Item]:
        return items_of_units(begin, end, self._contents_of)

    def _contents_of(self, unit: int, notes: list[Noted]) -> Iterator[tuple[str, Record | Rejected]]:
        file = self.files[unit]
        name, path = shown(file.name), self.root / file.name
        key = f"folder/{name}"
        if not file.is_video:
            hint = _rename_hint(file.perhaps, "has no transcript", "that one's", file.perhaps, name)
            yield key, Rejected(causes.MISSING_VIDEO, f"{name}: no video of this name beside it{hint}")
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
            why = f"{name}: {GIT_LFS_ADVICE}" if _is_lfs_pointer(path) else str(error)
            yield key, Rejected(causes.CANNOT_DECODE, why)
            return
        try:
            taken, transcript = self._transcript_of(file)
        except TranscriptError as error:
            yield key, Rejected(causes.BROKEN_ANNOTATION, str(error))
            return
        if not transcript.words and not transcript.caption and not self.keep_without_words:
            hint = _rename_hint(file.perhaps, "has no video", "this one's", name, file.perhaps)
            why = f"{shown(taken.name)} is empty" if taken else f"no transcript or caption beside it{hint}"
            yield key, Rejected(causes.NO_WORDS, f"{name}: {why}")
            return
        transcript = _by_the_clock_of(path, name, transcript)
        provenance: dict[str, Any] = {"source": "folder", "file": name, "sha256": file_sha256(path)}
        if taken:
            provenance["transcript"] = shown(taken.name)
        if transcript.notes:
            notes += transcript.notes
            counts: defaultdict[str, int] = defaultdict(int)
            for note in transcript.notes:
                counts[note.cause] += note.count
            provenance["transcript_notes"] = dict(counts)
        annotation = Annotation(
            key=key,
            # A caption has no times: it is spread over the whole video, and each window has its part of it.
            words=transcript.words or tuple(spread(split_words(transcript.caption), length.begin_s, length.end_s)),
            timing=transcript.timing,
            caption=transcript.caption,
            language=(taken.language if taken else "") or transcript.language or self.language,
            provenance=provenance,
            silent=self.keep_without_words or bool(transcript.caption),
        )
        yield from clips_of(path, length, annotation, self.settings, name)

    def _transcript_of(self, file: Listed) -> tuple[Beside | None, Transcript]:
        """The first transcript beside a video that says something with times, else a caption, else an empty one.

        Raises:
          TranscriptError: the one to take is damaged, or there is only a JSON file that is none.
        """
        caption: tuple[Beside, Transcript] | None = None
        empty: tuple[Beside | None, Transcript] = (None, Transcript((), "word"))
        others: list[Noted] = []
        other: NoTranscriptError | None = None
        for beside in file.transcripts:
            name = shown(beside.name)
            try:
                transcript = read_transcript(self.root / beside.name, name, self.keep_marks)
            except NoTranscriptError as error:
                other = other or error
                others.append(Noted(causes.NO_TRANSCRIPT, str(error)))
                continue
            except OSError as error:  # a link that leads nowhere, say
                raise TranscriptError(f"{name}: cannot be read: {error.strerror}") from error
            if transcript.words:
                return beside, dataclasses.replace(transcript, notes=(*others, *transcript.notes))
            if transcript.caption:
                caption = caption or (beside, dataclasses.replace(transcript, notes=(*others, *transcript.notes)))
            elif empty[0] is None:
                empty = (beside, transcript)
        if caption is None and empty[0] is None and other is not None and not self.keep_without_words:
            raise other
        return caption or empty


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
        keep_marks=config["keep_marks"],
        language=config["language"],
        settings=settings,
        duplicates=find_duplicates(root, files) if config["duplicates"] == "hash" else None,
    )


def list_videos(root: Path, languages: Collection[str] | None = None) -> tuple[Listed, ...]:
    """Everything below `root`, in the order of the names; names that begin with a dot are left out.

    Links are followed, but for those to a folder in which they are. Transcripts lie beside a video `name.mp4`, or in a
    folder `Subs` there, as `name.srt`, with a language and what else is usual (`name.en.forced.srt`, `name_en.srt`,
    `name.English.srt`), or in `Subs/name/`. Of several the first is one in a wanted language, then the one that knows
    the times of words best (`transcripts.SUFFIXES`), then the one without a language in its name.

    Args:
      root: the folder.
      languages: that are wanted; None for any.

    Raises:
      OSError: a folder cannot be read.
    """
    listed: list[Listed] = []
    orphans: dict[str, str] = {}
    taken: set[str] = set()
    for folder, names, folders in _walk(root, ()):
        below = folder.relative_to(root)
        videos = [name for name in names if _suffix(name) in VIDEO_SUFFIXES]
        beside = [(name, _stem(name)) for name in names if _suffix(name) in transcripts.SUFFIXES]
        for subtitles in (name for name in folders if videos and name.lower() in _SUBTITLE_FOLDERS):
            beside += _in_subtitle_folder(folder / subtitles, subtitles)
        choices = _choices([_stem(name) for name in videos], beside)
        found = {(below / choice.name).as_posix() for some in choices.values() for choice in some}
        taken |= found
        free = [name for name, _ in beside if (below / name).as_posix() not in found]
        silent = [name for name in videos if not choices.get(_stem(name))]
        pairs = _perhaps(silent, free)
        for name in videos:
            ranked = sorted(choices.get(_stem(name), ()), key=lambda choice: choice.rank(languages))
            texts = tuple(
                Beside((below / one.name).as_posix(), _content_sha256(folder / one.name), one.language)
                for one in ranked
            )
            perhaps = (below / pairs[name]).as_posix() if name in pairs else ""
            listed.append(Listed((below / name).as_posix(), _size_bytes(folder / name), texts, perhaps=perhaps))
        of = {other: name for name, other in pairs.items()}
        for name in free:
            if _suffix(name) in _SUBTITLE_SUFFIXES:
                orphans.setdefault((below / name).as_posix(), (below / of[name]).as_posix() if name in of else "")
    listed += [
        Listed(name, _size_bytes(root / name), is_video=False, perhaps=perhaps)
        for name, perhaps in orphans.items()
        if name not in taken
    ]
    return tuple(sorted(listed, key=lambda one: one.name))


def find_duplicates(root: Path, listed: Sequence[Listed]) -> dict[int, str]:
    """Indices of videos with the same bytes as another one, and that one's name: the first with a transcript, else any.

    Reads only files of which another has the same size.
    """
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for index, one in enumerate(listed):
        if one.is_video and one.size_bytes is not None:
            by_size[one.size_bytes].append(index)
    same_size = [indices for indices in by_size.values() if len(indices) > 1]
    if same_size:
        logging.info("%s: %d files are as long as another, their bytes are compared", root, sum(map(len, same_size)))
    duplicates: dict[int, str] = {}
    for indices in same_size:
        first: dict[str, int] = {}
        for index in sorted(indices, key=lambda index: (not listed[index].transcripts, index)):
            kept = first.setdefault(file_sha256(root / listed[index].name), index)
            if kept != index:
                duplicates[index] = shown(listed[kept].name)
    return duplicates


def shown(name: str) -> str:
    """A file's name in characters: it may be in any encoding, and of what is no UTF-8 the bytes are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


@dataclasses.dataclass(frozen=True)
class _Choice:
    name: str
    language: str
    kind: int  # of `_KINDS`

    def rank(self, languages: Collection[str] | None) -> tuple[int, int, int, str, str]:
        wanted = languages is None or any(asks_for(one, self.language) for one in languages)
        unwanted = 0 if wanted else 2 if self.language else 1
        timed = transcripts.SUFFIXES.index(_suffix(self.name))
        return unwanted, int(self.kind == 2), timed, self.language, f"{self.kind} {self.name}"


def _choices(stems: Sequence[str], beside: Sequence[tuple[str, str]]) -> dict[str, list[_Choice]]:
    """Of each stem the transcripts that are named after it; `beside` has names and what is to be compared of them."""
    exact = {unicodedata.normalize("NFC", stem): stem for stem in stems}
    choices: defaultdict[str, list[_Choice]] = defaultdict(list)
    for name, compared in beside:
        compared = unicodedata.normalize("NFC", compared)
        for cut in range(len(compared), 0, -1):  # the longest name that fits is the video's
            stem = exact.get(compared[:cut])
            about = None if stem is None else _about(compared[cut:])
            if stem is not None and about is not None:
                choices[stem].append(_Choice(name, *about))
                break
    return choices


def _about(rest: str) -> tuple[str, int] | None:
    """Language and kind in what a transcript's name has behind the video's; None where it is another name."""
    if not rest:
        return "", 0
    if rest[0] not in ".-_ [(":
        return None
    language, kind, known = "", 0, False
    for part in _SEPARATORS.split(_REGION.sub(r"\1-\2", rest)):
        word = part.strip("-")
        if not word or word.isdecimal():
            continue
        if not language and parse_language(word):
            language = parse_language(word)
        elif word.lower() in _KINDS:
            kind = max(kind, _KINDS[word.lower()])
        elif f".{word.lower()}" not in VIDEO_SUFFIXES:
            return None
        known = True
    return (language, kind) if known else None


def _in_subtitle_folder(folder: Path, below: str) -> Iterator[tuple[str, str]]:
    """Names of transcripts in a folder for them, and in folders of videos' names in it ("Subs/name/2_English.srt")."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            for name in sorted(os.listdir(entry.path)):
                if _suffix(name) in transcripts.SUFFIXES and not name.startswith("."):
                    yield f"{below}/{entry.name}/{name}", f"{entry.name}.{_stem(name)}"
        elif _suffix(entry.name) in transcripts.SUFFIXES:
            yield f"{below}/{entry.name}", _stem(entry.name)


def _perhaps(videos: Sequence[str], free: Sequence[str]) -> dict[str, str]:
    """Videos without a transcript, each with the transcript without a video whose name is most like its own."""
    pairs: dict[str, str] = {}
    if len(videos) * len(free) > _MOST_COMPARED:
        return pairs
    left = {_plain(os.path.basename(_stem(name))): name for name in free}
    for video in videos:
        for match in difflib.get_close_matches(_plain(_stem(video)), list(left), n=1, cutoff=0.7):
            pairs[video] = left.pop(match)
    subtitles = [name for name in left.values() if _suffix(name) in _SUBTITLE_SUFFIXES]
    lonely = [video for video in videos if video not in pairs]
    if len(lonely) == len(subtitles) == 1:
        pairs[lonely[0]] = subtitles[0]
    return pairs


def _rename_hint(other: str, lacks: str, whose: str, video: str, transcript: str) -> str:
    if not other:
        return ""
    wanted = _stem(os.path.basename(shown(video))) + _suffix(transcript)
    return f"; {shown(other)} {lacks}: if it is {whose}, name the transcript {wanted}"


def _plain(stem: str) -> str:
    return re.sub(r"[\W_]+", " ", stem.lower()).strip()


def _by_the_clock_of(path: Path, name: str, transcript: Transcript) -> Transcript:
    """The transcript with times of the video where it has those of a transport stream."""
    if transcript.mpegts_s is None:
        return transcript
    if path.suffix.lower() not in _TRANSPORT_STREAMS:
        if not transcript.mpegts_s:
            return transcript
        detail = (
            f"{name}: a time 0 of {transcript.mpegts_s:g} s by the clock of a transport stream; taken for its begin"
        )
        return dataclasses.replace(transcript, notes=(*transcript.notes, Noted(causes.TIME_MAP, detail)))
    with av.open(str(path)) as container:
        start_s = (container.start_time or 0) / av.time_base
    later_s = (transcript.mpegts_s - start_s + _MPEGTS_WRAPS_S / 2) % _MPEGTS_WRAPS_S - _MPEGTS_WRAPS_S / 2
    words = tuple(
        dataclasses.replace(
            word, start_s=word.start_s + later_s, end_s=None if word.end_s is None else word.end_s + later_s
        )
        for word in transcript.words
    )
    return dataclasses.replace(transcript, words=words)


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """A folder and those below it, each with the names in it that are no folders and those that are.

    `above` are the real paths of the folders it is in.
    """
    real = os.path.realpath(folder)
    if real in above:
        return  # a link back up: all below it is listed already
    names: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if os.path.isdir(entry.path) else names).append(entry.name)
    yield folder, sorted(names), sorted(folders)
    for name in sorted(folders):
        yield from _walk(folder / name, (*above, real))


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _size_bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _content_sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    except OSError:
        return ""  # it is rejected with the cause when its turn comes


def _is_lfs_pointer(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(len(GIT_LFS_HEAD)) == GIT_LFS_HEAD
