"""What is in a folder of videos: the videos, the transcript beside each, and transcripts without a video."""

import dataclasses
import hashlib
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from absl import logging

from data_pipelines import transcripts
from data_pipelines.sources.video_clips import file_sha256

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".ts", ".m2ts", ".mpg", ".mpeg", ".flv", ".wmv", ".ogv", ".3gp")
)
# These say by themselves that they belong to a video; JSON and text files lie in folders for many reasons.
_SUBTITLE_SUFFIXES = frozenset((".srt", ".vtt"))
_WITH_LANGUAGE = re.compile(r"(.+)\.([A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)")


@dataclasses.dataclass(frozen=True)
class Listed:
    """A video, or a transcript whose video is not there.

    Attributes:
      name: path below the root, with slashes.
      size_bytes: None for what is no file: a link that leads nowhere, a pipe.
      transcript: path of the transcript; "" if there is none.
      transcript_bytes: its size; 0 for what is no file.
      language: as the transcript's name has it ("name.en.vtt"), else "".
      is_video: the name is a video's.
    """

    name: str
    size_bytes: int | None
    transcript: str = ""
    transcript_bytes: int = 0
    language: str = ""
    is_video: bool = True


def list_videos(root: Path, languages: Collection[str] | None = None) -> tuple[Listed, ...]:
    """Everything below `root`, in the order of the names; names that begin with a dot are left out.

    Links are followed, but for those to a folder in which they are.

    Of several transcripts the one in a wanted language is taken, then the one that knows the times of words best
    (`transcripts.SUFFIXES`), then the one without a language in its name.

    Args:
      root: the folder.
      languages: that are wanted; None for any.

    Raises:
      OSError: a folder cannot be read.
    """
    found: list[Listed] = []
    for folder, names in _walk(root, ()):
        found += _listed(root, folder, names, languages)
    return tuple(sorted(found, key=lambda one: one.name))


def fingerprint(listed: Sequence[Listed]) -> str:
    """SHA-256 of names and sizes, transcripts included."""
    lines = (f"{one.name}\t{one.size_bytes}\t{one.transcript}\t{one.transcript_bytes}\n" for one in listed)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def find_duplicates(root: Path, listed: Sequence[Listed]) -> dict[int, str]:
    """Indices of videos with the same bytes as another one, and that one's name: the first with a transcript, else any.

    Reads only files of which another has the same size.
    """
    by_size: defaultdict[int, list[int]] = defaultdict(list)
    for index, one in enumerate(listed):
        if one.is_video and one.size_bytes is not None:
            by_size[one.size_bytes].append(index)
    same_size = [indices for indices in by_size.values() if len(indices) > 1]
    logging.info("%s: %d files are as long as another, their bytes are compared", root, sum(map(len, same_size)))
    duplicates: dict[int, str] = {}
    for indices in same_size:
        first: dict[str, int] = {}
        for index in sorted(indices, key=lambda index: (not listed[index].transcript, index)):
            kept = first.setdefault(file_sha256(root / listed[index].name), index)
            if kept != index:
                duplicates[index] = shown(listed[kept].name)
    return duplicates


def shown(name: str) -> str:
    """A file's name in characters: it may be in any encoding, and of what is no UTF-8 the bytes are spelled out."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _walk(folder: Path, above: tuple[str, ...]) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, each with the names in it that are no folders; `above` are the real paths."""
    real = os.path.realpath(folder)
    if real in above:
        return  # a link back up: all below it is listed already
    names: list[str] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith("."):
                (folders if os.path.isdir(entry.path) else names).append(entry.name)
    yield folder, names
    for name in folders:
        yield from _walk(folder / name, (*above, real))


def _size_bytes(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _listed(root: Path, folder: Path, names: Sequence[str], languages: Collection[str] | None) -> Iterator[Listed]:
    stems: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  # of each the transcripts, with their language
    for name in names:
        stem, suffix = os.path.splitext(name)
        if suffix.lower() in transcripts.SUFFIXES:
            stems[stem].append((name, ""))
            with_language = _WITH_LANGUAGE.fullmatch(stem)
            if with_language is not None:
                stems[with_language.group(1)].append((name, with_language.group(2)))

    def rank(choice: tuple[str, str]) -> tuple[int, int, str, str]:
        name, language = choice
        unwanted = 0 if languages is None or language in languages else 2 if language else 1
        return unwanted, transcripts.SUFFIXES.index(os.path.splitext(name)[1].lower()), language, name

    below = folder.relative_to(root)
    videos = [name for name in names if os.path.splitext(name)[1].lower() in VIDEO_SUFFIXES]
    for name in videos:
        path, choices = folder / name, stems[os.path.splitext(name)[0]]
        size_bytes = _size_bytes(path)
        if not choices:
            yield Listed((below / name).as_posix(), size_bytes)
            continue
        transcript, language = min(choices, key=rank)
        transcript_bytes = _size_bytes(folder / transcript) or 0
        yield Listed((below / name).as_posix(), size_bytes, (below / transcript).as_posix(), transcript_bytes, language)
    taken = {choice for name in videos for choice, _ in stems[os.path.splitext(name)[0]]}
    for name in names:
        if os.path.splitext(name)[1].lower() in _SUBTITLE_SUFFIXES and name not in taken:
            yield Listed((below / name).as_posix(), _size_bytes(folder / name), is_video=False)
