"""LiveSports-3K, track CC (Chen et al., 2025, arXiv 2504.16030): live commentary of 1,702 events, against a baseline's.

A language model was shown two commentaries and what the human commentator said (never any times), and named the better
one, in both orders. Here its verdicts are read from logs; no model is called. Rules:

* `official`: showlab/livecc fdaa91e, `evaluation/livesports3kcc/llm_judge.py`. The share of both orders' verdicts that
  the model wins; a tie is no win.
* `consistent`: ours. Only events of which both orders say the same count. A judge who prefers whatever stands first
  gives everybody 50 % by the official rule, and nothing by this one.

`figures` shows what the official rule hides: how often the model wins as A and as B, the judge's bias towards A, and
how often the two orders agree.
"""

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmduplex_jax.evals.benchmarks.json_files import (
    as_list,
    as_object,
    check_finite,
    number_of,
    parse_json,
    path_of,
    read_json_lines,
    read_text,
    text_of,
)
from mmduplex_jax.evals.benchmarks.protocol import (
    BenchmarkError,
    Control,
    Item,
    ItemScore,
    Prediction,
    mean_of_draws,
    mean_score,
)

TITLE = "LiveSports-3K-CC: live commentary of sports events, compared with a baseline's by a judge's logs"
RULES = ("official", "consistent")

# What the official judge compares with; a log's other name is the model's.
BASELINE = "GPT-4o"
TIE = "tie"
# In the order in which they are looked for: with the human commentary of all events, or of the 202 of `val` alone.
_EVENTS = (("LiveSports-3K-CC.json",), ("LiveSports-3K-CC-val.csv", "LiveSports-3K-CC-test.csv"))

# A prediction's facts: who won where the model's commentary stood first, and where it stood second, as "model",
# "baseline" or "tie"; and what the log calls the model.
_FIRST, _SECOND, _NAME = "ab_winner", "ba_winner", "model"
_MODEL, _OTHER = "model", "baseline"


def load_items(root: Path) -> list[Item]:
    """The events of a folder with the data set's files, or, where only predictions are scored, of a captions' file.

    Args:
      root: holds `LiveSports-3K-CC.json`, or `LiveSports-3K-CC-val.csv` and `-test.csv`, and the videos where there are
        any; or is a `.jsonl` file of anybody's captions, which says which events there are.

    Raises:
      BenchmarkError: there is no such file, or an event cannot be read.
    """
    items: dict[str, Item] = {}
    for place, row in _events(root):
        item = _event(row, root, place)
        if item.key in items:
            raise BenchmarkError(f"{place}: event {item.key} is not the only one")
        items[item.key] = item
    return list(items.values())


def _events(root: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    if root.suffix == ".jsonl":
        yield from read_json_lines(root)
        return
    there = next((names for names in _EVENTS if any((root / name).is_file() for name in names)), None)
    if there is None:
        raise BenchmarkError(
            f"{root}: there is no {_EVENTS[0][0]}, nor {' or '.join(_EVENTS[1])}; "
            "they are in stdKonjac/LiveSports-3K on "
            "Hugging Face. To score judges' logs alone, give a .jsonl file of captions instead of a folder"
        )
    for path in (root / name for name in there if (root / name).is_file()):
        if path.suffix == ".csv":
            for number, row in enumerate(csv.DictReader(read_text(path).splitlines(keepends=True)), start=1):
                yield f"{path}, event {number}", row
        elif read_text(path).lstrip().startswith("["):
            for number, value in enumerate(as_list(parse_json(read_text(path), str(path)), str(path))):
                yield f"{path}, event {number}", as_object(value, f"{path}, event {number}")
        else:
            yield from read_json_lines(path)


def _event(row: Mapping[str, Any], root: Path, place: str) -> Item:
    begin_s, end_s = number_of(row, "begin", place), number_of(row, "end", place)
    if not 0 <= begin_s < end_s:
        raise BenchmarkError(f"{place}: it begins at {begin_s} s and ends at {end_s} s")
    video = path_of(root, row, "video", place) if "video" in row else None
    told = ("event_title", "preasr_text", "event_asr_text")
    return Item(
        _key_of(row, place),
        video if video is not None and video.is_file() else None,
        begin_s=begin_s,
        listens_until_s=end_s,
        groups={"class": str(row["class"])} if row.get("class") else {},
        facts={
            "video_id": text_of(row, "video_id", place),
            "event_id": row["event_id"],
            "begin": begin_s,
            "end": end_s,
            **{name: str(row[name]) for name in told if row.get(name)},
        },
    )


def _key_of(row: Mapping[str, Any], place: str) -> str:
    """As the judges' logs name an event: "VIDEO_3"."""
    if not isinstance(row.get("event_id"), int | str):
        raise BenchmarkError(f"{place}: 'event_id' must be a number, it is {row.get('event_id')!r}")
    return f"{text_of(row, 'video_id', place)}_{row['event_id']}"


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """Captions, a judge's log, or both: a `.jsonl` file of either kind, or a folder with one of each.

    Lines of captions are `{"video_id", "event_id", "begin", "end", "pred"}`, those of a log `{"video_event_id",
    "ab_winner", "ba_winner"}`, with the model's name or the baseline's, or "tie".

    Raises:
      BenchmarkError: a line cannot be read, holds NaN, names no event or one that another line names; a file has no
        line; or a log is not of one model against the baseline.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BenchmarkError(f"{path}: there is no .jsonl file in it")
    keys = {item.key for item in items}
    captions: dict[str, str] = {}
    verdicts: dict[str, tuple[str, dict[str, str]]] = {}
    for file in files:
        rows = list(read_json_lines(file))
        if not rows:
            raise BenchmarkError(f"{file}: is empty: a line a caption or verdict is expected")
        for place, row in rows:
            check_finite(row, place)
            judged = "video_event_id" in row
            key = text_of(row, "video_event_id", place) if judged else _key_of(row, place)
            if key not in keys:
                raise BenchmarkError(f"{place}: there is no event {key}")
            if key in (verdicts if judged else captions):
                what = "verdict" if judged else "caption"
                raise BenchmarkError(f"{place}: event {key} has another {what}; give those of one model")
            if judged:
                verdicts[key] = place, {name: text_of(row, name, place) for name in (_FIRST, _SECOND)}
            else:
                captions[key] = text_of(row, "pred", place)
    names = _sides(verdicts)
    return {
        key: Prediction(captions.get(key, ""), facts=_facts_of(verdicts[key][1], names) if key in verdicts else {})
        for key in (item.key for item in items if item.key in captions or item.key in verdicts)
    }


def _sides(verdicts: Mapping[str, tuple[str, Mapping[str, str]]]) -> dict[str, str]:
    """Of every name in a log whose it is."""
    sides = {BASELINE: _OTHER, TIE: TIE}
    model: str | None = None
    for place, winners in verdicts.values():
        for name in winners.values():
            if name not in sides and model is not None:
                raise BenchmarkError(f"{place}: {name!r} wins, and {model!r} did before: give the log of one model")
            if name not in sides:
                model, sides[name] = name, _MODEL
    return sides


def _facts_of(winners: Mapping[str, str], sides: Mapping[str, str]) -> dict[str, str]:
    model = next((name for name, side in sides.items() if side == _MODEL), None)
    return {**{name: sides[winner] for name, winner in winners.items()}, **({_NAME: model} if model else {})}


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """Writes captions as the official judge reads them: a `.jsonl` file, in which a silent model has empty ones.

    Verdicts are not written: they are the judge's.
    """
    rows = []
    for item in items:
        if item.key in predictions:
            prediction = predictions[item.key]
            said = prediction.text or " ".join(one.text.strip() for one in prediction.said)
            event = {name: item.facts[name] for name in ("video_id", "event_id", "begin", "end")}
            rows.append(json.dumps({**event, "pred": said}) + "\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(rows), encoding="utf-8")


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """The share of an event's two verdicts that the model wins.

    An event without a prediction, or with an empty one that nobody judged, is lost. One that nobody judged is left out.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown, choose one of {', '.join(RULES)}")
    return [_score(item, predictions.get(item.key), rule) for item in items]


def _score(item: Item, prediction: Prediction | None, rule: str) -> ItemScore:
    said = "" if prediction is None else prediction.text or " ".join(one.text for one in prediction.said)
    human = {"human": item.facts["event_asr_text"]} if "event_asr_text" in item.facts else {}
    shown = {"said": said, **human}
    if prediction is None or not _is_judged(prediction):
        return ItemScore(item.key, None if said.strip() else 0.0, item.groups, shown=shown)
    first, second = prediction.facts[_FIRST], prediction.facts[_SECOND]
    value: float | None = ((first == _MODEL) + (second == _MODEL)) / 2
    if rule == "consistent" and first != second:
        value = None
    return ItemScore(item.key, value, item.groups, shown={**shown, "as A": first, "as B": second})


def _is_judged(prediction: Prediction) -> bool:
    return _FIRST in prediction.facts and _SECOND in prediction.facts


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """The model's win rate, from 0 to 1."""
    return mean_score(scores)


aggregate_draws = mean_of_draws


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """What the judge did: win rates by order, the bias towards whoever stands first, and how often orders agree."""
    asked = {item.key for item in items}
    judged = [one.facts for key, one in predictions.items() if key in asked and _is_judged(one)]
    if not judged:
        return {"judged": 0}
    share = lambda name, side: float(np.mean([facts[name] == side for facts in judged]))
    # As A the model stands first; as B the baseline does.
    firsts = share(_FIRST, _MODEL) + share(_SECOND, _OTHER)
    return {
        "model": next((facts[_NAME] for facts in judged if _NAME in facts), None),
        "judged": len(judged),
        "win_rate_as_a": share(_FIRST, _MODEL),
        "win_rate_as_b": share(_SECOND, _MODEL),
        "position_bias": share(_FIRST, _MODEL) - share(_SECOND, _MODEL),
        "first_wins": firsts / 2,
        "consistent": float(np.mean([facts[_FIRST] == facts[_SECOND] for facts in judged])),
        "ties": (share(_FIRST, TIE) + share(_SECOND, TIE)) / 2,
    }


# Who sees no video. Verdicts of theirs are made up: they show what the rule makes of a judge who does not read.


def _silent(items: Sequence[Item]) -> dict[str, Prediction]:
    return {item.key: Prediction() for item in items}


def _coin(items: Sequence[Item]) -> dict[str, Prediction]:
    """A judge who throws a coin for each order."""
    draws = np.random.default_rng(0).integers(2, size=(len(items), 2))
    sides = (_MODEL, _OTHER)
    return {
        item.key: Prediction("…", facts={_FIRST: sides[first], _SECOND: sides[second]})
        for item, (first, second) in zip(items, draws)
    }


def _first_wins(items: Sequence[Item]) -> dict[str, Prediction]:
    """A judge who prefers whatever stands first."""
    return {item.key: Prediction("…", facts={_FIRST: _MODEL, _SECOND: _OTHER}) for item in items}


CONTROLS: Mapping[str, Control] = {"silent": _silent, "coin": _coin, "first_wins": _first_wins}
