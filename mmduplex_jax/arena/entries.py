"""What an arena shows: videos, and what each contestant said about them, from a folder.

    DIR/videos/STEM.mp4                     any file that browsers play (.mp4, .webm, .m4v, .mov, .ogv)
    DIR/contestants/NAME/STEM.vtt           what NAME said about it; .srt or .json do too
    DIR/live/NAME/STEM.json                 recorded from a server (recordings.py)
    DIR/categories.json                     optional: {"STEM": "football", ...}

A `.json` is what `launch.commentate --json` or the page of `launch.serve` writes, a recogniser's segments, or a list of
utterances (`evals/timing/files.py`). A word is shown when it was said, never earlier: at its own time where the file
has one; where it has only a line's, a line's words are spread over the line.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from data_pipelines.video_source import VideoError, open_container
from data_pipelines.words import parse_json
from mmduplex_jax.evals.timing.files import SUFFIXES, CommentaryError, read_words

VIDEO_SUFFIXES = (".mp4", ".webm", ".m4v", ".mov", ".ogv")
UNSORTED = "all"
# Of an arena's folder, where recordings of servers lie.
RECORDED = "live"
# Words said after the video's end are waited for so long: the words of a live commentator run behind the picture.
TAIL_S = 5.0
# Names become texts of a page and of a database: no control characters, and short enough for a table.
PRINTABLE_NAME = re.compile(r"[^\x00-\x1f\x7f/\\]{1,64}")


class EntriesError(ValueError):
    """The folder is no arena, or a file of it cannot be read; says which, what is wrong, and what to do."""


@dataclasses.dataclass(frozen=True)
class Commentary:
    """What a contestant said about a video.

    Attributes:
      contestant: its folder's name.
      words: `(time in seconds of the video, text)` in the order of time.
      sha256: of the words, so that votes say what they were about.
    """

    contestant: str
    words: tuple[tuple[float, str], ...]
    sha256: str


@dataclasses.dataclass(frozen=True)
class Video:
    """A video, with every commentary on it that may be shown, by contestant."""

    stem: str
    path: Path
    duration_s: float
    category: str
    commentaries: Mapping[str, Commentary]

    def shown_s(self, left: str, right: str) -> float:
        """How long two commentaries take to be seen: to the video's end, and for last words up to `TAIL_S` more."""
        last_s = max((words[-1][0] for name in (left, right) if (words := self.commentaries[name].words)), default=0.0)
        return max(self.duration_s, min(last_s, self.duration_s + TAIL_S))


@dataclasses.dataclass(frozen=True)
class Entries:
    """All that an arena shows.

    Attributes:
      videos: by stem; each with at least two commentaries.
      contestants: all that have a folder, by name.
      notes: what was left out and why, for whoever runs it.
    """

    videos: Mapping[str, Video]
    contestants: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_entries(root: Path, identity_words: Sequence[str] | None = None, *, live: Sequence[str] = ()) -> Entries:
    """Reads the folder of an arena.

    Args:
      root: the folder.
      identity_words: a commentary that says one of them would tell whose it is, and is left out; by default the
        contestants' names.
      live: contestants that are being recorded: there may be nothing of theirs yet, and nothing to compare.

    Raises:
      EntriesError: there is nothing to compare, or a file is damaged.
      OSError: a file cannot be read.
    """
    paths = video_files(root)
    folders = _contestant_folders(root)
    contestants = tuple(sorted({*folders, *live}))
    for name in contestants:
        if not PRINTABLE_NAME.fullmatch(name):
            raise EntriesError(f"{root}: {name!r} is no contestant's name: 1 to 64 printable characters are")
    if len(contestants) < 2:
        where = " (and --live)" if live else ""
        raise EntriesError(f"{root / 'contestants'}{where} has {len(contestants)}: an arena needs two contestants")
    leak = _leak_pattern(contestants if identity_words is None else identity_words)
    categories = _categories(root / "categories.json")
    unknown = categories.keys() - paths.keys()
    if unknown:
        raise EntriesError(f"{root / 'categories.json'}: there is no video {min(unknown)!r} in {root / 'videos'}")
    videos: dict[str, Video] = {}
    notes: list[str] = []
    for stem, path in paths.items():
        said = {}
        for name in contestants:
            if name not in folders:
                continue
            commentary = _commentary(folders[name], stem, leak, notes)
            if commentary is not None:
                said[name] = commentary
        if len(said) < 2:
            notes.append(f"{path.name}: {len(said)} commentaries that can be shown, two are needed; it is left out")
            continue
        category = categories.get(stem, UNSORTED)
        videos[stem] = Video(stem, path, _duration_s(path), category, said)
    if not videos and not live:
        why = "; ".join(notes[:3]) or f"no file ends in one of {VIDEO_SUFFIXES}"
        raise EntriesError(f"{root / 'videos'}: no video has two commentaries ({why})")
    return Entries(videos, contestants, tuple(notes))


def video_files(root: Path) -> dict[str, Path]:
    """The videos of an arena by stem; EntriesError where there is no folder of them, or two are called the same."""
    folder = root / "videos"
    if not folder.is_dir():
        raise EntriesError(f"{folder} is no folder: an arena has DIR/videos/* and DIR/contestants/NAME/*.vtt")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in VIDEO_SUFFIXES:
            continue
        if path.stem in found:
            raise EntriesError(f"{folder}: {path.stem} is there twice; captions are found by the name alone")
        found[path.stem] = path
    return found


def _contestant_folders(root: Path) -> dict[str, Path]:
    """Where each contestant's commentaries lie, by name: as files, or recorded from its server."""
    found: dict[str, Path] = {}
    for folder in (root / "contestants", root / RECORDED):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.is_dir() and path.name in found:
                raise EntriesError(f"{path}: {path.name} is in {found[path.name].parent}, too; each needs its own name")
            if path.is_dir():
                found[path.name] = path
    return found


def _commentary(folder: Path, stem: str, leak: re.Pattern[str] | None, notes: list[str]) -> Commentary | None:
    """A contestant's words on a video; None, with a note, where there are none that can be shown."""
    # Of several files the first, by how well they know the times of words.
    path = next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)
    if path is None:
        notes.append(f"{folder.name} has no commentary on {stem}")
        return None
    words = _read_words(path, notes)
    found = leak.search(" ".join(text for _, text in words)) if leak else None
    if found is not None:
        notes.append(f"{folder.name}/{path.name} says {found.group()!r}, which tells whose it is; it is left out")
        return None
    written = json.dumps(words, ensure_ascii=True, separators=(",", ":"))
    return Commentary(folder.name, words, hashlib.sha256(written.encode()).hexdigest())


def _read_words(path: Path, notes: list[str]) -> tuple[tuple[float, str], ...]:
    try:
        words, noted = read_words(path, keep_marks=True)
    except CommentaryError as error:
        raise EntriesError(str(error)) from error
    notes += [note.detail for note in noted]
    return tuple((round(word.start_s, 3), word.text) for word in words)


def _leak_pattern(names: Iterable[str]) -> re.Pattern[str] | None:
    """Finds any of some names as whole words; "_", "-" and spaces are the same."""
    parts = [r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", name))) for name in names if name.strip()]
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", re.IGNORECASE) if parts else None


def _categories(path: Path) -> dict[str, str]:
    if not path.exists():
        return {}
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise EntriesError(f"{path}: is no JSON in UTF-8: {error}") from error
    right = isinstance(content, dict) and all(
        isinstance(one, str) and PRINTABLE_NAME.fullmatch(one) for one in content.values()
    )
    if not right:
        raise EntriesError(f'{path}: an object is expected, a category for each video: {{"STEM": "football"}}')
    return content


def _duration_s(path: Path) -> float:
    """How long browsers play a video, as its container says."""
    try:
        with open_container(str(path), path.name) as container:
            length_us = container.duration
    except VideoError as error:
        raise EntriesError(f"{path}: {error}") from error
    if not length_us or length_us <= 0:
        raise EntriesError(f"{path}: does not say how long it is; write it anew (ffmpeg -i FILE -c copy NEW)")
    return length_us / 1_000_000
