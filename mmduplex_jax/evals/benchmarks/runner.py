"""Asks a model every question of a benchmark, keeps each answer as it comes, and makes a report of the scores.

Answers are lines of a JSONL file: who was killed goes on where it stopped. What was answered about a video that has
been exchanged since, or that could not be read, is asked again. A run may be divided among processes; each answers its
slice into a file of its own, and whoever finds all slices answered makes the report.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from mmduplex_jax.evals.benchmarks.protocol import (
    UNANSWERABLE,
    UNREADABLE_VIDEO,
    WORDS_LEFT_OUT,
    Answerer,
    Benchmark,
    BenchmarkError,
    Item,
    ItemScore,
    Prediction,
    TimedText,
    UnanswerableError,
    UnreadableVideoError,
    interval,
)
from mmduplex_jax.typing import PyTree

_EXAMPLES, _MISSING_SHOWN = 3, 10
# What is read of a video to tell it from others: so many bytes at so many places, from its begin to its end.
_READ_BYTES, _READ_PLACES = 1 << 13, 16


@dataclasses.dataclass(frozen=True)
class AnswersFile:
    """The answers of one run: of a slice of the items where several processes share them.

    The first line says whose answers they are; each further one is an answer, and says which video it is about
    (`video_fingerprint`). Of several answers to one question the last counts.

    Attributes:
      output: the file of the run's result, beside which the answers are kept.
      made_by: what decides the answers (benchmark, checkpoint, flags), as JSON values.
      process, processes: which slice, and of how many.
    """

    output: Path
    made_by: Mapping[str, Any]
    process: int = 0
    processes: int = 1

    def __post_init__(self):
        if not 0 <= self.process < self.processes:
            raise ValueError(f"process {self.process} of {self.processes}: they are numbered from 0 on")

    @classmethod
    def beside(
        cls,
        outputs: Sequence[str | None],
        made_by: Mapping[str, Any],
        *,
        process: int | None = None,
        processes: int | None = None,
    ) -> "AnswersFile | None":
        """The file beside the first output that is one; None where none is.

        Args:
          outputs: files; "-", "" and None are none.
          made_by: what decides the answers.
          process, processes: as JAX is set up where they are not given.

        Raises:
          ValueError: several processes have no file to meet at.
        """
        process = jax.process_index() if process is None else process
        processes = jax.process_count() if processes is None else processes
        files = [Path(name) for name in outputs if name and name != "-"]
        if processes > 1 and not files:
            raise ValueError("several processes meet in files: name an output, --json=FILE")
        return cls(files[0], made_by, process, processes) if files else None

    @property
    def path(self) -> Path:
        return self.path_of(self.process)

    def path_of(self, process: int) -> Path:
        """Where the answers of a process are."""
        part = f".{process:05d}-of-{self.processes:05d}" if self.processes > 1 else ""
        return self.output.with_name(f"{self.output.name}.answers{part}.jsonl")

    def slice_of(self, items: Sequence[Item]) -> Sequence[Item]:
        """The items that this process answers: neighbours, which are often about one video."""
        return items[len(items) * self.process // self.processes : len(items) * (self.process + 1) // self.processes]

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the file of this process; the system lets go when the process ends, however it ends.

        Raises:
          BenchmarkError: another process holds it.
        """
        with self.path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BenchmarkError(
                    f"{self.path}: another process writes its answers there: wait for it or end it, name another "
                    "output, or give each process that shares the work its own --process_index"
                ) from error
            yield

    def begin(self, videos: Mapping[str, str]) -> dict[str, Prediction]:
        """What was answered before and still holds, in a file that is ready to be added to.

        Args:
          videos: of each item's key, the fingerprint of its video as it is now.

        Raises:
          BenchmarkError: it holds the answers of another run, or is damaged.
        """
        if not self.path.is_file() or not (kept := _whole_lines(self.path)):
            self.path.write_text(_line(self.made_by), encoding="utf-8")
            return {}
        answers = self._read(self.path, kept)
        # A line that a killed process left half written is cut off and asked again. (The others are not written anew:
        # who is killed meanwhile would lose them.)
        with self.path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
        still = {key: one for key, (one, video) in answers.items() if video == videos.get(key)}
        readable = {key: one for key, one in still.items() if UNREADABLE_VIDEO not in one.facts}
        for number, why in (
            (len(answers) - len(still), "whose videos were exchanged since"),
            (len(still) - len(readable), "whose videos could not be read"),
        ):
            if number:
                print(f"{self.path}: {number} questions are asked again {why}", file=sys.stderr)
        return readable

    def add(self, key: str, prediction: Prediction, video: str | None) -> None:
        """Appends an answer, with the fingerprint of the video that it is about."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"key": key, "video": video, **_as_json(prediction)}))

    def all_answers(self, videos: Mapping[str, str]) -> dict[str, Prediction]:
        """What all processes have answered so far about the videos as they are now (see `begin`)."""
        found: dict[str, Prediction] = {}
        for process in range(self.processes):
            path = self.path_of(process)
            if path.is_file() and (kept := _whole_lines(path)):
                answers = self._read(path, kept)
                found |= {key: one for key, (one, video) in answers.items() if video == videos.get(key)}
        return found

    def _read(self, path: Path, lines: Sequence[str]) -> dict[str, tuple[Prediction, str | None]]:
        """Answers, each with the fingerprint of its video."""
        head = _parsed(path, 1, lines[0])
        now = json.loads(_line(self.made_by))
        if head != now:
            before = {**head} if isinstance(head, dict) else {}
            name = next((name for name in [*now, *before] if before.get(name) != now.get(name)), "")
            raise BenchmarkError(
                f"{path}: holds answers of {name}={before.get(name)!r}, and this run has {name}={now.get(name)!r}: "
                "name another output, or remove that file"
            )
        answers: dict[str, tuple[Prediction, str | None]] = {}
        for number, line in enumerate(lines[1:], start=2):
            fields = _parsed(path, number, line)
            try:
                answers[fields["key"]] = _from_json(fields), fields["video"]
            except (KeyError, TypeError, ValueError) as error:
                raise BenchmarkError(f"{path}:{number}: is no answer ({error}): remove the line") from error
        return answers


def load_items(benchmark: Benchmark, root: Path) -> Sequence[Item]:
    """The questions in a benchmark's folder; BenchmarkError where it holds none, or what cannot be read."""
    items = benchmark.load_items(root)
    if not items:
        raise BenchmarkError(f"{root}: there is no question in it")
    return items


def answer_items(
    items: Sequence[Item], answerer: Answerer, kept: AnswersFile | None = None
) -> dict[str, Prediction] | None:
    """Answers to all items, with progress on stderr.

    Args:
      items: of all processes.
      answerer: a model.
      kept: where answers are kept; None: nowhere.

    Returns:
      The answers; None where other processes have not answered all of theirs yet.

    Raises:
      BenchmarkError: `kept` holds the answers of another run, or an item has no video.
    """
    if kept is None:
        answers: dict[str, Prediction] = {}
        _answer(items, answerer, answers, lambda item: None)
    else:
        videos = _video_fingerprints(items)
        with kept.held():
            answers, mine = kept.begin(videos), kept.slice_of(items)
            _answer(mine, answerer, answers, lambda item: kept.add(item.key, answers[item.key], videos.get(item.key)))
        answers = kept.all_answers(videos)
    return answers if all(item.key in answers for item in items) else None


def _answer(
    items: Sequence[Item], answerer: Answerer, answers: dict[str, Prediction], keep: Callable[[Item], None]
) -> None:
    """Adds the answers to those items that have none yet, and keeps each at once."""
    left = [item for item in items if item.key not in answers]
    done = len(items) - len(left)
    with tqdm(
        total=len(items), initial=done, unit="question", desc="answer", disable=None, file=sys.stderr
    ) as progress:
        for item in left:
            try:
                answers[item.key] = answerer.answer(item)
            except UnanswerableError as error:
                again = {UNREADABLE_VIDEO: True} if isinstance(error, UnreadableVideoError) else {}
                answers[item.key] = Prediction(facts={UNANSWERABLE: str(error), **again})
            keep(item)
            progress.update()


def check_videos(items: Sequence[Item]) -> None:
    """Raises BenchmarkError where items have no video, and lists them: a model cannot watch them."""
    missing = [item for item in items if item.video is None]
    if not missing:
        return
    path_of = lambda item: f" ({path})" if (path := item.facts.get("video_path")) else ""
    listed = ", ".join(f"{item.key}{path_of(item)}" for item in missing[:_MISSING_SHOWN])
    more = f" and {len(missing) - _MISSING_SHOWN} more" if len(missing) > _MISSING_SHOWN else ""
    raise BenchmarkError(
        f"{len(missing)} of {len(items)} questions have no video: {listed}{more}. Download them (docs/benchmarks.md), "
        "or ask only the first N questions with --limit=N"
    )


def video_fingerprint(path: Path) -> str:
    """Sixteen hexadecimal digits that tell a video from others: of its size, and of pieces from its begin to its end.

    Not of all of it, since a benchmark may have a hundred gigabytes; nor of its time, which copies do not keep.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for place in range(_READ_PLACES):
            file.seek(max(0, size - _READ_BYTES) * place // (_READ_PLACES - 1))
            digest.update(file.read(_READ_BYTES))
    return digest.hexdigest()[:16]


def _video_fingerprints(items: Sequence[Item]) -> dict[str, str]:
    """Of each item's key the fingerprint of its video; items without one are left out."""
    found = {video: video_fingerprint(video) for video in {item.video for item in items} if video is not None}
    return {item.key: found[item.video] for item in items if item.video is not None}


def fingerprint(params: PyTree) -> str:
    """Sixteen hexadecimal digits that tell parameters from others, by their names, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        values = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)}{values.shape}{values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:16]


def questions_fingerprint(items: Sequence[Item]) -> str:
    """Sixteen hexadecimal digits of all that a model is asked and told, which tell these questions from others."""
    names = ("key", "question", "options", "begin_s", "asked_s", "listens_until_s")
    asked = [
        [
            *(getattr(item, name) for name in names),
            [dataclasses.astuple(line) for line in item.subtitles],
            item.facts.get("cloze"),
        ]
        for item in items
    ]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def make_report(
    benchmark: Benchmark, items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str
) -> tuple[dict[str, Any], list[ItemScore]]:
    """Every number of a benchmark, as JSON values, and the scores of the items.

    Returns:
      `score` and `interval` (95 %, bootstrap over items), both None where nothing can be scored; `groups`: by grouping
      and group its score, interval and items; `rule`; `items`, `scored` (those that the rule does not leave out),
      `answered`, `unreadable`, `unanswerable` (and `unanswerable_examples`), `subtitle_words_left_out`,
      `tokens_per_question` (None where it is not known), `figures`.

    Raises:
      ValueError: the benchmark has no such rule.
    """
    if rule not in benchmark.RULES:
        raise ValueError(f"--rule={rule}: choose one of {', '.join(benchmark.RULES)}")
    scores = benchmark.score(items, predictions, rule)
    aggregate = lambda some: benchmark.aggregate(some, rule)
    parts: dict[str, dict[str, list[ItemScore]]] = defaultdict(lambda: defaultdict(list))
    for one in scores:
        for grouping, group in one.groups.items():
            parts[grouping][group].append(one)
    groups = {
        grouping: {
            group: {"score": aggregate(some), "interval": interval(some, benchmark.aggregate_draws), "items": len(some)}
            for group in sorted(its, key=_in_order)
            for some in [its[group]]
        }
        for grouping, its in parts.items()
    }
    tokens = [one.tokens for one in predictions.values() if one.tokens is not None]
    refused = {key: str(one.facts[UNANSWERABLE]) for key, one in predictions.items() if UNANSWERABLE in one.facts}
    report = {
        "score": aggregate(scores),
        "interval": interval(scores, benchmark.aggregate_draws),
        "groups": groups,
        "rule": rule,
        "items": len(items),
        "scored": sum(one.value is not None for one in scores),
        "answered": sum(item.key in predictions for item in items) - len(refused),
        "unreadable": sum(one.unreadable for one in scores if one.key not in refused),
        "unanswerable": len(refused),
        "unanswerable_examples": list(refused.values())[:_EXAMPLES],
        WORDS_LEFT_OUT: sum(one.facts.get(WORDS_LEFT_OUT, 0) for one in predictions.values()),
        "tokens_per_question": float(np.mean(tokens)) if tokens else None,
        "figures": benchmark.figures(items, predictions, scores, rule),
    }
    return report, scores


def format_report(report: Mapping[str, Any]) -> str:
    """A report as people read it."""
    lines = [f"{report['benchmark']}, {report['answered_by']}; rule: {report['rule']}"]
    rows = [("all", report)]
    for grouping, groups in report["groups"].items():
        rows += [(f"{grouping} {group}", figures) for group, figures in groups.items()]
    width = max(len(name) for name, _ in rows)
    for name, figures in rows:
        value = "   -  " if figures["score"] is None else f"{figures['score']:6.4g}"
        around = "" if figures["interval"] is None else "  [{:.4g}, {:.4g}]".format(*figures["interval"])
        lines.append(f"  {name:<{width}}  {value}{around:<20}  {figures['items']:>6} items")
    lines.append(
        f"{report['answered']} of {report['items']} answered, {report['unreadable']} could not be read and count wrong"
    )
    if report["unanswerable"]:
        lines.append(f"{report['unanswerable']} could not be asked: {'; '.join(report['unanswerable_examples'])}")
    if report[WORDS_LEFT_OUT]:
        lines.append(f"{report[WORDS_LEFT_OUT]} words of subtitles are not in the model's vocabulary and were left out")
    if report["tokens_per_question"] is not None:
        lines.append(f"{report['tokens_per_question']:.0f} video tokens a question")
    for name, figure in report["figures"].items():
        lines.append(f"{name}: {json.dumps(figure, ensure_ascii=False)}")
    return "\n".join(lines)


def _in_order(group: str) -> tuple[bool, float, str]:
    """Numbers by value, then names."""
    try:
        return False, float(group), group
    except ValueError:
        return True, 0.0, group


def _as_json(prediction: Prediction) -> dict[str, Any]:
    said = [[one.start_s, one.end_s, one.text] for one in prediction.said]
    return {"text": prediction.text, "said": said, "tokens": prediction.tokens, "facts": dict(prediction.facts)}


def _from_json(fields: Mapping[str, Any]) -> Prediction:
    said = tuple(TimedText(start_s, text, end_s) for start_s, end_s, text in fields["said"])
    return Prediction(fields["text"], said, fields["tokens"], fields["facts"])


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _whole_lines(path: Path) -> list[str]:
    """The lines of a file that were written to their end."""
    data = path.read_bytes()
    try:
        # (Cut before it is decoded: the last line may end within a character.)
        return data[: data.rfind(b"\n") + 1].decode("utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start}): remove it") from error


def _parsed(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{path}:{number}: is no JSON ({error}): remove the line") from error
