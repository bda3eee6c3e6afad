"""Commentary in time: any timed commentary against a reference, by TRACE and what stands beside it.

Items are the reference files of a folder (or a ground-truth file of TGLG), predictions are files of the same names.
The one number is TRACE; `figures` has all other metrics, and what speakers of known worth get on the same reference.
"""

import csv
import dataclasses
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.schema import Word
from data_pipelines.words import parse_json, with_sentence_ends
from mmduplex_jax.evals.benchmarks.json_files import read_text
from mmduplex_jax.evals.benchmarks.protocol import BenchmarkError, Control, Item, ItemScore, Prediction, TimedText
from mmduplex_jax.evals.report import aligned
from mmduplex_jax.evals.timing.files import (
    CommentaryError,
    commentary_files,
    entries_of,
    read_commentary,
    utterances_of,
    write_commentary,
)
from mmduplex_jax.evals.timing.scores import timing_rows, timing_scores
from mmduplex_jax.evals.timing.similarity import Similarity, encoder_similarity, lexical_similarity
from mmduplex_jax.evals.timing.speakers import SPEAKERS, speakers
from mmduplex_jax.evals.timing.trace import TraceSums, trace_scores, trace_sums
from mmduplex_jax.evals.timing.utterances import Commentary, Utterance, cut_words
from mmduplex_jax.typing import Float

TITLE = "commentary in time: any subtitles against a reference (TRACE, PAUC, StreamLAAL, TimeDiff, pace)"
# By how texts are compared in TRACE: by their words, or by the sentence encoder of the paper, which must be installed.
RULES = ("lexical", "official")
_VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi")


def load_items(root: Path) -> list[Item]:
    """A reference file an item: a folder of `.vtt`, `.srt` and `.json`, one such file, or a ground truth of TGLG.

    (That is one JSON object: of each video, a list of utterances with `content`, `start`, `end` and `eval`.) A video
    that lies beside a file, with the same name, is the item's.

    Raises:
      BenchmarkError: it is none of these, a file cannot be read, or nothing is said in any of them.
    """
    references: dict[str, list[Utterance]] = {}
    try:
        if root.is_dir():
            references = {key: read_commentary(path) for key, path in commentary_files(root).items()}
        elif (videos := _ground_truth(root)) is not None:
            references = {key: utterances_of(entries, f"{root}: {key}") for key, entries in videos.items()}
        else:
            references = {root.stem: read_commentary(root)}
    except (CommentaryError, OSError) as error:
        raise BenchmarkError(f"no reference for commentary in time: {error}") from error
    if not any(references.values()):
        raise BenchmarkError(f"{root}: nothing is said in it, so that nothing can be compared with it")
    folder = root if root.is_dir() else root.parent
    return [
        Item(
            key,
            next((path for suffix in _VIDEOS if (path := folder / f"{key}{suffix}").is_file()), None),
            duration_s=max((one.end_s for one in reference), default=0.0),
            facts={"reference": entries_of(reference)},
        )
        for key, reference in references.items()
    ]


def _ground_truth(root: Path) -> dict[str, list[Any]] | None:
    """The lists of a ground truth of TGLG, by video; None of another file."""
    if root.suffix.lower() != ".json":
        return None
    try:
        content = parse_json(root.read_bytes())
    except ValueError as error:
        raise CommentaryError(f"{root}:{getattr(error, 'lineno', 1)}: is no JSON: {error}") from error
    if not isinstance(content, dict) or not content or {"segments", "words"} & content.keys():
        return None
    return content if all(isinstance(entries, list) for entries in content.values()) else None


def read_predictions(path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
    """What was said: a folder with a file an item, of its name; one file where there is one item; or TGLG's results.

    (These are a `.csv` with the columns `video_id`, `content` and `start`, an utterance a row.)

    Raises:
      BenchmarkError: a file names no item, or cannot be read; or captions hold no word.
    """
    known, files = {item.key for item in items}, [path]
    try:
        if path.suffix.lower() == ".csv":
            said = _inference_results(path)
        elif path.is_dir():
            named = commentary_files(path)
            said, files = {key: read_commentary(file) for key, file in named.items()}, list(named.values())
        elif len(items) == 1:
            said = {items[0].key: read_commentary(path)}
        else:
            raise BenchmarkError(f"{path}: is one file, and there are {len(items)} references: give a folder of files")
    except (CommentaryError, OSError) as error:
        raise BenchmarkError(f"no predictions for commentary in time: {error}") from error
    if unknown := sorted(said.keys() - known):
        raise BenchmarkError(f"{path}: {unknown[0]!r} has no reference ({len(unknown)} such); remove or rename it")
    # (A JSON list that is empty is how `write_predictions` says that nothing was said.)
    if not any(said.values()) and any(file.suffix.lower() != ".json" for file in files):
        raise BenchmarkError(f"{path}: nothing is said in it; what silence earns is --control=silent")
    return {key: prediction_of(commentary) for key, commentary in said.items()}


def _inference_results(path: Path) -> dict[str, list[Utterance]]:
    """Rows of TGLG's `run_inference.py` (scripts/eval.py reads them), by video."""
    entries: dict[str, list[Any]] = {}
    with io.StringIO(read_text(path), newline="") as file:
        rows = csv.DictReader(file)
        columns = set(rows.fieldnames or ())
        if not (columns & {"video_id", "video"} and columns >= {"content", "start"}):
            raise CommentaryError(f"{path}:1: the columns video_id (or video), content and start are expected")
        for row in rows:
            where = f"{path}:{rows.line_num}"
            key = row.get("video_id") or row.get("video")
            if not key:
                raise CommentaryError(f"{where}: the column video_id (or video) is missing or empty")
            try:
                start_s = float(row.get("start") or "")
            except ValueError as error:
                raise CommentaryError(f"{where}: the column start should be seconds: {row.get('start')!r}") from error
            # Models that fall silent in the middle of a turn leave empty rows behind.
            entries.setdefault(key, []).append({"start": start_s, "content": row.get("content")})
    return {key: utterances_of(rows_of, f"{path}: {key}") for key, rows_of in entries.items()}


def prediction_of(commentary: Commentary) -> Prediction:
    """Utterances as a prediction: `said` are words, and its facts say how many of them each utterance has."""
    judged = [one.judged for one in commentary]
    return Prediction(
        said=tuple(TimedText(word.start_s, word.text, word.end_s) for one in commentary for word in one.words),
        facts={"words_each": [len(one.words) for one in commentary]}
        | ({"judged": judged} if any(score is not None for score in judged) else {}),
    )


def commentary_of(prediction: Prediction) -> list[Utterance]:
    """The utterances of a prediction; where its facts do not tell, words are cut at sentences' ends and pauses."""
    words = [Word(text, one.start_s, one.end_s) for one in prediction.said for text in [one.text.strip()] if text]
    each = prediction.facts.get("words_each")
    if each is None:
        return cut_words(with_sentence_ends(sorted(words, key=lambda word: word.start_s)))
    judged = prediction.facts.get("judged", [None] * len(each))
    ends = list(itertools.accumulate(each))
    return [
        Utterance(tuple(words[end - number : end]), score)
        for number, end, score in zip(each, ends, judged, strict=True)
    ]


def write_predictions(path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
    """A folder with a JSON list of utterances an item, which `read_predictions` reads."""
    path.mkdir(parents=True, exist_ok=True)
    for item in items:
        if item.key in predictions:
            write_commentary(path / f"{item.key}.json", commentary_of(predictions[item.key]))


def score(items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
    """TRACE of every item by itself; one in which nothing should be said is left out, silence is 0."""
    similarity = _similarity(rule)
    scores = []
    for item, said, reference in zip(items, *_heard(items, predictions)):
        sums = trace_sums(said, reference, similarity)
        value = trace_scores([sums])["score"] if reference else None
        scores.append(ItemScore(item.key, value, item.groups, shown=dataclasses.asdict(sums)))
    return scores


def aggregate(scores: Sequence[ItemScore], rule: str) -> float | None:
    """TRACE over all items together: each utterance has the same weight, as in TGLG's scripts/eval.py."""
    scored = [one for one in scores if one.value is not None]
    return trace_scores([TraceSums(**one.shown) for one in scored])["score"] if scored else None


def aggregate_draws(scores: Sequence[ItemScore], counts: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
    """See `Benchmark.aggregate_draws`."""
    names = [field.name for field in dataclasses.fields(TraceSums)]
    scored = np.array([one.value is not None for one in scores], float)
    sums = np.array([[one.shown[name] for name in names] for one in scores], float) * scored[:, None]
    drawn = [
        trace_scores([TraceSums(*row)])["score"] if any_scored else None
        for row, any_scored in zip((counts @ sums).tolist(), counts @ scored)
    ]
    return np.array(drawn, float)  # None is NaN


def figures(
    items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
) -> dict[str, Any]:
    """All timing metrics under `timing`, and under `speakers` the same of each speaker of known worth."""
    said, reference = _heard(items, predictions)
    return _all_scores(said, reference, _similarity(rule))


def score_files(said: Path, reference: Path, rule: str = RULES[0]) -> dict[str, Any]:
    """Scores of a file of commentary against a reference, or of a folder against a folder.

    Args:
      said: `.vtt`, `.srt` or `.json`, or a folder.
      reference: likewise; in folders names say what belongs together, and what has no file was not said.
      rule: one of `RULES`.

    Returns:
      `score` (TRACE), `rule`, `items`, and what `figures` gives.

    Raises:
      BenchmarkError: a file cannot be read, or names no reference.
      ValueError: no such rule, or its package is missing.
    """
    items = load_items(reference)
    predictions = read_predictions(said, items)
    scores = score(items, predictions, rule)
    return {
        "score": aggregate(scores, rule),
        "rule": rule,
        "items": len(items),
        **figures(items, predictions, scores, rule),
    }


def format_scores(report: Mapping[str, Any]) -> str:
    """What `score_files` gives, as a table: the commentary beside the speakers of known worth."""
    columns = {"said": report["timing"], **report["speakers"]}
    head = f"TRACE {'-' if report['score'] is None else format(report['score'], '.3f')}; rule: {report['rule']}"
    return "\n".join([head, "", aligned(timing_rows(columns))])


def _all_scores(said: Sequence[Commentary], reference: Sequence[Commentary], similarity: Similarity) -> dict[str, Any]:
    own = _durations_s(reference, reference)
    known = {
        name: timing_scores(spoken, reference, _durations_s(spoken, reference), similarity)
        for name, spoken in speakers(reference, own).items()
    }
    return {"timing": timing_scores(said, reference, _durations_s(said, reference), similarity), "speakers": known}


def _durations_s(said: Sequence[Commentary], reference: Sequence[Commentary]) -> list[float]:
    """How long each video is, as far as its commentary tells: until the last word, of whomever."""
    return [
        max((one.end_s for one in (*mine, *theirs)), default=0.0) for mine, theirs in zip(said, reference, strict=True)
    ]


def _heard(items: Sequence[Item], predictions: Mapping[str, Prediction]) -> tuple[list[Commentary], list[Commentary]]:
    """Of each item, what was said and what should have been."""
    said: list[Commentary] = [commentary_of(predictions[item.key]) if item.key in predictions else () for item in items]
    return said, [utterances_of(item.facts["reference"], item.key) for item in items]


def _similarity(rule: str) -> Similarity:
    if rule not in RULES:
        raise ValueError(f"texts are compared by one of the rules {', '.join(RULES)}, not {rule!r}")
    return lexical_similarity if rule == "lexical" else encoder_similarity()


def _control(name: str) -> Control:
    def control(items: Sequence[Item]) -> dict[str, Prediction]:
        reference = [utterances_of(item.facts["reference"], item.key) for item in items]
        said = speakers(reference, _durations_s(reference, reference))[name]
        return {item.key: prediction_of(spoken) for item, spoken in zip(items, said)}

    return control


CONTROLS: Mapping[str, Control] = {name: _control(name) for name in SPEAKERS}
