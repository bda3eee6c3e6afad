"""LongVideoBench: a question about a video of up to an hour, with its subtitles, and up to five answers to choose from.

Wu et al., 2024 (arXiv 2407.15754). Facts are from the official loader, longvideobench/LongVideoBench fc3c553
(`longvideobench/longvideobench_dataset.py`), and from EvolvingLMMs-Lab/lmms-eval (`lmms_eval/tasks/longvideobench/
utils.py`), which asks and reads otherwise. The layout of a folder:

    lvb_val.json              a list of questions; or lvb_test_wo_gt.json, whose right answers are not published
    videos/ID.mp4
    subtitles/ID_en.json      a list of lines, in one of two shapes
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmduplex_jax.evals.benchmarks.json_files import (
    as_object,
    integer_of,
    list_of,
    number_of,
    path_of,
    read_json,
    text_of,
    write_json,
)
from mmduplex_jax.evals.benchmarks.protocol import (
    BenchmarkError,
    Control,
    Item,
    ItemScore,
    Prediction,
    Subtitle,
    letter_of,
    mean_of_draws,
    mean_score,
)

TITLE = "questions about videos of 8 s to an hour, with subtitles; an answer is chosen"
RULES = ("official", "lmms_eval")
# The right answer of the test set, as the official loader has it: the letter before "A".
HIDDEN = "@"
# A fact of a prediction: answers by letter, each taken with the same chance, and scored by what is to be expected.
ANY_OF = "any_of"
_VALIDATION, _TEST = "lvb_val.json", "lvb_test_wo_gt.json"
_ASKED = "Answer with the option's letter from the given choices directly."
# What lmms-eval takes out of an answer before it looks for a letter.
_PREFIXES = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)
# A letter by itself, in brackets or before the option's text: "B", "(B)", "B. the red one".
_LETTER = re.compile(r"\s*\(?([A-Z])(?:\)|[.:,]|\s*$)")


class Frame(NamedTuple):
    """A picture of the video in a prompt.

    Attributes:
      number: of the file's pictures, from 0.
      t_s: when it is shown, by the file's average rate.
    """

    number: int
    t_s: float


# Loading.


def load_items(root: Path) -> list[Item]:
    """The questions of a folder in the published layout, or of one of its two files of questions.

    Raises:
      BenchmarkError: there are none, or a question or its subtitles cannot be read.
    """
    file = root if root.suffix == ".json" else root / _VALIDATION
    if file == root / _VALIDATION and not file.is_file() and (root / _TEST).is_file():
        file = root / _TEST
    if not file.is_file():
        raise BenchmarkError(f"{file}: there is no such file: name it, or a folder with {_VALIDATION} or {_TEST}")
    records = read_json(file)
    if not isinstance(records, list) or not records:
        raise BenchmarkError(f"{file}: a list of questions is expected")
    items: dict[str, Item] = {}
    for number, record in enumerate(records):
        item = _item(record, f"{file}, question {number}", file.parent)
        if item.key in items:
            raise BenchmarkError(f"{file}, question {number}: the id {item.key!r} comes twice")
        items[item.key] = item
    return list(items.values())


def _item(record: Any, place: str, folder: Path) -> Item:
    """A question as it stands in the file; `place` names it in errors."""
    record = as_object(record, place)
    options, right = list_of(record, "candidates", place), record.get("correct_choice", -1)
    if not all(isinstance(option, str) for option in options) or len(options) < 2:
        raise BenchmarkError(f"{place}: `candidates` must be a list of at least two texts, got {options!r}")
    if isinstance(right, bool) or not isinstance(right, int) or not -1 <= right < len(options):
        raise BenchmarkError(f"{place}: `correct_choice` is {right!r}, and there are {len(options)} candidates")
    video, duration_s = path_of(folder / "videos", record, "video_path", place), number_of(record, "duration", place)
    named = {"category": "question_category", "topic": "topic_category", "level": "level"}
    groups = {"duration": str(integer_of(record, "duration_group", place))}
    groups |= {group: str(record[name]) for group, name in named.items() if record.get(name) is not None}
    return Item(
        key=text_of(record, "id", place),
        video=video if video.is_file() else None,
        question=text_of(record, "question", place),
        options=tuple(options),
        duration_s=duration_s,
        groups=groups,
        subtitles=_subtitles(record, place, folder),
        facts={
            "correct_choice": right,
            "video_path": record["video_path"],
            "starting_timestamp_for_subtitles": record.get("starting_timestamp_for_subtitles", 0),
            "subtitle_path": record.get("subtitle_path"),
        },
    )


def read_subtitles(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of subtitles, as they stand there.

    Raises:
      BenchmarkError: there is no such file, or a line is of neither of the two shapes.
    """
    lines = read_json(path)
    if not isinstance(lines, list):
        raise BenchmarkError(f"{path}: a list of lines is expected")
    for number, line in enumerate(lines):
        timed = isinstance(line, dict) and isinstance(line.get("timestamp"), list) and len(line["timestamp"]) == 2
        clocked = isinstance(line, dict) and "timestamp" not in line and {"start", "end", "line"} <= line.keys()
        if not (timed and "text" in line) and not clocked:
            raise BenchmarkError(
                f'{path}, line {number}: neither {{"timestamp": [start, end], "text": …}} nor '
                '{"start": "h:m:s", "end": "h:m:s", "line": …}'
            )
    return lines


def _subtitles(record: Mapping[str, Any], place: str, folder: Path) -> tuple[Subtitle, ...]:
    """The lines in seconds of the video, in the order of time; an end that is not known is the video's."""
    if not record.get("subtitle_path"):
        return ()
    path = path_of(folder / "subtitles", record, "subtitle_path", place)
    if not (folder / "subtitles").is_dir():
        return ()  # predictions can be scored without, as without videos
    begin_s = record.get("starting_timestamp_for_subtitles", 0)
    found = []
    for number, line in enumerate(read_subtitles(path)):
        try:
            if "timestamp" in line:
                start_s, end_s = line["timestamp"]
                start_s, text = float(start_s) - begin_s, line["text"]
                end_s = float(record["duration"]) if end_s is None else float(end_s) - begin_s
            else:
                start_s, end_s = seconds_of(line["start"]) - begin_s, seconds_of(line["end"]) - begin_s
                text = line["line"]
        except (TypeError, ValueError) as error:
            raise BenchmarkError(f"{path}, line {number}: its times cannot be read ({error}); {place}") from error
        if not (math.isfinite(start_s) and math.isfinite(end_s) and isinstance(text, str)):
            raise BenchmarkError(f"{path}, line {number}: must be a text between two times, is {line!r}")
        found.append(Subtitle(start_s, end_s, text))
    return tuple(sorted(found, key=lambda line: line.start_s))


def seconds_of(timestamp: str) -> float:
    """Seconds of "h:m:s", where seconds may have a fraction; ValueError for anything else."""
    hours, minutes, seconds = timestamp.split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


# What a model is shown, as the official loader and lmms-eval make it.


def sampled_frames(duration_s: float, rate_hz: float, max_num_frames: int) -> list[Frame]:
    """The official loader's pictures: one a second at most, in equal steps from the first on.

    Args:
      duration_s: of the video, as the question's record says it.
      rate_hz: average rate of the file's pictures.
      max_num_frames: how many at most.
    """
    number = min(max_num_frames, int(duration_s))
    every = int(int(duration_s * rate_hz) / number) if number > 0 else 0
    return [Frame(every * i, every * i / rate_hz) for i in range(number)]


def official_inputs(
    item: Item,
    lines: Sequence[Mapping[str, Any]],
    frames: Sequence[Frame],
    *,
    max_num_frames: int,
    insert_text: bool = True,
) -> list[str | Frame]:
    """The official loader's prompt: frames and subtitles in turn, the question, its options, and how to answer.

    Two of its cases do not work there and mean what they say here: `max_num_frames=0` shows neither frames nor
    subtitles (the loader stops with a NameError), and without `insert_text` no file of subtitles is needed.

    Args:
      item: the question.
      lines: of its file of subtitles, as they stand there (`read_subtitles`).
      frames: from `sampled_frames`.
      max_num_frames: as the loader's; -1: all subtitles and no frames.
      insert_text: whether subtitles are shown with the frames.
    """
    if max_num_frames < -1:
        raise ValueError(f"max_num_frames is a number of frames, or -1 for subtitles alone, got {max_num_frames}")
    shown: list[str | Frame] = []
    if max_num_frames == -1:
        shown += [_text_of(line) for line in lines]
    elif max_num_frames:
        begin_s = item.facts["starting_timestamp_for_subtitles"]
        shown += _interleaved(frames, lines if insert_text else (), begin_s, item.duration_s or 0.0)
    options = [f"{letter_of(number)}. {option}" for number, option in enumerate(item.options)]
    return [*shown, f"Question: {item.question}", *options, _ASKED]


def lmms_eval_prompt(
    item: Item, lines: Sequence[Mapping[str, Any]], *, max_num_frames: int = 16, interleave: bool = False
) -> str:
    """lmms-eval's prompt as one text; with `interleave` (its `_i` tasks) subtitles and "<image>" in turn before it.

    There the frames' times are not those of the frames that it shows: equal parts of the duration, or whole seconds.
    """
    options = [f"{letter_of(number)}. {option}" for number, option in enumerate(item.options)]
    question = "\n".join([item.question, *options, f"{_ASKED}\n"])
    if not interleave:
        return question
    duration_s = item.duration_s or 0.0
    if duration_s > max_num_frames:
        times_s = [duration_s / max_num_frames * i for i in range(max_num_frames)]
    else:
        times_s = [float(i) for i in range(int(duration_s))]
    begin_s = item.facts["starting_timestamp_for_subtitles"]
    shown = _interleaved([Frame(i, t_s) for i, t_s in enumerate(times_s)], lines, begin_s, duration_s)
    return "\n".join([*(one if isinstance(one, str) else "<image>" for one in shown), question])


def _text_of(line: Mapping[str, Any]) -> str:
    return line["text"] if "timestamp" in line else line["line"]


def _interleaved(
    frames: Sequence[Frame], lines: Sequence[Mapping[str, Any]], begin_s: float, duration_s: float
) -> list[str | Frame]:
    """`interleave` with lines as they stand in the file, in whose order they stay.

    As in the loader, an end that is not a number with a fraction (null, but a whole number too) is the duration.
    """
    subtitles = []
    for line in lines:
        if "timestamp" in line:
            start_s, end_s = line["timestamp"]
            end_s = end_s if isinstance(end_s, float) else duration_s
        else:
            start_s, end_s = seconds_of(line["start"]), seconds_of(line["end"])
        subtitles.append(Subtitle(start_s - begin_s, end_s - begin_s, _text_of(line)))
    found = interleave([frame.t_s for frame in frames], subtitles)
    return [one.text if isinstance(one, Subtitle) else frames[one] for one in found]


def interleave(frames_s: Sequence[float], lines: Sequence[Subtitle]) -> list[int | Subtitle]:
    """Frames and subtitles in turn, as the official loader shows them.

    Args:
      frames_s: when each frame is shown, in their order.
      lines: which keep their order.

    Returns:
      Indices of all frames, and each line behind all frames up to its middle, where a frame lies strictly inside of it.
      Lines of less than a second are taken as a second around their middle.
    """
    shown: list[int | Subtitle] = []
    next_frame = 0
    for line in lines:
        start_s, end_s = line.start_s, line.end_s
        middle_s = (start_s + end_s) / 2
        while next_frame < len(frames_s) and frames_s[next_frame] <= middle_s:
            shown.append(next_frame)
            next_frame += 1
        if end_s - start_s < 1:
            start_s, end_s = middle_s - 0.5, middle_s + 0.5
        if any(start_s < t_s < end_s for t_s in frames_s):
            shown.append(line)
    return [*shown, *range(next_frame, len(frames_s))]


# Predictions and scores.


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """Answers as lmms-eval and the leaderboard take them: a JSON object, each question's id to the answer's text."""
    answers = read_json(path)
    if not isinstance(answers, dict):
        raise BenchmarkError(f'{path}: a JSON object is expected, {{"question id": "answer", …}}')
    known = {item.key for item in items}
    for key, answer in answers.items():
        if key not in known:
            raise BenchmarkError(f"{path}: {key!r} is the id of none of the {len(known)} questions")
        if not isinstance(answer, str):
            raise BenchmarkError(f"{path}: the answer to {key!r} must be a text, got {answer!r}")
    return {key: Prediction(answer) for key, answer in answers.items()}


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """Writes what `read_predictions` reads, in the order of the items."""
    answers = {item.key: predictions[item.key].text for item in items if item.key in predictions}
    write_json(path, answers)


def read_letter(answer: str, rule: str) -> str | None:
    """The letter that an answer names under a rule; None where it names none.

    `official`: the option's letter was asked for, and is read where the answer begins with it. `lmms_eval`: some
    phrases are taken out, then the first of A to E counts wherever it stands, so "An apple" is A. Where it finds none,
    lmms-eval draws a letter at random; here there is none.
    """
    if rule == "official":
        found = _LETTER.match(answer)
        return found[1] if found else None
    for prefix in _PREFIXES:
        answer = answer.replace(prefix, "")
    found = re.search("[ABCDE]", answer)
    return found[0] if found else None


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """1 for the right letter, else 0; questions whose answer is not published are left out."""
    return [_score(item, predictions.get(item.key), rule) for item in items]


def _score(item: Item, prediction: Prediction | None, rule: str) -> ItemScore:
    right = item.facts["correct_choice"]
    gold = letter_of(right) if right >= 0 else HIDDEN
    if prediction is not None and (letters := prediction.facts.get(ANY_OF)):
        value: float = (gold in letters) / len(letters)
        read, unreadable = "any", False
    else:
        letter = None if prediction is None else read_letter(prediction.text, rule)
        value, read = float(letter == gold), letter or ""
        # A letter that no option has was read, and is wrong; what lmms-eval cannot read has none of its letters.
        unreadable = prediction is not None and letter is None
    shown = {"answer": read, "right": gold}
    return ItemScore(item.key, value if gold != HIDDEN else None, item.groups, unreadable, shown)


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """Accuracy, under both rules."""
    del rule
    return mean_score(scores)


aggregate_draws = mean_of_draws


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """How often each letter was answered, and how often it is right: a bias towards a place shows."""
    del items, predictions, rule
    letters = sorted({value for one in scores for value in one.shown.values() if value not in ("", "any", HIDDEN)})
    count = lambda name, letter: sum(one.shown[name] == letter for one in scores)
    return {
        "answered_by_letter": {letter: count("answer", letter) for letter in letters},
        "right_by_letter": {letter: count("right", letter) for letter in letters},
    }


# Blind controls.


def chance(items: Sequence[Item]) -> dict[str, Prediction]:
    """Every option with the same chance: nothing is drawn, each question counts what is to be expected."""
    letters = lambda item: [letter_of(number) for number in range(len(item.options))]
    return {item.key: Prediction(facts={ANY_OF: letters(item)}) for item in items}


def always_longest(items: Sequence[Item]) -> dict[str, Prediction]:
    """The option with the most characters, the first of those that are as long."""
    longest = lambda item: max(range(len(item.options)), key=lambda number: len(item.options[number]))
    return {item.key: Prediction(letter_of(longest(item))) for item in items}


def always_b(items: Sequence[Item]) -> dict[str, Prediction]:
    """B, whatever is asked."""
    return {item.key: Prediction("B") for item in items}


CONTROLS: Mapping[str, Control] = {"chance": chance, "always_longest": always_longest, "always_b": always_b}
