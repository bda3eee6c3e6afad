"""What servers said about the videos of an arena, kept on the disk, and how often they failed.

    DIR/live/NAME/STEM.json          what NAME said: `words` as of any contestant, `model` and `video_sha256` besides
    DIR/live/NAME/failures.jsonl     every recording that failed, a line each
    DIR/former/NAME-N/STEM.json      recordings of a model or of a video that has changed since; never shown

A recording is of a model, as the server described it, and of a video's content. Where either is another now, it is set
aside.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.words import parse_json
from mmduplex_jax.arena.entries import RECORDED

_FORMER = "former"
_FAILURES = "failures.jsonl"
# Of what a server says of itself, what does not make it another commentator.
_NOT_THE_MODEL = ("version", "webrtc")


@dataclasses.dataclass(frozen=True)
class Recording:
    """What a server said about a video, as it came.

    Attributes:
      words: text, the time of the picture that it is about, and when it was said or came, whichever was later; in
        seconds of the video.
      pictures: that it was shown.
      left_out: of them those that the connection or the server had no time for.
    """

    words: tuple[tuple[str, float, float], ...]
    pictures: int
    left_out: int


@dataclasses.dataclass(frozen=True)
class Failure:
    """A recording that failed: of which video ("" of none), why in a word, and in a sentence."""

    stem: str
    code: str
    message: str


@dataclasses.dataclass(frozen=True)
class LiveReport:
    """How far a contestant is recorded.

    Attributes:
      name: the contestant.
      recorded: videos.
      waiting: videos that are not, by stem.
      failures: how often a recording failed, by stem ("" where the server could not be asked at all) and code.
    """

    name: str
    recorded: int
    waiting: tuple[str, ...]
    failures: Mapping[str, Mapping[str, int]]


def model_id(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a server's model this one: all that `/v1/info` says of it, its fingerprint among that."""
    return {name: value for name, value in facts.items() if name not in _NOT_THE_MODEL}


@functools.lru_cache(maxsize=100_000)
def _sha256(path: Path, size_bytes: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def video_sha256(path: Path) -> str:
    """Of a video's content; a file that has not been written since is read once."""
    facts = path.stat()
    return _sha256(path, facts.st_size, facts.st_mtime_ns)


class Recordings:
    """The folder of one contestant that is a server."""

    def __init__(self, root: Path, name: str, *, now: Callable[[], float] = time.time):
        self._root, self.name, self._now = root, name, now
        self._folder = root / RECORDED / name

    def has(self, stem: str) -> bool:
        """Whether there is a recording of a video."""
        return (self._folder / f"{stem}.json").is_file()

    def number(self) -> int:
        """How many there are."""
        return sum(1 for _ in self._folder.glob("*.json"))

    def keep(self, stem: str, recording: Recording, model: Mapping[str, Any], sha256: str) -> None:
        """Writes a recording down; the file appears when it is whole."""
        words = [{"text": text, "t_video_s": t_s, "t_emit_s": emit_s} for text, t_s, emit_s in recording.words]
        content = {
            "model": dict(model), "video_sha256": sha256, "recorded_s": round(self._now()),
            "pictures": recording.pictures, "left_out": recording.left_out, "words": words,
        }  # fmt: skip
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f"{stem}.part"
        part.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
        part.replace(self._folder / f"{stem}.json")

    def failed(self, failure: Failure) -> None:
        """Writes a failure down."""
        self._folder.mkdir(parents=True, exist_ok=True)
        line = {"at_s": round(self._now()), **dataclasses.asdict(failure)}
        with (self._folder / _FAILURES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def set_aside(self, model: Mapping[str, Any], videos: Mapping[str, Path]) -> list[str]:
        """Takes away what was recorded of another model, or of a video that has changed or is gone.

        Args:
          model: that the server has now (`model_id`).
          videos: by stem.

        Returns:
          The stems of what was taken away.

        Raises:
          ValueError: a file there is no recording.
        """
        stale = []
        for path in sorted(self._folder.glob("*.json")):
            content = _content(path)
            video = videos.get(path.stem)
            if video is None or content["model"] != model or content["video_sha256"] != video_sha256(video):
                stale.append(path)
        if stale:
            number = 1
            while (former := self._root / _FORMER / f"{self.name}-{number}").exists():
                number += 1
            former.mkdir(parents=True)
            for path in stale:
                path.replace(former / path.name)
        return [path.stem for path in stale]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON in UTF-8: {error}; remove it, and it is recorded anew") from error
    if not isinstance(content, dict) or not {"model", "video_sha256", "words"} <= content.keys():
        raise ValueError(f"{path}: is no recording of a server; remove it, and it is recorded anew")
    return content


def live_reports(root: Path, videos: Sequence[str]) -> list[LiveReport]:
    """How far the servers of an arena are recorded, by name.

    Args:
      root: the arena's folder.
      videos: stems of all its videos.

    Raises:
      ValueError: a list of failures is damaged.
    """
    reports = []
    for folder in sorted(path for path in (root / RECORDED).glob("*") if path.is_dir()):
        recorded = [stem for stem in videos if (folder / f"{stem}.json").is_file()]
        waiting = tuple(stem for stem in videos if stem not in set(recorded))
        counts: dict[str, Counter[str]] = {}
        for stem, code in _failures(folder / _FAILURES):
            counts.setdefault(stem, Counter())[code] += 1
        failures = {stem: dict(sorted(counts[stem].items())) for stem in sorted(counts)}
        reports.append(LiveReport(folder.name, len(recorded), waiting, failures))
    return reports


def _failures(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            fields = json.loads(line)
            found.append((str(fields["stem"]), str(fields["code"])))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}:{number}: is no failure of a recording ({error!r}); remove the line") from error
    return found
