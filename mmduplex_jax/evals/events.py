"""Events against phrases: who said what happened, in time. Precision, recall, F1, and how sure of them we are.

**The rule.** A phrase names an event if every attribute is right and it starts within `Window` after it (0 to 2 s).
Each event takes at most one phrase and each phrase names at most one event, as many pairs as can be. A phrase that
says nothing readable is a wrong one.

**The end of a clip.** An event in the last two seconds may be too late to be named before the clip is over. So recall
is over the events that happen, and precision over the phrases that start, before the last `Window.latest_s` seconds;
what comes later serves only to match what came before (an event's phrase may start in it). Neither is flattered:
nothing that starts before the cut is forgiven, and nothing is asked for that could not be said.
"""

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

# Times are sums of float64 seconds: a phrase this close to a window's edge is on it.
_EPSILON_S = 1e-6
# Of F1: how much of what is resampled lies within its interval, and how many times clips are drawn.
_LEVEL, _RESAMPLES = 0.95, 1000


class Event(Protocol):
    """Something that is to be named: `data_pipelines.schema.Event`, or a word or phrase of a caption (`Expected`)."""

    @property
    def attributes(self) -> Hashable:
        """What a phrase must say."""

    @property
    def t_s(self) -> float:
        """When it happens, in seconds from the clip's first frame."""


class Expected(NamedTuple):
    """A word or phrase of a caption as an event: who says the same in time has named it."""

    attributes: Hashable
    t_s: float


@dataclasses.dataclass(frozen=True)
class Phrase:
    """Something said.

    Attributes:
      attributes: what it says happened, comparable with `Event.attributes`; None if it cannot be read.
      start_s: when its first word was known, on the stream's clock (with the delay), in seconds from the first frame.
      text: its words.
    """

    attributes: Hashable | None
    start_s: float
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Window:
    """When a phrase counts for an event: it starts `earliest_s` to `latest_s` after it."""

    earliest_s: float = 0.0
    latest_s: float = 2.0

    def __post_init__(self):
        if not self.earliest_s <= self.latest_s:
            raise ValueError(f"the window ends ({self.latest_s} s) before it starts ({self.earliest_s} s)")

    def holds(self, lateness_s: float) -> bool:
        return self.earliest_s - _EPSILON_S <= lateness_s <= self.latest_s + _EPSILON_S


TWO_SECONDS = Window()


@dataclasses.dataclass(frozen=True)
class ClipScore:
    """Counts of one clip, before its last `Window.latest_s` seconds.

    Attributes:
      events: events that happen.
      found: those of them that a phrase names.
      phrases: phrases that start.
      right: those of them that name an event.
      lateness_s: of each found event, phrase start minus event time.
      events_by_kind, found_by_kind, phrases_by_kind, right_by_kind: the same by the first attribute.
    """

    events: int
    found: int
    phrases: int
    right: int
    lateness_s: tuple[float, ...]
    events_by_kind: dict[str, int] = dataclasses.field(default_factory=dict)
    found_by_kind: dict[str, int] = dataclasses.field(default_factory=dict)
    phrases_by_kind: dict[str, int] = dataclasses.field(default_factory=dict)
    right_by_kind: dict[str, int] = dataclasses.field(default_factory=dict)


def match(events: Sequence[Event], phrases: Sequence[Phrase], window: Window) -> list[tuple[int, int]]:
    """Pairs `(event index, phrase index)`: a maximum one-to-one matching, ordered by event time.

    All windows are equally long, so among events with the same attributes the earlier one also closes earlier: giving
    each, in order of time, the earliest phrase that is left and not too early loses no pair.
    """
    waiting = collections.defaultdict(list)
    for j in sorted(range(len(phrases)), key=lambda j: phrases[j].start_s):
        if phrases[j].attributes is not None:
            waiting[phrases[j].attributes].append(j)
    pairs = []
    next_phrase: collections.Counter = collections.Counter()
    for i in sorted(range(len(events)), key=lambda i: events[i].t_s):
        attributes = events[i].attributes
        candidates = waiting.get(attributes, [])
        while next_phrase[attributes] < len(candidates):
            j = candidates[next_phrase[attributes]]
            lateness_s = phrases[j].start_s - events[i].t_s
            if lateness_s > window.latest_s + _EPSILON_S:
                break  # too late for this event, perhaps in time for a later one
            next_phrase[attributes] += 1
            if window.holds(lateness_s):
                pairs.append((i, j))
                break
    return pairs


def score_clip(
    events: Sequence[Event], phrases: Sequence[Phrase], duration_s: float, window: Window = TWO_SECONDS
) -> ClipScore:
    """Scores what was said about one clip.

    Args:
      events: what happened.
      phrases: what was said.
      duration_s: the clip's length; the rule for its end is in the module's docstring.
      window: when a phrase counts for an event.

    Raises:
      ValueError: if the clip is too short to hold one whole window.
    """
    cut_s = duration_s - window.latest_s
    if cut_s <= 0:
        raise ValueError(
            f"a clip of {duration_s} s is no longer than the window of {window.latest_s} s: use longer clips"
        )
    pairs = match(events, phrases, window)
    found = [(i, j) for i, j in pairs if events[i].t_s < cut_s]
    right = [(i, j) for i, j in pairs if phrases[j].start_s < cut_s]
    counted_events = [event for event in events if event.t_s < cut_s]
    counted_phrases = [phrase for phrase in phrases if phrase.start_s < cut_s]
    return ClipScore(
        events=len(counted_events),
        found=len(found),
        phrases=len(counted_phrases),
        right=len(right),
        lateness_s=tuple(phrases[j].start_s - events[i].t_s for i, j in found),
        events_by_kind=_by_kind(event.attributes for event in counted_events),
        found_by_kind=_by_kind(events[i].attributes for i, _ in found),
        phrases_by_kind=_by_kind(phrase.attributes for phrase in counted_phrases),
        right_by_kind=_by_kind(phrases[j].attributes for _, j in right),
    )


def _by_kind(attributes: Iterable[Hashable | None]) -> dict[str, int]:
    """How many have which first attribute; what could not be read has none."""
    return dict(collections.Counter(_kind(one) for one in attributes if one is not None))


def _kind(attributes: Hashable) -> str:
    return str(attributes[0]) if isinstance(attributes, tuple) and attributes else str(attributes)


def f1_of(events: int, found: int, phrases: int, right: int) -> dict[str, float]:
    """Precision, recall and F1 from counts; each is 0 where there is nothing to divide by."""
    precision = right / phrases if phrases else 0.0
    recall = found / events if events else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def f1_of_clips(scores: Sequence[ClipScore]) -> dict[str, float]:
    """Precision, recall and F1 over all clips together (each event and each phrase has the same weight)."""
    return f1_of(
        sum(score.events for score in scores),
        sum(score.found for score in scores),
        sum(score.phrases for score in scores),
        sum(score.right for score in scores),
    )


def f1_by_kind(scores: Sequence[ClipScore]) -> dict[str, dict[str, float]]:
    """For each kind of event that happened or was said: F1, precision, recall and the number of events."""
    totals: dict[str, collections.Counter] = {}
    for name in ("events", "found", "phrases", "right"):
        totals[name] = collections.Counter()
        for score in scores:
            totals[name].update(getattr(score, f"{name}_by_kind"))
    kinds = sorted(set(totals["events"]) | set(totals["phrases"]))
    return {
        kind: {**f1_of(*(totals[name][kind] for name in ("events", "found", "phrases", "right"))),
               "events": totals["events"][kind]}
        for kind in kinds
    }  # fmt: skip


def f1_interval(scores: Sequence[ClipScore]) -> dict[str, float]:
    """A bootstrap interval of F1: clips are drawn with replacement, since what happens within a clip hangs together.

    Args:
      scores: one a clip; at least one.

    Returns:
      `low`, `high`, and `level`, how much of the resampled F1 lies between them.
    """
    counts = np.array([[score.events, score.found, score.phrases, score.right] for score in scores], np.int64)
    draws = np.random.default_rng(0).integers(len(scores), size=(_RESAMPLES, len(scores)))
    resampled = [f1_of(*(int(n) for n in counts[draw].sum(axis=0)))["f1"] for draw in draws]
    low, high = np.quantile(resampled, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return {"low": float(low), "high": float(high), "level": _LEVEL}


# How soon after an event its phrase starts, and how often something is said when nothing happens.

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
    events: Sequence[Event], duration_s: float, window: Window, phrase_s: float = PHRASE_S, before_s: float = 0.0
) -> list[tuple[float, float]]:
    """Spans in which a phrase may start or go on, merged.

    Each is from `before_s` before an event to the end of its window and of a phrase.
    """
    merged: list[tuple[float, float]] = []
    for t_s in sorted(event.t_s for event in events):
        start_s, end_s = max(t_s - before_s, 0.0), min(t_s + window.latest_s + phrase_s, duration_s)
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
    before_s: float = 0.0,
) -> QuietScore:
    """Counts one clip's quiet seconds and the phrases that start in them, whatever they say; see `busy_spans_s`."""
    busy = busy_spans_s(events, duration_s, window, phrase_s, before_s)
    quiet_s = duration_s - sum(end_s - start_s for start_s, end_s in busy)
    inside = [phrase for phrase in phrases if 0 <= phrase.start_s < duration_s]
    alarms = sum(not any(start_s <= phrase.start_s < end_s for start_s, end_s in busy) for phrase in inside)
    return QuietScore(quiet_s, alarms)


def false_alarms_per_quiet_minute(scores: Sequence[QuietScore]) -> float | None:
    """Over all clips together; None where no second was quiet."""
    quiet_s = sum(score.quiet_s for score in scores)
    return 60.0 * sum(score.false_alarms for score in scores) / quiet_s if quiet_s > 0 else None


# Commentators whose worth is known beforehand; a score means something only beside theirs.
#
# oracle           the data's own commentator, packed into slots at the delay of the evaluation: what can be reached
# oracle_late_3s   the same three seconds later: right words at the wrong time are worth nothing
# other_clip       what the model said of another clip: what the words alone can guess
# always_talking   phrases drawn from this data's own events, back to back: what talking alone can guess
# always_silent    nothing

CONTROLS = ("oracle", "oracle_late_3s", "other_clip", "always_talking", "always_silent")
LATE_S = 3.0


def control_phrases(
    events: Sequence[Sequence[Event]],
    durations_s: Sequence[float],
    said: Sequence[Sequence[Phrase]],
    oracle: Sequence[Sequence[Phrase]],
    seed: int = 0,
    phrase_s: float = PHRASE_S,
) -> dict[str, list[list[Phrase]]]:
    """What each control says of each clip.

    Args:
      events: of each clip, what happened.
      durations_s: of each clip.
      said: what the model said of each clip.
      oracle: what the data's commentator said of each clip, timed as the model's phrases are.
      seed: of what `always_talking` says.
      phrase_s: how often it says something.

    Returns:
      For each of `CONTROLS`, the phrases of each clip. With a single clip, `other_clip` says nothing.
    """
    if not len(events) == len(durations_s) == len(said) == len(oracle):
        raise ValueError(f"clips differ in number: {len(events)}, {len(durations_s)}, {len(said)}, {len(oracle)}")
    clips = len(events)
    return {
        "oracle": [list(phrases) for phrases in oracle],
        "oracle_late_3s": [
            [Phrase(phrase.attributes, phrase.start_s + LATE_S, phrase.text) for phrase in phrases]
            for phrases in oracle
        ],
        "other_clip": [list(said[(i + 1) % clips]) if clips > 1 else [] for i in range(clips)],
        "always_talking": always_talking(events, durations_s, seed, phrase_s),
        "always_silent": [[] for _ in range(clips)],
    }


def always_talking(
    events: Sequence[Sequence[Event]], durations_s: Sequence[float], seed: int = 0, phrase_s: float = PHRASE_S
) -> list[list[Phrase]]:
    """A phrase every `phrase_s`, drawn as often as its event occurs in this data: the best guess without eyes."""
    rng = np.random.default_rng(seed)
    heard = [event.attributes for clip in events for event in clip]
    if not heard:
        return [[] for _ in events]
    said = []
    for duration_s in durations_s:
        starts_s = np.arange(0.0, duration_s, phrase_s)
        drawn = rng.integers(len(heard), size=len(starts_s))
        said.append([Phrase(heard[k], float(t_s)) for k, t_s in zip(drawn, starts_s)])
    return said
