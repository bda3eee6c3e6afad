"""What a benchmark is: items that it asks about, predictions in its own published format, and a rule that scores them.

Nothing is random but what a seed decides, nothing is evaluated as code, and an answer that cannot be read counts as
wrong and is counted.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

OVERALL = "overall"
# Facts of a prediction that every report counts: why a model could not be asked, and how many words of the subtitles
# did not reach it, since its vocabulary lacks them.
UNANSWERABLE, WORDS_LEFT_OUT = "unanswerable", "subtitle_words_left_out"
# A fact of a prediction that is no answer since the video could not be read; it may be mended or downloaded again.
UNREADABLE_VIDEO = "unreadable_video"
# Facts of a choice: the options' mean log-likelihoods a token or slot, of who saw the video and of who saw none.
SCORES, SCORES_UNSEEN = "scores", "scores_unseen"
_RESAMPLES, _LEVEL = 1000, 0.95
_DRAWN_AT_ONCE = 1 << 21


class BenchmarkError(ValueError):
    """A benchmark's files, or somebody's predictions, cannot be read; says which file and line, and what to do."""


class UnanswerableError(ValueError):
    """A model cannot be asked an item, such as for a word that its vocabulary lacks; counted, and scored as wrong."""


class UnreadableVideoError(UnanswerableError):
    """A model cannot be asked an item, since its video cannot be read; a run that goes on asks it again."""


@dataclasses.dataclass(frozen=True)
class Subtitle:
    """A line of speech that belongs to a video, in seconds from the video's begin."""

    start_s: float
    end_s: float
    text: str


@dataclasses.dataclass(frozen=True)
class Item:
    """One thing that a benchmark asks: a question about a video, or a video to be commented.

    Attributes:
      key: names it among all of the benchmark; what is kept of an interrupted run is found by it.
      video: the file; None where there is none (predictions can be scored without videos).
      question: as the model is asked; "" where a video is only to be commented.
      options: texts of the answers to choose from, without their letters; () for an open answer.
      choices: what stands in the prediction files for each option; () for their letters (see `written_choice`).
      begin_s: from where the video is watched, in seconds of the video.
      asked_s: when it is asked, in seconds of the video; None: when the video is over.
      listens_until_s: where nobody waits for an answer: what is said on its own (`Prediction.said`) after the question
        and up to here, in seconds of the video, is the answer; the video is watched up to here. None: the answer is
        asked for, and a video that is only to be commented is watched to its end.
      duration_s: of the video, None where the benchmark does not say.
      groups: what its score is also counted under, by the name of the grouping: {"duration": "15", "category": "S2E"}.
      subtitles: in the order of time.
      facts: whatever else the benchmark's rule needs, as JSON values.
    """

    key: str
    video: Path | None
    question: str = ""
    options: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    begin_s: float = 0.0
    asked_s: float | None = None
    listens_until_s: float | None = None
    duration_s: float | None = None
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    subtitles: tuple[Subtitle, ...] = ()
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class TimedText:
    """Words and when they were said, in seconds of the video; `end_s` None where it is not known."""

    start_s: float
    text: str
    end_s: float | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was answered to an item.

    Attributes:
      text: the answer as it was written; of a choice what stands in the benchmark's prediction files (a letter).
      said: what was said while watching, in the order of time; () where nobody watched.
      tokens: video tokens that were spent on it; None where it is not known.
      facts: whatever else the benchmark's prediction format has, as JSON values (a choice's scores, both orders of a
        judge).
    """

    text: str = ""
    said: tuple[TimedText, ...] = ()
    tokens: int | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Answerer(Protocol):
    """A model that answers; a stage makes it (`stages.registry.Stage.make_answerer`)."""

    def answer(self, item: Item) -> Prediction:
        """The answer to an item.

        Raises:
          UnanswerableError: the model cannot be asked this (UnreadableVideoError: as long as its video is damaged).
          BenchmarkError: the item has no video.
        """


@dataclasses.dataclass(frozen=True)
class ItemScore:
    """An item's score under a rule.

    Attributes:
      key: of the item.
      value: most often 0 or 1; None where the rule leaves the item out.
      groups: of the item.
      unreadable: whether there was an answer that the rule could not read; it counts as wrong.
      shown: what a page shows of it: read answer, right answer, parts of the score.
    """

    key: str
    value: float | None
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unreadable: bool = False
    shown: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def mean_score(scores: Sequence[ItemScore]) -> float | None:
    """The mean of what is scored."""
    values = [score.value for score in scores if score.value is not None]
    return float(np.mean(values)) if values else None


def mean_of_draws(scores: Sequence[ItemScore], counts: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
    """`mean_score` of draws (see `Benchmark.aggregate_draws`)."""
    values = np.array([0.0 if score.value is None else score.value for score in scores])
    scored = np.array([score.value is not None for score in scores], float)
    return ratio(counts @ values, counts @ scored)


def ratio(total: Float[np.ndarray, "..."], number: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """`total / number`; NaN where the number is 0."""
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number != 0)


# Of items' scores, and of how often each item is in each draw, a figure of each draw; see `Benchmark.aggregate_draws`.
DrawsAggregate = Callable[[Sequence[ItemScore], Float[np.ndarray, "R N"]], Float[np.ndarray, "R"]]


# Answers whoever sees no video: of all items, predictions by key.
Control = Callable[[Sequence[Item]], Mapping[str, Prediction]]


class Benchmark(Protocol):
    """A benchmark; what `registry.find_benchmark` gives is a module with these names.

    Attributes:
      TITLE: a line on what it measures.
      RULES: names of rules, the first is used where none is named: "official", perhaps "lmms_eval" or one of our own.
      CONTROLS: blind ones, by name.
    """

    TITLE: str
    RULES: tuple[str, ...]
    CONTROLS: Mapping[str, Control]

    def load_items(self, root: Path) -> list[Item]:
        """The items of a folder in the benchmark's published layout; BenchmarkError where it is not one."""

    def read_predictions(self, path: Path, items: Sequence[Item]) -> dict[str, Prediction]:
        """Predictions in the benchmark's published format (a file, or a folder of files), by item; what names no item
        is a BenchmarkError. Items without one are left out, and are scored as unanswered.
        """

    def write_predictions(self, path: Path, items: Sequence[Item], predictions: Mapping[str, Prediction]) -> None:
        """Writes them so that `read_predictions`, and the benchmark's own scripts, read them."""

    def score(self, items: Sequence[Item], predictions: Mapping[str, Prediction], rule: str) -> list[ItemScore]:
        """Every item's score; one without a prediction is wrong."""

    def aggregate(self, scores: Sequence[ItemScore], rule: str) -> float | None:
        """The benchmark's one number. `mean_score` for most."""

    def aggregate_draws(self, scores: Sequence[ItemScore], counts: Float[np.ndarray, "R N"]) -> Float[np.ndarray, "R"]:
        """The same of R draws from N items at once, by how often each item is in each; NaN where there is nothing to
        say. `mean_of_draws` for most.
        """

    def figures(
        self, items: Sequence[Item], predictions: Mapping[str, Prediction], scores: Sequence[ItemScore], rule: str
    ) -> dict[str, Any]:
        """What else it reports, as JSON values by name: position bias, win rates by order, precision and recall. {} for
        most.
        """


def interval(
    scores: Sequence[ItemScore], aggregate: DrawsAggregate, *, seed: int = 0, resamples: int = _RESAMPLES
) -> tuple[float, float] | None:
    """The 95 % bootstrap interval of a figure, items drawn with replacement; None of fewer than two items.

    Args:
      scores: of all items.
      aggregate: the figure, of draws.
      seed: decides the draws.
      resamples: number of draws.
    """
    number = len(scores)
    if number < 2:
        return None
    rng, values = np.random.default_rng(seed), []
    at_once = max(1, _DRAWN_AT_ONCE // number)  # bounds the memory, and changes no draw
    for begin in range(0, resamples, at_once):
        draws = rng.integers(number, size=(min(at_once, resamples - begin), number))
        places = draws + number * np.arange(len(draws))[:, None]
        counts = np.bincount(places.ravel(), minlength=places.size).reshape(places.shape)
        values.append(aggregate(scores, counts.astype(float)))
    known = np.concatenate(values)
    known = known[~np.isnan(known)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)


def letter_of(number: int) -> str:
    """The letter of an option: "A" of 0."""
    return chr(ord("A") + number)


def written_choice(item: Item, number: int) -> str:
    """What stands in a benchmark's prediction files for an option of an item (`Prediction.text`): "A" of 0, or "Yes"
    where the benchmark writes words.
    """
    return item.choices[number] if item.choices else letter_of(number)
