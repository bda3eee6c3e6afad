"""StreamingBench (Lin et al., 2024, arXiv 2411.03628): say something when it happens, and questions at a moment.

Four files of questions. `proactive` tells the model to say something when something happens; `real`, `omni` and `sqa`
have options to choose from. A choice is right if the first character of the answer is the right letter, by every rule.
Rules of `proactive`, of which each has ±2 s around the right time:

* `official`: THUNLP-MT/StreamingBench 8929923, `src/data/count.py` and `src/benchmark/StreamingBenchProactive.py`.
  The model is asked every second "Is it the right time to output "X"?", and after a first "yes" what it says. The last
  entry of that dialogue is scored, whether or not there was a "yes", and must contain X as it is written.
* `answered`: ours, for the same dialogues. Only what was said after a "yes" counts, when it was said.
* `unprompted`: ours. Nobody asks and nobody tells X a second time: what was said on its own (`Prediction.said`) counts
  from the first time on that the words X are said. Who was polled is left out.

For who speaks on its own, the last entry is the last utterance up to 4 s after the right time, where polling ends, and
the answer is the first utterance.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmduplex_jax.evals.benchmarks.json_files import (
    as_list,
    as_object,
    list_of,
    number_of,
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
    TimedText,
    letter_of,
    mean_of_draws,
    mean_score,
    written_choice,
)
from mmduplex_jax.evals.captions import words_of

TITLE = "StreamingBench: say something when it happens, and questions at a moment of a video"
RULES = ("official", "answered", "unprompted")

PARTS = ("real", "omni", "sqa", "proactive")
TOLERANCE_S = 2.0
# Official polling ends so long after the right time.
_POLLED_AFTER_S = 4.0
# Words that follow each other sooner than this are of one utterance.
_PAUSE_S = 1.0
_OPTIONS = 4
_LABEL = re.compile(r"([A-G])\.\s*")
_QUOTED = re.compile(r"""output:?\s*["'“‘](.+?)["'”’]\s*[.!]*\s*$""", re.S)
# How the official script asks whether it is time.
_POLL = "is it the right time to output"
# What our predictions are called in the official files.
_OUR_NAME = "MMDuplex"

# A prediction's facts: the dialogue that official polling wrote, and when there was a "yes" (False: never).
_DIALOGUE, _ANSWERED = "dialog_history", "answered"


class _Entry(NamedTuple):
    """What stands in a dialogue: when, in seconds of the video, and what."""

    t_s: float
    text: str


def load_items(root: Path) -> list[Item]:
    """The questions of the official folder `src/data`: `questions_PART.json` of every part that is there.

    Videos are where the official script moves them, in `videos`. The key is `PART_N`, N the question's index.

    Raises:
      BenchmarkError: there is no such file, or a question cannot be read.
    """
    files = {part: root / f"questions_{part}.json" for part in PARTS}
    there = {part: path for part, path in files.items() if path.is_file()}
    if not there:
        raise BenchmarkError(
            f"{root}: there is no {', nor '.join(path.name for path in files.values())}; they are in the folder "
            "`src/data` of THUNLP-MT/StreamingBench"
        )
    return [item for part, path in there.items() for item in _items_of(part, path, root)]


def _items_of(part: str, path: Path, root: Path) -> Iterator[Item]:
    sequence, before = None, ""
    for number, row in enumerate(_rows(path)):
        if row.sequence != sequence:
            sequence, before = row.sequence, ""
        item = _item(f"{part}_{number}", part, row, root, before)
        yield item
        if sequence is not None:
            right = item.options[item.facts["right"]]
            before += f"{row.question['question']} {right} "


class _Row(NamedTuple):
    """A question as it stands in a file.

    Attributes:
      place: for errors.
      sequence: index of the questions that it belongs to, one after the other about a video; None but in `sqa`.
      number: index of its entry in the file.
      entry: the entry without its questions.
      question: the question, with the answer of a model in a file of answers.
    """

    place: str
    sequence: int | None
    number: int
    entry: dict[str, Any]
    question: dict[str, Any]


def _rows(path: Path) -> Iterator[_Row]:
    number = 0
    for index, value in enumerate(as_list(read_json(path), str(path))):
        sequence = index if isinstance(value, list) else None
        for one in [value] if sequence is None else value:
            place = f"{path}, entry {number}"
            entry = as_object(one, place)
            rest = {name: field for name, field in entry.items() if name != "questions"}
            for asked, question in enumerate(list_of(entry, "questions", place)):
                here = f"{place}, question {asked}"
                yield _Row(here, sequence, number, rest, as_object(question, here))
            number += 1


def _item(key: str, part: str, row: _Row, root: Path, before: str) -> Item:
    """A question; `before` is what was asked and answered earlier, which the official script tells too."""
    question, asked_s = text_of(row.question, "question", row.place), _seconds(row.question, "time_stamp", row.place)
    video = root / "videos" / _video_name(row)
    shared: dict[str, Any] = {
        "key": key,
        "video": video if video.is_file() else None,
        "question": before + question,
        "asked_s": asked_s,
        "groups": {"part": part, "task": text_of(row.question, "task_type", row.place)},
    }
    facts: dict[str, Any] = {
        "sequence": row.sequence,
        "number": row.number,
        "entry": row.entry,
        "question": row.question,
    }
    if part == "proactive":
        right_s = _seconds(row.question, "ground_truth_time_stamp", row.place)
        facts |= {"right_s": right_s, "output": text_of(row.question, "ground_truth_output", row.place)}
        # It is watched from when it is asked, as in the official script.
        return Item(**shared, begin_s=asked_s, listens_until_s=right_s + _POLLED_AFTER_S, facts=facts)
    options, letters = _options(list_of(row.question, "options", row.place), row.place)
    right = text_of(row.question, "answer", row.place)
    if right not in letters:
        raise BenchmarkError(f"{row.place}: 'answer' is {right!r}, the options are {', '.join(letters)}")
    return Item(**shared, options=options, choices=letters, facts={**facts, "right": letters.index(right)})


def _options(pieces: Sequence[Any], place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of the options and their letters.

    In some published questions an option is in two pieces, or empty ones are among them, or letters are not in order
    (then a letter is what the option says), or one comes twice (then letters are those of the places).
    """
    if not pieces or not all(isinstance(piece, str) for piece in pieces):
        raise BenchmarkError(f"{place}: 'options' must be texts")
    places = tuple(letter_of(number) for number in range(len(pieces)))
    if not pieces[0].startswith("A."):
        return tuple(pieces), places
    if len(pieces) == _OPTIONS:
        whole = list(pieces)
    else:
        whole = []
        for piece in pieces:
            if _LABEL.match(piece):
                whole.append(piece)
            elif piece:
                whole[-1] += f", {piece}"
    labels = [found[1] if (found := _LABEL.match(text)) else "" for text in whole]
    in_order = set(labels) == {letter_of(number) for number in range(len(whole))}
    return tuple(_LABEL.sub("", text, count=1) if _LABEL.match(text) else text for text in whole), (
        tuple(labels) if in_order else places[: len(whole)]
    )


def _seconds(row: Mapping[str, Any], name: str, place: str) -> float:
    """A time like "00:03:10", in seconds; also "00:12450", as one question has it."""
    text = text_of(row, name, place)
    if not re.fullmatch(r"\d+(:\d+){0,2}", text):
        raise BenchmarkError(f"{place}: {name!r} must be a time like 00:03:10, it is {text!r}")
    return float(sum(int(part) * 60**power for power, part in enumerate(reversed(text.split(":")))))


def _video_name(row: _Row) -> str:
    return Path(text_of(row.entry, "video_path", row.place)).name


# Prediction files: a file of questions with the answer of one model in each, under the model's name.


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """The answers in one of the official output files (`proactive_output_MODEL.json`), or in all of a folder.

    Raises:
      BenchmarkError: a file is not of this form, has a question that the items do not have, or answers of several
        models.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BenchmarkError(f"{path}: there is no .json file in it")
    # A few questions are the same; they are then in the same order.
    waiting: dict[tuple[str, str, str], list[Item]] = defaultdict(list)
    for item in items:
        asked = item.facts["question"]
        waiting[Path(item.facts["entry"]["video_path"]).name, asked["time_stamp"], asked["question"]].append(item)
    found: dict[str, Prediction] = {}
    for row in (row for file in files for row in _rows(file)):
        when, asked = (text_of(row.question, name, row.place) for name in ("time_stamp", "question"))
        alike = waiting[_video_name(row), when, asked]
        if not alike:
            raise BenchmarkError(
                f"{row.place}: the benchmark has no such question at {when}, or it came before: {asked!r}"
            )
        item = alike.pop(0)
        names = [name for name in row.question if name not in item.facts["question"]]
        if len(names) > 1:
            raise BenchmarkError(f"{row.place}: there are answers of {', '.join(names)}; keep those of one model")
        if names:
            found[item.key] = _prediction(item, row.question, names[0], row.place)
    return found


def _prediction(item: Item, row: Mapping[str, Any], name: str, place: str) -> Prediction:
    if item.groups["part"] != "proactive":
        return Prediction("" if row[name] is None else text_of(row, name, place))
    answer, where = as_object(row[name], f"{place}, {name!r}"), f"{place}, {name!r}"
    entries = list_of(answer, _DIALOGUE, where)
    if not entries:
        raise BenchmarkError(f"{where}: {_DIALOGUE!r} is empty")
    said, polled, asked = [], False, ""
    for number, value in enumerate(entries):
        here = f"{where}, {_DIALOGUE} {number}"
        entry = as_object(value, here)
        t_s, text = number_of(entry, "time", here), text_of(entry, "content", here)
        if entry.get("role") == "user":
            asked = text.lower()
            polled |= _POLL in asked
        elif _POLL not in asked and text:
            said.append(TimedText(t_s, text))
    answered = answer.get(_ANSWERED, False)
    if answered is not False:
        answered = number_of(answer, _ANSWERED, where)
    # Who was never polled has said by itself whatever it said.
    facts = {_DIALOGUE: entries, _ANSWERED: answered} if polled else {}
    return Prediction(said[-1].text if polled and said else "", () if polled else tuple(said), facts=facts)


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """Writes answers as the official `count.py --model=MMDuplex` reads them.

    The path is a file where the items are of one part, else it is made a folder with a file of each.
    """
    parts: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        parts[item.groups["part"]].append(item)
    for part, asked in parts.items():
        to = path if len(parts) == 1 and path.suffix == ".json" else path / f"{part}_output_{_OUR_NAME}.json"
        write_json(to, _file_of(asked, predictions))


def _file_of(items: Sequence[Item], predictions: Mapping[str, Prediction]) -> list[Any]:
    entries: dict[tuple[int | None, int], dict[str, Any]] = {}
    for item in items:
        facts, question = item.facts, dict(item.facts["question"])
        if item.key in predictions:
            prediction = predictions[item.key]
            question[_OUR_NAME] = (
                _official_answer(item, prediction) if item.groups["part"] == "proactive" else prediction.text
            )
        entry = entries.setdefault((facts["sequence"], facts["number"]), {**facts["entry"], "questions": []})
        entry["questions"].append(question)
    sequences: dict[int, list[dict[str, Any]]] = defaultdict(list)
    alone: list[Any] = []
    for (sequence, _), entry in entries.items():
        (alone if sequence is None else sequences[sequence]).append(entry)
    return [*alone, *sequences.values()]


def _official_answer(item: Item, prediction: Prediction) -> dict[str, Any]:
    if _DIALOGUE in prediction.facts:
        return {_ANSWERED: prediction.facts[_ANSWERED], _DIALOGUE: prediction.facts[_DIALOGUE]}
    said = _utterances(item, prediction)
    # Polling ends with a "no" here; the official script needs an entry that it can call the last.
    end = [] if said else [_Entry(item.facts["right_s"] + _POLLED_AFTER_S, "")]
    asked = {"role": "user", "content": item.facts["question"]["question"], "time": item.asked_s, "cost": 0}
    heard = [{"role": "assistant", "content": entry.text, "time": entry.t_s, "cost": 0} for entry in [*said, *end]]
    return {_ANSWERED: said[0].t_s if said else False, _DIALOGUE: [asked, *heard]}


def _utterances(item: Item, prediction: Prediction) -> list[_Entry]:
    """What was said on its own between the question and the end of polling, by its pauses."""
    found: list[_Entry] = []
    until_s = -np.inf
    for one in prediction.said:
        if not (item.asked_s or 0.0) <= one.start_s <= item.facts["right_s"] + _POLLED_AFTER_S or not one.text.strip():
            continue
        if one.start_s - until_s < _PAUSE_S:
            found[-1] = _Entry(found[-1].t_s, f"{found[-1].text} {one.text.strip()}")
        else:
            found.append(_Entry(one.start_s, one.text.strip()))
        until_s = one.start_s if one.end_s is None else one.end_s
    return found


# Rules.


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """1 for what is right, 0 for what is not or was not answered; a part of which there is no answer is left out."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown, choose one of {', '.join(RULES)}")
    there = {item.groups["part"] for item in items if item.key in predictions}
    return [_score(item, predictions.get(item.key), rule, item.groups["part"] in there) for item in items]


def _score(item: Item, prediction: Prediction | None, rule: str, part_there: bool) -> ItemScore:
    proactive = item.groups["part"] == "proactive"
    right = item.facts["output"] if proactive else written_choice(item, item.facts["right"])
    if prediction is None:
        shown = {"right": right} | ({"in_time": False} if proactive else {})
        return ItemScore(item.key, 0.0 if part_there else None, item.groups, shown=shown)
    if not proactive:
        first = prediction.text[:1]
        unreadable = bool(prediction.text) and first not in item.choices
        shown = {"right": right, "answer": prediction.text}
        return ItemScore(item.key, float(first == right), item.groups, unreadable, shown)
    shown = {"right": right, "right_s": item.facts["right_s"]}
    if rule == "unprompted" and _DIALOGUE in prediction.facts:
        return ItemScore(item.key, None, item.groups, shown={**shown, "polled": True})
    entry = _scored_entry(item, prediction, rule)
    in_time = entry is not None and abs(entry.t_s - item.facts["right_s"]) <= TOLERANCE_S
    value = float(entry is not None and in_time and (rule == "unprompted" or right in entry.text))
    said = {} if entry is None else {"said": entry.text, "said_s": entry.t_s}
    return ItemScore(item.key, value, item.groups, shown={**shown, **said, "in_time": in_time})


def _scored_entry(item: Item, prediction: Prediction, rule: str) -> _Entry | None:
    """What a rule looks at; None where there is nothing."""
    if rule == "unprompted":
        return _first_said(item, prediction)
    if _DIALOGUE not in prediction.facts:
        said = _utterances(item, prediction)
        return (said[-1] if rule == "official" else said[0]) if said else None
    last = prediction.facts[_DIALOGUE][-1]
    if rule == "official":
        return _Entry(float(last["time"]), last["content"])
    answered = prediction.facts[_ANSWERED]
    return None if answered is False else _Entry(answered, last["content"])


def _first_said(item: Item, prediction: Prediction) -> _Entry | None:
    """When, after the question, the words of the answer are said one after the other for the first time.

    Words of an utterance with an end are taken as said evenly, the last one at the end.
    """
    wanted = words_of(item.facts["output"])
    said: list[tuple[str, float]] = []
    for one in prediction.said:
        words = words_of(one.text)
        times_s = np.linspace(one.start_s, one.start_s if one.end_s is None else one.end_s, len(words))
        said += [(word, float(t_s)) for word, t_s in zip(words, times_s) if t_s >= (item.asked_s or 0.0)]
    for begin in range(len(said) - len(wanted) + 1):
        here = said[begin : begin + len(wanted)]
        if wanted and [word for word, _ in here] == wanted:
            return _Entry(here[0][1], " ".join(wanted))
    return None


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """The share of right answers, from 0 to 1; the benchmark's own script has one of each part."""
    return mean_score(scores)


aggregate_draws = mean_of_draws


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """Of `proactive` what the official script reports, in time and right; and what is to be known of the answers."""
    scored = [one for one in scores if one.groups["part"] == "proactive" and one.value is not None]
    polled = [(item, one) for item in items if _DIALOGUE in (one := predictions.get(item.key, Prediction())).facts]
    never = [(item, one) for item, one in polled if one.facts[_ANSWERED] is False]
    left_out = {item.groups["part"] for item in items} - {one.groups["part"] for one in scores if one.value is not None}
    return {
        "time_accuracy": float(np.mean([one.shown["in_time"] for one in scored])) if scored else None,
        "answer_accuracy": mean_score(scored),
        # They were told what to say with every question whether it is time.
        "polled": len(polled),
        "never_yes": len(never),
        # Whom the official rule finds in time although there was no "yes".
        "in_time_without_yes": sum(
            abs(float(one.facts[_DIALOGUE][-1]["time"]) - item.facts["right_s"]) <= TOLERANCE_S for item, one in never
        ),
        "parts_left_out": [part for part in PARTS if part in left_out],
    }


# Who sees no video.


def _silent(items: Sequence[Item]) -> dict[str, Prediction]:
    return {item.key: Prediction() for item in items}


def _chance(items: Sequence[Item]) -> dict[str, Prediction]:
    """A letter with equal chances; the words that the question quotes, after 1 to 20 s."""
    draw = np.random.default_rng(0)
    return {
        item.key: Prediction(written_choice(item, int(draw.integers(len(item.options)))))
        if item.options
        else _quotes(item, float(draw.integers(1, 21)))
        for item in items
    }


def _always_after(delay_s: float) -> Control:
    """The words that the question quotes, always after the same time; the first option."""
    return lambda items: {
        item.key: Prediction(written_choice(item, 0)) if item.options else _quotes(item, delay_s) for item in items
    }


def _quotes(item: Item, delay_s: float) -> Prediction:
    found = _QUOTED.search(item.question)
    words = found[1] if found else item.question
    return Prediction(said=(TimedText((item.asked_s or 0.0) + delay_s, words),))


CONTROLS: Mapping[str, Control] = {
    "silent": _silent,
    "chance": _chance,
    "after_1_s": _always_after(1.0),
    "after_7_s": _always_after(7.0),
}
