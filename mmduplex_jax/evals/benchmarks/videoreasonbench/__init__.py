"""VideoReasonBench (lyx97/reasoning_videos): what happened under the cups? Six demos, judged by simulating them.

The published judge is a language model, and what it extracts from an answer is run as Python. Here answers are read
strictly (`answers.py`) and compared with what the video's operations lead to (`simulation.py`, `questions.py`);
`prediction_operation`, which has no stored answer, is judged by simulating the answer's operations. What answers to
`file_sys` name, commands and files, must be the same to the letter; only the order of files in a set is nothing.

Rules: "simulated" compares with what the operations lead to, and leaves out rows whose stored answer is another;
"stored" compares with the stored answer, as the published judge does.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmduplex_jax.evals.benchmarks.json_files import path_of
from mmduplex_jax.evals.benchmarks.protocol import (
    BenchmarkError,
    Control,
    Item,
    ItemScore,
    Prediction,
    mean_of_draws,
    mean_score,
)
from mmduplex_jax.evals.benchmarks.videoreasonbench.answers import FORMS, final_answer
from mmduplex_jax.evals.benchmarks.videoreasonbench.generation import random_answer
from mmduplex_jax.evals.benchmarks.videoreasonbench.questions import (
    ImpossibleError,
    dispute,
    judge,
    parse_question,
    right_answer,
)
from mmduplex_jax.evals.benchmarks.videoreasonbench.rows import FIELDS, bucket_of, find_rows, read_instance
from mmduplex_jax.evals.benchmarks.videoreasonbench.simulation import Instance, places

TITLE = "VideoReasonBench: states that are seen once, and operations that change them unseen"
RULES = ("simulated", "stored")

# Published names of the two kinds of questions about a state (utils/show_results.py).
_INFERRED = {"order_state": "infer_state", "counting_state": "infer_state"}
_LEVELS = {
    "order_operation": "1 recall", "counting_operation": "1 recall",
    "order_state": "2 infer", "counting_state": "2 infer", "comparison_state": "2 infer",
    "prediction_state": "3 predict", "prediction_operation": "3 predict",
}  # fmt: skip
# Boards of 3 and 4 squares a side, and 1 and 2 piles, cups or paths, are the small and the large state.
_SIZES = {1: "small", 3: "small", 2: "large", 4: "large"}


def load_items(root: Path) -> list[Item]:
    """The items of a folder in the published layout (`rows.py`); demos that are not there are left out."""
    items = []
    for demo, key, where, row in find_rows(Path(root)):
        facts = {name: value for name, value in row.items() if name != "question"} | {"demo": demo}
        try:
            instance = read_instance(demo, row)
            asked = parse_question(demo, row["dim"], row["question"])
            unknown = {asked[name] for name in ("place", "here", "there") if name in asked} - {
                *places(demo, instance.size)
            }
            if unknown:
                raise ValueError(f"the question names {', '.join(sorted(unknown))}, which is not there")
            if row["dim"] != "prediction_operation":
                if not isinstance(row["answer"], str):
                    raise ValueError("it has no answer")
                if disputed := dispute(instance, row["dim"], asked, row["answer"]):
                    facts["disputed"] = disputed
        except (ValueError, KeyError, TypeError, StopIteration) as error:
            raise BenchmarkError(f"{where} is not a row of {demo}: {error}") from error
        video = path_of(Path(root), row, "video", where)
        groups: dict[str, str] = {
            "demo": demo,
            "level": _LEVELS[row["dim"]],
            "dimension": _INFERRED.get(row["dim"], str(row["dim"])),
            "operations": bucket_of(len(instance.operations)),
            "state": _SIZES.get(instance.size, str(instance.size)),
            "visible": instance.visible,
        }
        # The published scripts name a row so among all demos.
        name = f"{demo}_{key}"
        items.append(
            Item(name, video if video.is_file() else None, question=row["question"], groups=groups, facts=facts)
        )
    return items


def _instance(item: Item) -> tuple[Instance, str, dict[str, Any]]:
    demo, dimension = item.facts["demo"], item.facts["dim"]
    return read_instance(demo, item.facts), dimension, parse_question(demo, dimension, item.question)


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """Predictions as eval_api.py writes them: {id: row with `prediction`}, a file or a folder of such files.

    What else stands there is kept: `rating`, the published judge's verdict, and `token_count`. Rows without a
    `prediction` are left out.
    """
    path = Path(path)
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise BenchmarkError(f"{path}: no .json files of predictions")
    known = {item.key for item in items}
    predictions: dict[str, Prediction] = {}
    for file in files:
        try:
            rows = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BenchmarkError(f"{file}: not JSON ({error})") from error
        if not isinstance(rows, dict):
            raise BenchmarkError(f"{file}: expected an object of predictions by the ids of rows")
        for key, row in rows.items():
            if key not in known:
                raise BenchmarkError(f"{file}: {key!r} names no row; expected DEMO_ID, as in card_state1_op5_...")
            if key in predictions:
                raise BenchmarkError(f"{file}: a second prediction for {key!r}")
            if not isinstance(row, dict):
                raise BenchmarkError(f"{file}: {key!r} is not an object")
            text = row.get("prediction")
            if text is None:
                continue
            if not isinstance(text, str):
                raise BenchmarkError(f"{file}: the prediction for {key!r} is not a text")
            facts = {name: row[name] for name in ("rating", "token_count") if name in row}
            predictions[key] = Prediction(text, tokens=row.get("video_tokens"), facts=facts)
    return predictions


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """Writes them so that eval_api.py goes on with them: it rates what has a prediction and no rating."""
    rows = {}
    for item in items:
        if (prediction := predictions.get(item.key)) is None:
            continue
        row = {name: item.facts[name] for name in FIELDS if name != "question"} | {"question": item.question}
        row |= {"demo": item.facts["demo"], "prediction": prediction.text, **prediction.facts}
        if prediction.tokens is not None:
            row["video_tokens"] = prediction.tokens
        rows[item.key] = row
    Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """1 for a right answer, 0 for any other or none; None, under "simulated", for rows with a wrong stored answer."""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown, choose one of {', '.join(RULES)}")
    return [_score(item, predictions.get(item.key), rule) for item in items]


def _score(item: Item, prediction: Prediction | None, rule: str) -> ItemScore:
    instance, dimension, asked = _instance(item)
    stored = item.facts["answer"]
    disputed = item.facts.get("disputed")
    shown = {"expected": stored or f"operations that lead to {asked['target']}"}
    if disputed:
        shown["disputed"] = disputed
    if disputed and rule == "simulated":
        return ItemScore(item.key, None, item.groups, shown=shown)
    if prediction is None:
        return ItemScore(item.key, 0.0, item.groups, shown=shown)
    answer = final_answer(prediction.text)
    compared = stored if rule == "stored" else None
    right = None if answer is None else judge(instance, dimension, asked, compared, answer)
    shown = {"answer": answer or prediction.text, **shown}
    return ItemScore(item.key, float(bool(right)), item.groups, unreadable=right is None, shown=shown)


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """The mean over all questions, as published."""
    return mean_score(scores)


aggregate_draws = mean_of_draws


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """Rows whose stored answer is wrong, and how often we judge as the published judge did where its verdict is known.

    `agreement`: how many predictions have a `rating`, how many we judge alike, and what we judge harder or softer.
    """
    found: dict[str, Any] = {
        "disputed": {item.key: item.facts["disputed"] for item in items if "disputed" in item.facts}
    }
    rated = [
        (bool(predictions[one.key].facts["rating"]), bool(one.value))
        for one in scores
        if one.value is not None and one.key in predictions and "rating" in predictions[one.key].facts
    ]
    if rated:
        found["agreement"] = {
            "rated": len(rated),
            "alike": sum(theirs == ours for theirs, ours in rated),
            "only_theirs_right": sum(theirs and not ours for theirs, ours in rated),
            "only_ours_right": sum(ours and not theirs for theirs, ours in rated),
        }
    return found


def _chance(items: Sequence[Item]) -> dict[str, Prediction]:
    """Answers of the right form, about a random video of the same size: who knows the game, and saw nothing."""
    answers = {}
    for item in items:
        instance, dimension, asked = _instance(item)
        # By its own name, so that an item's answer does not depend on which others are asked.
        rng = np.random.default_rng(zlib.crc32(item.key.encode()))
        answers[item.key] = _final(
            random_answer(rng, instance.demo, instance.size, len(instance.operations), dimension, asked)
        )
    return answers


def _still(items: Sequence[Item]) -> dict[str, Prediction]:
    """Answers of who saw the picture in which the state is shown and no operation, and thinks that there was none.

    Questions about operations to make are left unanswered.
    """
    answers = {}
    for item in items:
        instance, dimension, asked = _instance(item)
        if dimension == "prediction_operation":
            continue
        seen = dataclasses.replace(instance, states=(instance.at(instance.visible),), operations=())
        try:
            value = right_answer(seen, dimension, asked)
        except ImpossibleError:
            continue
        answers[item.key] = _final(FORMS[instance.demo, dimension].write(value))
    return answers


def _final(answer: str) -> Prediction:
    return Prediction(f"Final Answer: {answer}")


CONTROLS: Mapping[str, Control] = {"chance": _chance, "still": _still}


def make(folder: Path, *, seed: int = 0) -> None:
    """A folder of new videos and questions, as many as are published; more choices in `making.make`."""
    # Drawing and encoding are needed nowhere else here.
    from mmduplex_jax.evals.benchmarks.videoreasonbench.making import make as make_folder

    make_folder(folder, seed=seed)
