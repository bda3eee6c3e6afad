"""OVO-Bench (Li et al., 2025, arXiv 2501.05510): questions at a moment of a video, about what was, is or is to come.

1,640 entries of 12 tasks in three groups. Backward (EPM, ASI, HLD) and real time (STU, OJR, ATR, ACR, OCR, FPD) have
options to choose from. Forward is asked several times while the video goes on: REC (how often has it happened by now),
SSR (is this step being done now) and CRR (can this be answered yet); each time is an item here.

A task's score is the mean of its answers, a group's the mean of its tasks, the total the mean of the groups. Rules:

* `official`: JoeLeelyf/OVO-Bench c34093f, `utils/OVOBenchScore.py`. An answer is right if the right letter occurs
  anywhere in it, so that "ABCD" is always right; REC if all its digits put together are the count; SSR and CRR if
  "Yes" or "No" occurs in it ("Not sure" has a "No"), or if it is just "Y" or "N". No answer is wrong.
* `lmms_eval`: EvolvingLMMs-Lab/lmms-eval 75571cf, `lmms_eval/tasks/ovobench`. As the official one, but no answer to a
  forward question leaves it out, so that who fails on the hard ones gains.
* `strict`: ours. A letter of the options that stands first and alone, exactly one number, exactly one of yes and no;
  whatever else is wrong, and so is what was not answered.

The first two count what stands in the files: a task of which there is nothing is left out (`figures` names it). Within
a task an item without an entry is wrong. Annotations are CC BY-NC-SA 4.0 and do not come with this project.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmduplex_jax.evals.benchmarks.json_files import (
    as_list,
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
    letter_of,
    mean_score,
    ratio,
)
from mmduplex_jax.typing import Float

TITLE = "OVO-Bench: questions at a moment of a video, about what was, is or is yet to come"
RULES = ("official", "lmms_eval", "strict")

TASKS = {
    "backward": ("EPM", "ASI", "HLD"),
    "realtime": ("STU", "OJR", "ATR", "ACR", "OCR", "FPD"),
    "forward": ("REC", "SSR", "CRR"),
}
_GROUP_OF = {task: group for group, tasks in TASKS.items() for task in tasks}
_ANNOTATIONS = "ovo_bench_new.json"
_YES_NO = ("Yes", "No")
_UNABLE = "Unable to answer"

# A prediction's facts. Nothing was answered (a model that failed), which is not the same as an empty answer:
_NO_ANSWER = "no_answer"
# The same entry stands in the files again, with these answers; the official scorer counts each.
_AGAIN = "again"
# What an item's score shows: how many entries of the files it is the mean of.
_ENTRIES = "entries"


def load_items(root: Path) -> list[Item]:
    """The questions of the official folder `data`: `ovo_bench_new.json`, videos in `src_videos` or `chunked_videos`.

    A source video is watched up to the question, a chunk ends there. The key is the entry's id, and for a forward
    question `ID_N`, as chunks are named.

    Raises:
      BenchmarkError: there are no annotations, or not of this form.
    """
    path = root / _ANNOTATIONS
    if not path.is_file():
        raise BenchmarkError(f"{path}: there is no such file; it is in the folder `data` of JoeLeelyf/OVO-Bench")
    items: dict[str, Item] = {}
    for number, value in enumerate(as_list(read_json(path), str(path))):
        place = f"{path}, entry {number}"
        for item in _items_of(as_object(value, place), root, place):
            if item.key in items:
                raise BenchmarkError(f"{place}: id {item.key} is not the only one")
            items[item.key] = item
    return list(items.values())


def _items_of(row: Mapping[str, Any], root: Path, place: str) -> Iterator[Item]:
    key, task = str(integer_of(row, "id", place)), text_of(row, "task", place)
    if task not in _GROUP_OF:
        raise BenchmarkError(f"{place}: task {task!r} is unknown, there are {', '.join(_GROUP_OF)}")
    source = path_of(root / "src_videos", row, "video", place)
    groups = {"group": _GROUP_OF[task], "task": task}
    facts = {name: value for name, value in row.items() if name not in ("test_info", "options")}

    def asked(key: str, at: Mapping[str, Any], place: str) -> dict[str, Any]:
        chunk = root / "chunked_videos" / f"{key}.mp4"
        at_s = number_of(at, "realtime", place)
        if not source.is_file() and chunk.is_file():
            return {"video": chunk, "asked_s": None}  # it ends when the question is asked
        return {"video": source if source.is_file() else None, "asked_s": at_s}

    if groups["group"] != "forward":
        options, right = list_of(row, "options", place), integer_of(row, "gt", place)
        if not all(isinstance(option, str) for option in options) or not 0 <= right < len(options):
            raise BenchmarkError(f"{place}: 'gt' {right} must be the index of one of the options, which are texts")
        question = text_of(row, "question", place)
        yield Item(key, question=question, options=tuple(options), groups=groups, facts=facts, **asked(key, row, place))
        return
    for number, value in enumerate(list_of(row, "test_info", place)):
        here = f"{place}, test_info {number}"
        test = as_object(value, here)
        count_or_type = "count" if task == "REC" else "type"
        right = integer_of(test, count_or_type, here)
        if task != "REC" and right not in (0, 1):
            raise BenchmarkError(f"{here}: 'type' must be 0 (no) or 1 (yes), it is {right}")
        choices = () if task == "REC" else _YES_NO
        yield Item(
            f"{key}_{number}",
            question=_forward_question(task, row, test, here),
            options=choices,
            choices=choices,
            groups=groups,
            facts={**facts, "test": test, "number": number},
            **asked(f"{key}_{number}", test, here),
        )


def _forward_question(task: str, row: Mapping[str, Any], test: Mapping[str, Any], place: str) -> str:
    """In our words: the official prompts also say how to answer, at some length."""
    if task == "REC":
        return f"How many times did they {text_of(row, 'activity', place)}? Answer with a number."
    if task == "SSR":
        return f"Is somebody doing this step now: {text_of(test, 'step', place)}? Answer Yes or No."
    return f"Can this be answered yet from what was seen: {text_of(row, 'question', place)} Answer Yes or No."


# Prediction files: {"backward": [...], "realtime": [...], "forward": [...]}, any number of them in a folder.


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """The answers in an official result file, or in all of a folder (`results/MODEL`).

    Published files have entries twice under an id that a later edition of the annotations gave to one of them only; an
    entry whose right letter, or whose id, is taken goes to the item with the same question that has none.

    Raises:
      BenchmarkError: a file is not of this form, or an entry names no item; says which.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BenchmarkError(f"{path}: there is no .json file in it")
    by_key = {item.key: item for item in items}
    found: dict[str, Prediction] = {}
    again: list[tuple[Item, Prediction, str | None, str]] = []
    for file in files:
        results = as_object(read_json(file), str(file))
        for group in TASKS:
            for number, value in enumerate(as_list(results.get(group, []), f"{file}, {group!r}")):
                place = f"{file}, {group} {number}"
                row = as_object(value, place)
                for item, prediction, right in _answers_of(row, by_key, place):
                    if item.key not in found and right in (None, right_answer(item)):
                        found[item.key] = prediction
                    else:
                        again.append((item, prediction, right, place))
    for item, prediction, right, place in again:
        _place_again(found, items, item, prediction, right, place)
    return found


def _answers_of(
    row: Mapping[str, Any], by_key: Mapping[str, Item], place: str
) -> Iterator[tuple[Item, Prediction, str | None]]:
    """Of an entry the items that it answers, and the right letter where it says which that is."""
    key, task = str(integer_of(row, "id", place)), text_of(row, "task", place)
    if _GROUP_OF.get(task) != "forward":
        right = text_of(row, "ground_truth", place) if "ground_truth" in row else None
        yield _item_of(by_key, key, task, place), _answer(row, place), right
        return
    tests = list_of(row, "test_info", place)
    for number, value in enumerate(tests):
        here = f"{place}, test_info {number}"
        test = as_object(value, here)
        item = _item_of(by_key, f"{key}_{number}", task, here)
        for name, right in item.facts["test"].items():
            if test.get(name) != right:
                raise BenchmarkError(
                    f"{here}: {name!r} is {test.get(name)!r}, in the annotations of {item.key} it is {right!r}: "
                    "the file is of another edition of them"
                )
        yield item, _answer(test, here), None


def _item_of(by_key: Mapping[str, Item], key: str, task: str, place: str) -> Item:
    item = by_key.get(key)
    if item is None or item.groups["task"] != task:
        raise BenchmarkError(f"{place}: the annotations have no {task} question {key}; is it another edition of them?")
    return item


def _answer(row: Mapping[str, Any], place: str) -> Prediction:
    if row.get("response", "") is None:
        return Prediction(facts={_NO_ANSWER: True})
    if isinstance(row.get("response"), list):
        # The official scorer crashes on the published QWen2VL_7B and QWen2VL_72B, which are so.
        raise BenchmarkError(f"{place}: 'response' must be a text, it is a list; write its one text instead")
    return Prediction(text_of(row, "response", place))


def _place_again(
    found: dict[str, Prediction],
    items: Sequence[Item],
    item: Item,
    prediction: Prediction,
    right: str | None,
    place: str,
) -> None:
    """Gives an entry whose id is taken to the item that it is of, or counts it with the first of that id."""
    for other in items if right is not None else ():
        same = all(other.facts.get(name) == item.facts.get(name) for name in ("task", "question", "video"))
        if same and other.key not in found and right_answer(other) == right:
            found[other.key] = prediction
            return
    first = found.get(item.key)
    if first is None or right not in (None, right_answer(item)):
        raise BenchmarkError(
            f"{place}: the right answer is {right!r}, in the annotations of {item.key} it is "
            f"{right_answer(item)!r}: the file is of another edition of them"
        )
    repeated = [*first.facts.get(_AGAIN, ()), None if prediction.facts.get(_NO_ANSWER) else prediction.text]
    found[item.key] = Prediction(first.text, first.said, first.tokens, {**first.facts, _AGAIN: repeated})


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """Writes answers as the official `score.py` reads them: put the file into `results/MODEL`.

    A forward entry is written whole; where one of its questions has no prediction, its response is null.
    """
    results: dict[str, list[dict[str, Any]]] = {group: [] for group in TASKS}
    tests: dict[int, list[dict[str, Any]]] = {}
    for item in items:
        facts = {name: value for name, value in item.facts.items() if name not in ("test", "number")}
        prediction = predictions.get(item.key)
        if item.groups["group"] != "forward":
            if prediction is not None:
                entry = {name: facts[name] for name in ("id", "video", "task", "question")}
                right = letter_of(facts["gt"])
                results[item.groups["group"]] += [
                    {**entry, "response": answer, "ground_truth": right} for answer in _all_answers(prediction)
                ]
            continue
        if facts["id"] not in tests:
            tests[facts["id"]] = []
            results["forward"].append({**facts, "test_info": tests[facts["id"]]})
        answer = None if prediction is None else _all_answers(prediction)[0]
        tests[facts["id"]].append({**item.facts["test"], "response": answer})
    results["forward"] = [
        entry
        for entry in results["forward"]
        if any(f"{entry['id']}_{number}" in predictions for number in range(len(entry["test_info"])))
    ]
    write_json(path, results)


def _all_answers(prediction: Prediction) -> list[str | None]:
    """Of every entry in the files; None where nothing was answered."""
    return [None if prediction.facts.get(_NO_ANSWER) else prediction.text, *prediction.facts.get(_AGAIN, ())]


# Rules.


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """Every item's score: 0 or 1, or the mean of what an entry that stands in the files more than once gets."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown, choose one of {', '.join(RULES)}")
    there = {item.groups["task"] for item in items if item.key in predictions}
    return [_score(item, predictions.get(item.key), rule, item.groups["task"] in there) for item in items]


def _score(item: Item, prediction: Prediction | None, rule: str, task_there: bool) -> ItemScore:
    shown: dict[str, Any] = {"right": right_answer(item)}
    if prediction is None:
        value = None if rule != "strict" and not task_there else 0.0
        return ItemScore(item.key, value, item.groups, shown=shown)
    answers = _all_answers(prediction)
    if rule == "strict":
        answers = answers[:1]  # an item is one item
    if rule == "lmms_eval" and item.groups["group"] == "forward":
        answers = [answer for answer in answers if answer is not None]
    values = [float(answer is not None and _is_right(item, answer, rule)) for answer in answers]
    unreadable = any(answer is not None and not _is_readable(item, answer, rule) for answer in answers)
    shown |= {"answer": prediction.text, _ENTRIES: len(values)}
    return ItemScore(item.key, float(np.mean(values)) if values else None, item.groups, unreadable, shown)


def right_answer(item: Item) -> str:
    """A letter, a number, "Yes" or "No"."""
    if item.groups["task"] == "REC":
        return str(item.facts["test"]["count"])
    if item.groups["group"] == "forward":
        return _YES_NO[1 - item.facts["test"]["type"]]
    return letter_of(item.facts["gt"])


def _is_right(item: Item, answer: str, rule: str) -> bool:
    right = right_answer(item)
    if rule == "strict":
        return _strict_answer(item, answer) == right
    if item.groups["task"] == "REC":
        return "".join(re.findall(r"\d+", answer)) == right
    return right in answer or (item.groups["group"] == "forward" and answer == right[0])


def _is_readable(item: Item, answer: str, rule: str) -> bool:
    """Whether anything in an answer could have been right."""
    if rule == "strict":
        return _strict_answer(item, answer) is not None
    if item.groups["task"] == "REC":
        return re.search(r"\d", answer) is not None
    if item.groups["group"] == "forward":
        return answer in ("Y", "N") or any(word in answer for word in _YES_NO)
    return any(letter_of(number) in answer for number in range(len(item.options)))


def _strict_answer(item: Item, answer: str) -> str | None:
    """The one answer that a text gives, None where it gives none or more than one."""
    if item.groups["task"] == "REC":
        numbers = re.findall(r"\d+", answer)
        return str(int(numbers[0])) if len(numbers) == 1 else None
    if item.groups["group"] == "forward":
        said = {word[0].upper() for word in re.findall(r"\w+", answer.lower()) if word in ("yes", "no", "y", "n")}
        return {"Y": "Yes", "N": "No"}[said.pop()] if len(said) == 1 else None
    # "B", "(B)", "B. In the garden", and not "A dog".
    found = re.match(r"\W*([A-Z])(?:[.:)]|\W*$)", answer)
    return found[1] if found and found[1] in map(letter_of, range(len(item.options))) else None


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """The mean of groups of the mean of their tasks, from 0 to 1; of groups and tasks of which anything is scored.

    The official scorer crashes where a group has nothing at all.
    """
    tasks = _task_means(scores)
    groups = [
        float(np.mean([tasks[task] for task in names if task in tasks]))
        for names in TASKS.values()
        if any(task in tasks for task in names)
    ]
    return float(np.mean(groups)) if groups else None


def aggregate_draws(scores: Sequence[ItemScore], counts: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
    """See `Benchmark.aggregate_draws`."""
    entries = np.array([0 if one.value is None else one.shown.get(_ENTRIES, 1) for one in scores], float)
    values = np.array([one.value or 0.0 for one in scores]) * entries
    tasks = {name: np.array([one.groups["task"] == name for one in scores], float) for name in _GROUP_OF}
    means = {name: ratio(counts @ (values * of_it), counts @ (entries * of_it)) for name, of_it in tasks.items()}
    return _mean_of_known([_mean_of_known([means[name] for name in names]) for names in TASKS.values()])


def _mean_of_known(figures: Sequence[Float[np.ndarray, "R"]]) -> Float[np.ndarray, "R"]:
    """The mean of those figures of a draw that are not NaN."""
    known = ~np.isnan(figures)
    return ratio(np.where(known, figures, 0.0).sum(axis=0), known.sum(axis=0))


def _task_means(scores: Iterable[ItemScore]) -> dict[str, float]:
    """The mean of every entry of a task."""
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for item_score in scores:
        if item_score.value is not None:
            entries = item_score.shown.get(_ENTRIES, 1)
            sums[item_score.groups["task"]][0] += item_score.value * entries
            sums[item_score.groups["task"]][1] += entries
    return {task: total / entries for task, (total, entries) in sums.items()}


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """Groups and tasks by name, what is left out, and what stands in the files more than once or not at all."""
    tasks = _task_means(scores)
    given = [predictions[item.key] for item in items if item.key in predictions]
    answered = [prediction for prediction in given if not prediction.facts.get(_NO_ANSWER)]
    return {
        **{group: aggregate([s for s in scores if s.groups["group"] == group], rule) for group in TASKS},
        "tasks": {task: tasks[task] for task in _GROUP_OF if task in tasks},
        "tasks_left_out": [task for task in _GROUP_OF if task not in tasks],
        "answered": len(answered) / len(items) if items else None,
        "repeated_entries": sum(len(prediction.facts.get(_AGAIN, ())) for prediction in given),
        "mean_of_questions": mean_score(scores),
    }


# Who sees no video.


def _silent(items: Sequence[Item]) -> dict[str, Prediction]:
    return {item.key: Prediction(facts={_NO_ANSWER: True}) for item in items}


def _chance(items: Sequence[Item]) -> dict[str, Prediction]:
    """An option with equal chances; a count from 0 to 5."""
    draw = np.random.default_rng(0)
    return {item.key: Prediction(_choice(item, int(draw.integers(len(item.options) or 6)))) for item in items}


def _longest(items: Sequence[Item]) -> dict[str, Prediction]:
    """The longest option; "No", and that it never happened."""
    return {item.key: Prediction(_choice(item, _longest_option(item))) for item in items}


def _unable(items: Sequence[Item]) -> dict[str, Prediction]:
    """The option "Unable to answer" where there is one, which is in HLD and always right there; else the longest."""
    unable = lambda item: next((n for n, option in enumerate(item.options) if option == _UNABLE), _longest_option(item))
    return {item.key: Prediction(_choice(item, unable(item))) for item in items}


def _longest_option(item: Item) -> int:
    if item.groups["group"] == "forward":
        return 1 if item.options else 0
    return max(range(len(item.options)), key=lambda number: len(item.options[number]))


def _everything(items: Sequence[Item]) -> dict[str, Prediction]:
    """Every letter, and yes and no at once: what the substring rule does not notice."""
    return {
        item.key: Prediction(" ".join(_choice(item, number) for number in range(len(item.options))) or "1")
        for item in items
    }


def _choice(item: Item, number: int) -> str:
    if not item.options:
        return str(number)
    return item.choices[number] if item.choices else letter_of(number)


CONTROLS: Mapping[str, Control] = {
    "silent": _silent,
    "chance": _chance,
    "longest": _longest,
    "unable": _unable,
    "everything": _everything,
}
