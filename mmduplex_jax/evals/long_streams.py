"""Does a stream that has run for long speak as it did at first? Words, repetitions and events by window of time.

What there is to say differs from window to window, and a commentator repeats itself as well. So what the model says is
set against what the commentator says in the same window, and every window against the first.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.schema import Event
from mmduplex_jax.evals.events import TWO_SECONDS, Phrase, match
from mmduplex_jax.typing import Int

GRAM = 4
# What is counted of a stream in a window, in the order of the last axis of `Counts`.
COUNTED = ("said", "expected", "grams", "repeats", "expected_grams", "expected_repeats") + (
    "events", "found", "phrases", "right",
)  # fmt: skip
Counts = Int[np.ndarray, "B W 10"]
_RESAMPLINGS = 1000


class TimedText(NamedTuple):
    """A word and the stream's time that it is about."""

    text: str
    t_s: float


def repeated(words: Sequence[str], gram: int = GRAM) -> tuple[int, int]:
    """How many runs of `gram` words there are, and how many of them have stood there before."""
    runs = Counter(tuple(words[i : i + gram]) for i in range(len(words) - gram + 1))
    return runs.total(), runs.total() - len(runs)


def count(
    said: Sequence[TimedText],
    expected: Sequence[TimedText],
    events: Sequence[Event],
    phrases: Sequence[Phrase],
    window_s: float,
    windows: int,
) -> Int[np.ndarray, "W 10"]:
    """One stream's counts (`COUNTED`), by window.

    Args:
      said: the model's words, in order; a word's time is that of its picture (the delay taken off).
      expected: the commentator's.
      events: what happened.
      phrases: what the model's words make.
      window_s: length of a window.
      windows: how many; what is later is not counted. Neither are events and phrases so near to the end that their
        counterpart may be missing (`evals/events.py`).
    """
    counts = np.zeros((windows, len(COUNTED)), np.int64)
    for w in range(windows):
        here = [[word.text for word in words if w == int(word.t_s // window_s)] for words in (said, expected)]
        counts[w, :2] = len(here[0]), len(here[1])
        counts[w, 2:6] = *repeated(here[0]), *repeated(here[1])
    cut_s = window_s * windows - TWO_SECONDS.latest_s
    pairs = match(events, phrases, TWO_SECONDS)
    times_s = (
        [event.t_s for event in events],
        [events[i].t_s for i, _ in pairs],
        [phrase.start_s for phrase in phrases],
        [phrases[j].start_s for _, j in pairs],
    )
    for column, times in enumerate(times_s, start=6):
        for t_s in times:
            if 0 <= t_s < cut_s:
                counts[int(t_s // window_s), column] += 1
    return counts


def rates(counts: Int[np.ndarray, "... 10"]) -> dict[str, np.ndarray]:
    """What sums of counts make, not a number where there is nothing to divide by.

    Returns:
      `speech`, words said for a word expected; `repeats`, the share of repeated runs in what is said, for that share in
      what the commentator says; `f1`.
    """
    c = dict(zip(COUNTED, np.moveaxis(counts.astype(np.float64), -1, 0)))
    with np.errstate(divide="ignore", invalid="ignore"):
        share, expected = c["repeats"] / c["grams"], c["expected_repeats"] / c["expected_grams"]
        f1 = (c["found"] + c["right"]) / (c["events"] + c["phrases"])
        return {"speech": c["said"] / c["expected"], "repeats": share / expected, "f1": f1}


def report(counts: Counts, window_s: float, seed: int = 0) -> dict[str, Any]:
    """The windows, and how all after the first compare with the first.

    Args:
      counts: of every stream.
      window_s: length of a window.
      seed: of the resamplings.

    Returns:
      `windows`, a row each: words a second said and expected, their share of repeated 4-grams, F1, and `silent`, the
        streams that said nothing though something was to be said. `to_first`: `speech`, `repeats` and `f1` of every
        later window, and of all of them (`later`), for that of the first window, with the middle 95 % of what streams
        drawn anew with replacement give.
    """
    streams, windows = counts.shape[:2]
    total = counts.sum(axis=0)
    drawn = np.random.default_rng(seed).integers(0, streams, (_RESAMPLINGS, streams))
    resampled = counts[drawn].sum(axis=1)  # [resamplings, W, 10]

    def to_first(first: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
        a, b = rates(first), rates(other)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {name: b[name] / a[name] for name in a}

    def compared(window: slice) -> dict[str, Any]:
        value = to_first(total[0], total[window].sum(axis=0))
        spread = to_first(resampled[:, 0], resampled[:, window].sum(axis=1))
        return {
            name: {
                "value": _number(value[name]),
                "low": _percentile(spread[name], 2.5),
                "high": _percentile(spread[name], 97.5),
            }
            for name in value
        }

    rows = []
    for w, row in enumerate(total):
        c = dict(zip(COUNTED, row.tolist()))
        mute = (counts[:, w, 0] == 0) & (counts[:, w, 1] > 0)
        rows.append(
            {
                "from_s": w * window_s,
                "said_per_s": _number(c["said"] / (streams * window_s)),
                "expected_per_s": _number(c["expected"] / (streams * window_s)),
                "repeated_share": _number(c["repeats"] / max(c["grams"], 1)),
                "expected_repeated_share": _number(c["expected_repeats"] / max(c["expected_grams"], 1)),
                "f1": _number(rates(row)["f1"]),
                "silent": int(mute.sum()),
            }
        )
    return {
        "streams": streams,
        "windows": rows,
        "to_first": [compared(slice(w, w + 1)) for w in range(1, windows)],
        "later": compared(slice(1, windows)),
    }


def _number(value: Any) -> float | None:
    """Four digits; None for what is no number."""
    return round(float(value), 4) if np.isfinite(value) else None


def _percentile(values: np.ndarray, percent: float) -> float | None:
    """Of those that are numbers; None where none is."""
    finite = values[np.isfinite(values)]
    return _number(np.percentile(finite, percent)) if len(finite) else None
