"""How soon after an event its phrase starts, and how often something is said when nothing happens."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_pipelines.schema import Event
from mmduplex_jax.evals.events import TWO_SECONDS, ClipScore, Phrase, Window

# Five words at three words a second: how long a phrase about an event may still be going on after its window.
PHRASE_S = 1.5


@dataclasses.dataclass(frozen=True)
class QuietScore:
    """What was said in quiet time: seconds without an event's window or phrase, and phrases that start in them."""

    quiet_s: float
    false_alarms: int


def latency_s(scores: Sequence[ClipScore]) -> dict[str, float | None]:
    """Median and 95th percentile of phrase start minus event time over all named events; None where none is."""
    lateness_s = [late_s for score in scores for late_s in score.lateness_s]
    if not lateness_s:
        return {"latency_p50_s": None, "latency_p95_s": None}
    p50, p95 = np.percentile(lateness_s, [50, 95])
    return {"latency_p50_s": float(p50), "latency_p95_s": float(p95)}


def busy_spans_s(
    events: Sequence[Event], duration_s: float, window: Window, phrase_s: float = PHRASE_S
) -> list[tuple[float, float]]:
    """Spans in which a phrase may start or go on: from each event to the end of its window and of a phrase; merged."""
    merged: list[tuple[float, float]] = []
    for t_s in sorted(event.t_s for event in events):
        start_s, end_s = max(t_s, 0.0), min(t_s + window.latest_s + phrase_s, duration_s)
        if start_s >= end_s:
            continue
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end_s, merged[-1][1]))
        else:
            merged.append((start_s, end_s))
    return merged


def score_quiet(
    events: Sequence[Event],
    phrases: Sequence[Phrase],
    duration_s: float,
    window: Window = TWO_SECONDS,
    phrase_s: float = PHRASE_S,
) -> QuietScore:
    """Counts one clip's quiet seconds and the phrases that start in them, whatever they say."""
    busy = busy_spans_s(events, duration_s, window, phrase_s)
    quiet_s = duration_s - sum(end_s - start_s for start_s, end_s in busy)
    inside = [phrase for phrase in phrases if 0 <= phrase.start_s < duration_s]
    alarms = sum(not any(start_s <= phrase.start_s < end_s for start_s, end_s in busy) for phrase in inside)
    return QuietScore(quiet_s, alarms)


def false_alarms_per_quiet_minute(scores: Sequence[QuietScore]) -> float | None:
    """Over all clips together; None where no second was quiet."""
    quiet_s = sum(score.quiet_s for score in scores)
    return 60.0 * sum(score.false_alarms for score in scores) / quiet_s if quiet_s > 0 else None
