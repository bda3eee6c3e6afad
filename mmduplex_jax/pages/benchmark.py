"""The page of `launch.benchmark`: scores with their intervals, and questions with frames, answers and tokens spent."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.geometry import rgb_of
from data_pipelines.moments import pictures_at
from mmduplex_jax.evals.benchmarks.protocol import UNANSWERABLE, Item, ItemScore, Prediction, written_choice
from mmduplex_jax.evals.benchmarks.runner import format_report
from mmduplex_jax.pages import Page, jpeg, render

# Where in what was watched the frames are from, and how large they are.
_SHARES = (0.1, 0.5, 0.9)
_FRAME_PX = 240
_QUALITY = 80


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A question as the page shows it.

    Attributes:
      answer: as it was written; "" where there is none.
      verdict: "right", "wrong" …, in words, since colour alone is not for everybody.
      shown: the score's parts (`ItemScore.shown`).
      said: lines of what was said while watching.
      frames: JPEG files and their times.
    """

    item: Item
    options: Sequence[tuple[str, str]]
    answer: str
    verdict: str
    tokens: int | None
    shown: Mapping[str, Any]
    said: Sequence[str]
    why: str
    frames: Sequence[tuple[float, bytes]]


def benchmark_page(
    report: Mapping[str, Any],
    items: Sequence[Item],
    predictions: Mapping[str, Prediction],
    scores: Sequence[ItemScore],
    *,
    shown: int,
) -> Page:
    """The page of a report of `runner.make_report`.

    Args:
      report: with `benchmark` and `answered_by`.
      items, predictions: that were scored.
      scores: of the items, in their order.
      shown: questions that it has at most, spread evenly over all.

    Raises:
      VideoError: a video of a question that is shown cannot be read.
    """
    chosen = np.unique(np.linspace(0, len(items) - 1, min(shown, len(items))).astype(int)).tolist()
    asked = [_asked(items[number], predictions.get(items[number].key), scores[number]) for number in chosen]
    title = f"{report['benchmark']}: {report['answered_by']}"
    return render("benchmark.html", title, report=report, table=format_report(report), asked=asked)


def _asked(item: Item, prediction: Prediction | None, score: ItemScore) -> _Asked:
    given = prediction or Prediction()
    verdict = {None: "not scored", 0.0: "wrong", 1.0: "right"}.get(score.value, f"{score.value or 0.0:.2f}")
    if prediction is None:
        verdict += ", not answered"
    elif UNANSWERABLE in given.facts:
        verdict += ", could not be asked"
    elif score.unreadable:
        verdict += ", could not be read"
    return _Asked(
        item,
        [(written_choice(item, number), option) for number, option in enumerate(item.options)],
        given.text,
        verdict,
        given.tokens,
        score.shown,
        [f"{one.start_s:.1f} s: {one.text}" for one in given.said],
        str(given.facts.get(UNANSWERABLE, "")),
        _frames(item),
    )


def _frames(item: Item) -> list[tuple[float, bytes]]:
    """A few pictures of what was watched until the question; none where there is no video or nobody says how long."""
    if item.video is None:
        return []
    end_s = item.duration_s if item.asked_s is None else item.asked_s
    if end_s is None:
        return []
    times_s = [item.begin_s + share * (end_s - item.begin_s) for share in _SHARES]
    found = []
    for picture in pictures_at(item.video, item.video.name, times_s)[0]:
        small = rgb_of(picture.frame, *_fitting(picture.frame.width, picture.frame.height))
        found.append((picture.t_s, jpeg(picture.orientation.apply(small), _QUALITY)))
    return found


def _fitting(width_px: int, height_px: int) -> tuple[int, int]:
    """The size of a thumbnail."""
    scale = min(1.0, _FRAME_PX / max(width_px, height_px))
    return max(2, round(width_px * scale)), max(2, round(height_px * scale))
