"""SoccerNet dense captioning (Mkhallati et al., 2023): what is said of halves of football matches, and when.

A caption and a prediction are moments; around each there is a window of 15 s before and 15 s after it, and the two are
a pair where windows overlap, that is, less than 30 s apart. Every pair is scored by its words; what is said of a half
is the mean over its pairs, and the benchmark's figures are means over halves. Rules:

* `unmatched_zero`: the official pairs. A prediction that is in no pair scores 0.
* `official`: SoccerNet/SoccerNet 6a393d4, `SoccerNet/Evaluation/DenseVideoCaptioning.py`, which compares such a
  prediction with 10 to 20 random letters instead. Here a seed decides them. They are no word of anybody's, so that
  this gives what `unmatched_zero` does.
* `one_to_one`: ours. Each caption and each prediction is in one pair at most, those that are best together, and what is
  left over on either side counts: the F1 of METEOR. By the others whoever says one sure thing a half leads.

`soda_c` stands beside all of them (Fujita et al., ECCV 2020; fujiso/SODA 9cb3e2c, `soda.py`, and the official script's
`evaluate_soda`): captions and predictions are paired in the order of time, one to one, so that the sum of METEOR times
the windows' IoU is greatest; over their numbers it is a precision and a recall, whose F1 it is.

A half's score is its METEOR, by which the challenge ranks. BLEU-4, ROUGE-L, CIDEr and METEOR are those of
`evals.captions`: METEOR matches equal words and stems, and is a mean over pairs, where the official Java program also
has synonyms and paraphrases and weighs pairs by length, so that it stands higher. Needs the extra `captions`.
"""

import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from mmduplex_jax.evals.benchmarks.json_files import as_object, list_of, parse_json, read_json, text_of, write_json
from mmduplex_jax.evals.benchmarks.protocol import (
    BenchmarkError,
    Control,
    Item,
    ItemScore,
    Prediction,
    TimedText,
    mean_of_draws,
    mean_score,
)
from mmduplex_jax.evals.captions import bleu_4, check_installed, cider, meteor, rouge_l, words_of
from mmduplex_jax.typing import Float

TITLE = "SoccerNet dense captioning: what is said of halves of football matches, and when"
RULES = ("unmatched_zero", "official", "one_to_one")

WINDOW_S = 30.0  # of a moment, half of it before
METRICS = ("meteor_exact_stem", "cider", "bleu_4", "rouge_l", "soda_c", "precision", "recall")

_LABELS, _RESULTS = "Labels-caption.json", "results_dense_captioning.json"
_VIDEOS = ("{half}_720p.mkv", "{half}_224p.mkv")
# Of version 2; the official script passes over everything else. Predictions are "comments".
_EVENTS = frozenset(
    ("corner", "substitution", "y-card", "whistle", "soccer-ball", "injury", "penalty", "yr-card", "r-card")
    + ("soccer-ball-own", "penalty-missed", "", "comments")
)
_OURS = "comments"
_GAME_TIME = re.compile(r"(\d+) - (\d+):(\d\d)")
# A reference that no words can be: `words_of` never gives it.
_NOTHING = ("<nothing>",)
# How long a half is, for who talks without looking.
_HALF_S = 45 * 60

# A fact of a prediction: how many of its entries are of no event, and are passed over.
_PASSED_OVER = "passed_over"


class _Moment(NamedTuple):
    """Something that is said, and when, in whole seconds of its half."""

    t_s: int
    text: str


def load_items(root: Path) -> list[Item]:
    """Both halves of every match of a folder: `LEAGUE/SEASON/GAME/Labels-caption.json`, `1_720p.mkv` or `1_224p.mkv`.

    Raises:
      BenchmarkError: there are no labels, they cannot be read, or those of a match have no caption.
    """
    files = sorted(root.glob(f"*/*/*/{_LABELS}"))
    if not files:
        raise BenchmarkError(
            f"{root}: there is no LEAGUE/SEASON/GAME/{_LABELS}; the package SoccerNet downloads them (caption-2023)"
        )
    return [_item(file, half, captions) for file in files for half, captions in _labels(file).items()]


def _item(file: Path, half: int, captions: Sequence[_Moment]) -> Item:
    league, season, game = file.parent.parts[-3:]
    video = next((video for name in _VIDEOS if (video := file.with_name(name.format(half=half))).is_file()), None)
    named = f"{league}/{season}/{game}"
    return Item(
        f"{named}/{half}",
        video,
        groups={"league": league, "half": str(half)},
        facts={"game": named, "half": half, "captions": [list(caption) for caption in captions]},
    )


def _labels(file: Path) -> dict[int, list[_Moment]]:
    found: dict[int, list[_Moment]] = {1: [], 2: []}
    for number, value in enumerate(list_of(as_object(read_json(file), str(file)), "annotations", str(file))):
        place = f"{file}, annotation {number}"
        row = as_object(value, place)
        half, t_s = _game_time(row, place)
        if text_of(row, "label", place) in _EVENTS and half in found:
            found[half].append(_Moment(t_s, text_of(row, "anonymized", place)))
    if not any(found.values()):
        raise BenchmarkError(
            f"{file}: has no caption of either half: download it again (caption-2023), or remove the match's folder"
        )
    return {half: sorted(captions, key=lambda caption: caption.t_s) for half, captions in found.items()}


def _game_time(row: Mapping[str, Any], place: str) -> tuple[int, int]:
    """The half, and seconds in it, of "1 - 12:34"."""
    text = text_of(row, "gameTime", place)
    found = _GAME_TIME.fullmatch(text)
    if not found:
        raise BenchmarkError(f"{place}: 'gameTime' must be like '1 - 12:34', it is {text!r}")
    half, minutes, seconds = map(int, found.groups())
    return half, 60 * minutes + seconds


# Prediction files.


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """What stands in `LEAGUE/SEASON/GAME/results_dense_captioning.json` of a folder or a zip, or in one such file.

    Of a match that has a file, a half of which there is nothing was silent.

    Raises:
      BenchmarkError: a file cannot be read, or is of a match that the items do not have.
    """
    by_key = {item.key: item for item in items}
    found: dict[str, Prediction] = {}
    for named, place, value in _result_files(path):
        results = as_object(value, place)
        game = str(results.get("UrlLocal") or named).replace("\\", "/").strip("/")
        keys = {half: f"{game}/{half}" for half in (1, 2)}
        if not any(key in by_key for key in keys.values()):
            raise BenchmarkError(f"{place}: there is no match {game!r}")
        if any(key in found for key in keys.values()):
            raise BenchmarkError(f"{place}: match {game!r} has another file")
        said: dict[int, list[TimedText]] = {1: [], 2: []}
        passed_over = Counter[int]()
        for number, entry in enumerate(list_of(results, "predictions", place)):
            here = f"{place}, prediction {number}"
            row = as_object(entry, here)
            half, t_s = _game_time(row, here)
            if text_of(row, "label", here) in _EVENTS and half in said:
                said[half].append(TimedText(float(t_s), text_of(row, "comment", here)))
            else:
                passed_over[min(half, 2)] += 1
        for half, key in keys.items():
            if key in by_key:
                facts = {_PASSED_OVER: passed_over[half]} if passed_over[half] else {}
                found[key] = Prediction(said=tuple(sorted(said[half], key=lambda one: one.start_s)), facts=facts)
    return found


def _result_files(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Of every file the match that its folder is of, where it stands, and what it holds."""
    if path.is_dir():
        files = sorted(path.glob(f"*/*/*/{_RESULTS}"))
        if not files:
            raise BenchmarkError(f"{path}: there is no LEAGUE/SEASON/GAME/{_RESULTS}")
        yield from ((file.parent.relative_to(path).as_posix(), str(file), read_json(file)) for file in files)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = [name for name in sorted(archive.namelist()) if PurePosixPath(name).name == _RESULTS]
            if not names:
                raise BenchmarkError(f"{path}: there is no LEAGUE/SEASON/GAME/{_RESULTS} in it")
            for name in names:
                place = f"{path}:{name}"
                try:
                    text = archive.read(name).decode("utf-8-sig")
                except UnicodeDecodeError as error:
                    raise BenchmarkError(f"{place}: not UTF-8 text ({error.reason})") from error
                yield "/".join(PurePosixPath(name).parts[-4:-1]), place, parse_json(text, place)
    elif path.suffix.lower() == ".zip" and path.is_file():
        raise BenchmarkError(f"{path}: is no zip that can be read, perhaps half of one: write or download it anew")
    else:
        yield path.parent.name, str(path), read_json(path)


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """Writes `LEAGUE/SEASON/GAME/results_dense_captioning.json` into a folder, as the official script reads them."""
    games: dict[str, list[dict[str, str]]] = {}
    for item in items:
        if item.key in predictions:
            entries = games.setdefault(item.facts["game"], [])
            for one in predictions[item.key].said:
                minutes, seconds = divmod(int(one.start_s), 60)
                entries.append(
                    {
                        "gameTime": f"{item.facts['half']} - {minutes}:{seconds:02d}",
                        "label": _OURS,
                        "position": str(round(1000 * one.start_s)),
                        "half": str(item.facts["half"]),
                        "confidence": "1.0",
                        "comment": one.text.strip(),
                    }
                )
    for game, entries in games.items():
        write_json(path / game / _RESULTS, {"UrlLocal": game, "predictions": entries})


# Rules.


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """METEOR of every half by the rule, and in `shown` all of METRICS; a half without a caption is left out.

    Raises:
      evals.captions.MetricsMissing: the extra `captions` is not installed.
    """
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown, choose one of {', '.join(RULES)}")
    check_installed()
    return [_score(item, predictions.get(item.key, Prediction()), rule, number) for number, item in enumerate(items)]


def _score(item: Item, prediction: Prediction, rule: str, seed: int) -> ItemScore:
    captions = [_Moment(*caption) for caption in item.facts["captions"]]
    # The files have whole seconds.
    said = [_Moment(int(one.start_s), one.text) for one in prediction.said if one.text.strip()]
    said.sort(key=lambda one: one.t_s)
    counts = {"captions": len(captions), "predictions": len(said)}
    if not captions:
        return ItemScore(item.key, None, item.groups, shown=counts)
    pairs = [
        (here, there)
        for here, one in enumerate(said)
        for there, caption in enumerate(captions)
        if abs(one.t_s - caption.t_s) < WINDOW_S
    ]
    figures = dict.fromkeys(METRICS, 0.0)
    if said:
        alike = np.zeros((len(said), len(captions)))  # METEOR
        for here, there in pairs:
            alike[here, there] = meteor(words_of(said[here].text), [words_of(captions[there].text)])
        figures = _word_scores(said, captions, pairs, rule, seed) | {
            "soda_c": soda_c(alike * _overlaps(said, captions)),
            "precision": len({here for here, _ in pairs}) / len(said),
            "recall": len({there for _, there in pairs}) / len(captions),
        }
    value = figures["meteor_exact_stem"]
    if rule == "one_to_one":
        value = figures["meteor_f1"] = _one_to_one(alike) if said else 0.0
    return ItemScore(item.key, value, item.groups, shown={**counts, **figures})


def _word_scores(
    said: Sequence[_Moment], captions: Sequence[_Moment], pairs: Sequence[tuple[int, int]], rule: str, seed: int
) -> dict[str, float]:
    """Of all pairs, and of what is in none against nothing."""
    matched = {here for here, _ in pairs}
    draw = np.random.default_rng([0, seed])
    candidates = [words_of(said[here].text) for here, _ in pairs]
    references = [[words_of(captions[there].text)] for _, there in pairs]
    for here, one in enumerate(said):
        if here not in matched:
            candidates.append(words_of(one.text))
            references.append([_random_word(draw) if rule == "official" else list(_NOTHING)])
    mean = lambda values: float(np.mean(values))
    together = list(zip(candidates, references))
    return {
        "meteor_exact_stem": mean([meteor(words, right) for words, right in together]),
        # Of a single pair no word is rare, and the COCO caption server's CIDEr is 0.
        "cider": mean(cider(candidates, references)) if len(candidates) > 1 else 0.0,
        "bleu_4": bleu_4(candidates, references),
        "rouge_l": mean([rouge_l(words, right) for words, right in together]),
    }


def _random_word(draw: np.random.Generator) -> list[str]:
    return ["".join(draw.choice(list("abcdefghijklmnopqrstuvwxyz"), size=draw.integers(10, 21)))]


def _one_to_one(alike: Float[np.ndarray, "N M"]) -> float:
    """F1 of METEOR over the pairs of predictions and captions that are best together, each in one at most."""
    total = float(alike[linear_sum_assignment(alike, maximize=True)].sum())
    return 2 * total / sum(alike.shape)


def _overlaps(said: Sequence[_Moment], captions: Sequence[_Moment]) -> Float[np.ndarray, "N M"]:
    """Intersection over union of the windows around two moments."""
    apart_s = np.abs(np.subtract.outer([one.t_s for one in said], [one.t_s for one in captions]))
    return np.maximum(0.0, WINDOW_S - apart_s) / (WINDOW_S + apart_s)


def soda_c(worth: Float[np.ndarray, "N M"]) -> float:
    """SODA_c's F1 of N predictions and M captions, both in the order of time; see the module's docstring.

    Args:
      worth: of each pair METEOR times IoU.
    """
    # The greatest sum of the predictions so far with the first 0 to M captions: without this caption, with this
    # prediction's pair, or without this prediction.
    best = np.zeros(worth.shape[1] + 1)
    for of_one in worth:
        best[1:] = np.maximum(best[1:], best[:-1] + of_one)
        best = np.maximum.accumulate(best)
    return 2 * float(best[-1]) / sum(worth.shape)


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """The mean over halves, from 0 to 1."""
    return mean_score(scores)


aggregate_draws = mean_of_draws


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """Means over halves of METRICS (CIDEr from 0 to 10, the others to 1), and how much was said."""
    scored = [one.shown for one in scores if one.value is not None]
    total = lambda name: sum(shown[name] for shown in scored)
    return {
        **{name: float(np.mean([shown[name] for shown in scored])) if scored else None for name in METRICS},
        "captions": total("captions"),
        "predictions": total("predictions"),
        _PASSED_OVER: sum(
            predictions[item.key].facts.get(_PASSED_OVER, 0) for item in items if item.key in predictions
        ),
    }


# Who sees no video, but knows what is said of other matches.


def _silent(items: Sequence[Item]) -> dict[str, Prediction]:
    return {item.key: Prediction() for item in items}


def _another_match(items: Sequence[Item]) -> dict[str, Prediction]:
    """What is said of the same half of the next match, at its times; nothing where there is one match."""
    following = zip(items, [*items[2:], *items[:2]])
    return {
        item.key: _said(other.facts["captions"] if other.facts["game"] != item.facts["game"] else [])
        for item, other in following
    }


def _every_30_s(items: Sequence[Item]) -> dict[str, Prediction]:
    """The caption that is most frequent in other halves, again and again."""
    return {
        item.key: _said([(t_s, text) for t_s in range(15, _HALF_S, 30)] if (text := _frequent(items, item)) else [])
        for item in items
    }


def _kick_off(items: Sequence[Item]) -> dict[str, Prediction]:
    """What is most often said first in the same half of other matches, when they begin; and nothing else."""
    return {item.key: _said([(0, text)] if (text := _frequent(items, item, first=True)) else []) for item in items}


def _frequent(items: Sequence[Item], but: Item, first: bool = False) -> str | None:
    """The most frequent caption of others; of those that come as often the first of the alphabet."""
    others = [
        item.facts["captions"]
        for item in items
        if item.facts["game"] != but.facts["game"] and (not first or item.facts["half"] == but.facts["half"])
    ]
    counts = Counter(text for captions in others for _, text in (captions[:1] if first else captions))
    return min(counts, key=lambda text: (-counts[text], text), default=None)


def _said(captions: Sequence[Sequence[Any]]) -> Prediction:
    return Prediction(said=tuple(TimedText(float(t_s), text) for t_s, text in captions))


CONTROLS: Mapping[str, Control] = {
    "silent": _silent,
    "another_match": _another_match,
    "every_30_s": _every_30_s,
    "kick_off": _kick_off,
}
