"""Labelled events of real videos against phrases: which were named, how soon, and how much was said of nothing.

**The rule.** A phrase names an event if it says the right kind and class and starts from 0.75 s before to 2 s after the
label (labels are sure to half a second); each event takes one phrase and each phrase names one event, as many pairs as
can be. "appears" counts as "enters" and "vanishes" as "leaves": whether a thing came from behind something is nobody's
concern. Cars, trucks and buses are one class, `vehicle`, and have rows of their own beside it, in which a "car" is no
truck. Colour and side are scored on the pairs: of the labels that know one, how many were given it.

A second is **quiet** if a phrase that starts in it could name no label; each phrase that does so is a false alarm.

What happens in the last 2 s of a clip is not asked for, see `mmduplex_jax/evals/events.py`.

    report = score_real_events([LabelledClip(key, duration_s, events, phrases, view="side"), ...])
    print(format_real_events(report))

`real_events` is the same as a metric of stage `duplex` (`launch.evaluate --metrics`, `config.evals.metrics`).
"""

import collections
import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from data_pipelines.world import commentator, event_words
from mmduplex_jax.evals.events import (
    ClipScore,
    Event,
    Expected,
    Phrase,
    QuietScore,
    Window,
    f1_of,
    f1_of_clips,
    false_alarms_per_quiet_minute,
    match,
    score_clip,
    score_quiet,
)
from mmduplex_jax.evals.report import ClipResult, aligned, cell

REAL_WINDOW = Window(-0.75, 2.0)
SAME_KIND = {"appears": "enters", "vanishes": "leaves"}
VEHICLE = "vehicle"
VEHICLES = ("car", "truck", "bus")
_COMINGS_AND_GOINGS = ("enters", "leaves")
# Of the grammars of real events and of the world together, in words.
_LONGEST_PHRASE = 9
_LEVEL, _RESAMPLES = 0.95, 1000
# A phrase on the edge of a label's window names it, so that second is not quiet.
_EDGE_S = 1e-6


@dataclasses.dataclass(frozen=True)
class LabelledClip:
    """A clip, its labels, and what somebody said of it.

    Attributes:
      key: names the clip.
      duration_s: its length.
      events: its labels, as `event_words.make_event` makes them.
      said: phrases, `attributes` as `event_words.parse_phrase` reads them.
      view: how the camera looks at the scene; "" where nobody says.
      camera: its name; "" where nobody says.
    """

    key: str
    duration_s: float
    events: Sequence[Event]
    said: Sequence[Phrase]
    view: str = ""
    camera: str = ""


class TimedPhrase(Protocol):
    """What a control says: `data_pipelines.narrator.teacher.LivePhrase` has it."""

    @property
    def text(self) -> str:
        """A whole phrase."""

    @property
    def t_s(self) -> float:
        """When it begins to be said, in the video's seconds."""


class LiveControl(Protocol):
    """Something else that watches a video and says what happens, in the words of `event_words`; a teacher run live.

    It must be causal: a phrase depends on no picture that is later than its `t_s`.
    """

    @property
    def gflop(self) -> float | None:
        """Operations of all calls so far, in billions (a multiply-add is two); None where nobody counts."""

    def __call__(self, frames: Iterable[np.ndarray], times_s: Iterable[float]) -> Sequence[TimedPhrase]:
        """Watches one video from its begin.

        Args:
          frames: every picture in turn, RGB uint8 `[H, W, 3]`; they can be gone through once.
          times_s: when each is shown, in seconds from the first; taken in step with `frames`, neither is held.
        """


class Claim(NamedTuple):
    """What a label or a phrase says, in the classes and kinds that count as the same."""

    kind: str
    class_name: str
    group: str
    colour: str
    side: str


def claim_of(attributes: Any, classes: tuple[str, ...] = event_words.CLASSES) -> Claim:
    """Of the attributes `(kind, subject, detail)`; a subject that is none of real events keeps its last word."""
    kind, subject, side = attributes
    colour, class_name = event_words.split_subject(subject, classes) or subject.rpartition(" ")[::2]
    group = VEHICLE if class_name in VEHICLES else class_name
    return Claim(SAME_KIND.get(kind, kind), class_name, group, colour, side)


def read_phrases(words: Sequence[tuple[str, float]], classes: tuple[str, ...] = event_words.CLASSES) -> list[Phrase]:
    """The phrases in a running commentary, by the words of real events or else of the world, so that the kinds are
    scored also of a model that knows shapes only.

    Args:
      words: (text, seconds at which it was said), in order.
      classes: that may be named.
    """
    parse = lambda said: event_words.parse_phrase(said, classes) or commentator.parse_phrase(said)
    cut = commentator.cut_phrases(words, parse, range(_LONGEST_PHRASE, 1, -1))
    return [Phrase(attributes, start_s, text) for attributes, start_s, text in cut]


# One way to look at a claim: what must be the same for a phrase to name an event.
_Key = Callable[[Claim], Hashable | None]
_WHOLE: _Key = lambda claim: (claim.kind, claim.group)
_KIND: _Key = lambda claim: claim.kind
_CLASS: _Key = lambda claim: claim.group


class _Read(NamedTuple):
    """A clip with its claims; a phrase that cannot be read has None."""

    clip: LabelledClip
    events: list[Claim]
    phrases: list[Claim | None]

    def keyed_by(self, key: _Key) -> tuple[list[Expected], list[Phrase]]:
        """Events and phrases that have this key; phrases that cannot be read are kept, as wrong ones."""
        events = [
            Expected(key(claim), event.t_s)
            for claim, event in zip(self.events, self.clip.events)
            if key(claim) is not None
        ]
        phrases = [
            Phrase(None if claim is None else key(claim), phrase.start_s)
            for claim, phrase in zip(self.phrases, self.clip.said)
            if claim is None or key(claim) is not None
        ]
        return events, phrases

    def score(self, key: _Key) -> ClipScore:
        return score_clip(*self.keyed_by(key), self.clip.duration_s, REAL_WINDOW)

    def score_readable(self, key: _Key) -> ClipScore:
        """Without the phrases that cannot be read: they are of no row."""
        events, phrases = self.keyed_by(key)
        said = [phrase for phrase in phrases if phrase.attributes is not None]
        return score_clip(events, said, self.clip.duration_s, REAL_WINDOW)

    @property
    def quiet(self) -> QuietScore:
        before_s = _EDGE_S - REAL_WINDOW.earliest_s
        return score_quiet(self.clip.events, self.clip.said, self.clip.duration_s, REAL_WINDOW, _EDGE_S, before_s)


def _read(clip: LabelledClip, classes: tuple[str, ...]) -> _Read:
    events = [claim_of(event.attributes, classes) for event in clip.events]
    said = [None if phrase.attributes is None else claim_of(phrase.attributes, classes) for phrase in clip.said]
    return _Read(clip, events, said)


class Heard(NamedTuple):
    """Whether a phrase said, in time, an event's kind; and its kind and class."""

    kind: bool
    whole: bool


def heard_of(clip: LabelledClip, classes: tuple[str, ...] = event_words.CLASSES) -> list[Heard]:
    """What was said of each event of a clip, by the rule of `score_real_events`."""
    read = _read(clip, classes)
    kinds, wholes = ({event for event, _ in match(*read.keyed_by(key), REAL_WINDOW)} for key in (_KIND, _WHOLE))
    return [Heard(number in kinds, number in wholes) for number in range(len(clip.events))]


def score_real_events(
    clips: Sequence[LabelledClip],
    *,
    classes: tuple[str, ...] = event_words.CLASSES,
    seed: int = 0,
    resamples: int = _RESAMPLES,
) -> dict[str, Any]:
    """Every score as JSON values; None where there is nothing to divide by.

    Args:
      clips: at least one that is longer than the window.
      classes: that labels and phrases may name.
      seed: of the bootstrap.
      resamples: how many sets of as many clips are drawn.

    Returns:
      `f1`, `precision`, `recall` of kind and class; `f1_kind`, `f1_class` of either alone (with precision and recall
      each); `f1_comings_and_goings`, the kinds "enters" and "leaves" whatever the class;
      `false_alarms_per_quiet_minute`, `quiet_minutes`; `latency_p50_s`, `latency_p90_s`; `colour` and `side` (`labels`
      among the pairs that know one, `said`, `right`, `accuracy` = right / labels, `precision` = right / said);
      `classes`, `kinds`, `views`, `by_clip`: rows; `intervals`: of the main figures, clips drawn with replacement;
      and counts. Of the row of a kind the class does not count. `lines` of a clip are its labels and phrases in the
      order of time, a label and the phrase that names it in one.

    Raises:
      ValueError: no clip is long enough.
    """
    scored = [clip for clip in clips if clip.duration_s > REAL_WINDOW.latest_s]
    if not scored:
        raise ValueError(
            f"none of the {len(clips)} clips is longer than the {REAL_WINDOW.latest_s:g} s within which something "
            "counts as said in time, so nothing can be scored"
        )
    read = [_read(clip, classes) for clip in scored]
    return {
        **_summary(read),
        "colour": _named(read, lambda claim: claim.colour),
        "side": _named(read, lambda claim: claim.side),
        "classes": _class_rows(read),
        "kinds": _rows(read, lambda claim: claim.kind, lambda kind: lambda c: c.kind if c.kind == kind else None),
        "views": {
            view: {"clips": len(of_view), **_summary(of_view)}
            for view in sorted({one.clip.view for one in read})
            for of_view in [[one for one in read if one.clip.view == view]]
        },
        "by_clip": {
            one.clip.key: {"camera": one.clip.camera, "view": one.clip.view, **_summary([one]), "lines": _lines(one)}
            for one in read
        },
        "intervals": _intervals(read, seed, resamples),
        "clips": len(scored),
        "cameras": len({one.clip.camera for one in read}),
        "too_short": [clip.key for clip in clips if clip.duration_s <= REAL_WINDOW.latest_s],
        "window_s": [REAL_WINDOW.earliest_s, REAL_WINDOW.latest_s],
    }


def real_events(clips: Sequence[ClipResult]) -> dict[str, float | None]:
    """The metric of stage `duplex`: main figures of clips that list real events, by the words that a viewer sees."""
    report = score_real_events(
        [
            LabelledClip(
                clip.key,
                clip.duration_s,
                clip.events,
                read_phrases([(word.text, word.start_s) for word in clip.spoken]),
            )
            for clip in clips
        ],
        resamples=1,
    )
    return {
        name: report[name]
        for name in (
            "f1", "precision", "recall", "f1_kind", "f1_class", "false_alarms_per_quiet_minute", "latency_p50_s"
        )
    }  # fmt: skip


def _summary(read: Sequence[_Read]) -> dict[str, Any]:
    """The columns of every table."""
    whole, kind, of_class = ([one.score(key) for one in read] for key in (_WHOLE, _KIND, _CLASS))
    moves = [one.score_readable(lambda c: c.kind if c.kind in _COMINGS_AND_GOINGS else None) for one in read]
    quiet = [one.quiet for one in read]
    return {
        **f1_of_clips(whole),
        **{f"{name}_kind": value for name, value in f1_of_clips(kind).items()},
        **{f"{name}_class": value for name, value in f1_of_clips(of_class).items()},
        "f1_comings_and_goings": f1_of_clips(moves)["f1"],
        "false_alarms_per_quiet_minute": false_alarms_per_quiet_minute(quiet),
        "quiet_minutes": sum(score.quiet_s for score in quiet) / 60,
        **_latency_s(whole),
        "events": sum(score.events for score in whole),
        "phrases": sum(score.phrases for score in whole),
    }


def _latency_s(scores: Sequence[ClipScore]) -> dict[str, float | None]:
    lateness_s = [late_s for score in scores for late_s in score.lateness_s]
    p50, p90 = (float(np.percentile(lateness_s, q)) if lateness_s else None for q in (50, 90))
    return {"latency_p50_s": p50, "latency_p90_s": p90}


def _rows(
    read: Sequence[_Read], name: Callable[[Claim], str], key_of: Callable[[str], _Key]
) -> dict[str, dict[str, Any]]:
    """A row for each name that is labelled or said, the most labelled first; unreadable phrases are of no row."""
    claims = [claim for one in read for claim in (*one.events, *one.phrases) if claim is not None]
    rows: dict[str, dict[str, Any]] = {}
    for row in sorted({name(claim) for claim in claims}):
        scores = [one.score_readable(key_of(row)) for one in read]
        rows[row] = {
            **f1_of_clips(scores),
            **_latency_s(scores),
            "events": sum(score.events for score in scores),
            "phrases": sum(score.phrases for score in scores),
        }
    counted = {row: scores for row, scores in rows.items() if scores["events"] or scores["phrases"]}
    return dict(sorted(counted.items(), key=lambda item: item[1]["events"], reverse=True))


def _class_rows(read: Sequence[_Read]) -> dict[str, dict[str, Any]]:
    """Kind and class by class. Vehicles together first, then each by its own name."""

    def key_of(row: str) -> _Key:
        return lambda claim: claim.kind if row in (claim.class_name, claim.group) else None

    rows = _rows(read, lambda claim: claim.class_name, key_of)
    if any(name in rows for name in VEHICLES):
        rows = _rows(read, lambda claim: claim.group, key_of) | rows
    return dict(sorted(rows.items(), key=lambda item: (-item[1]["events"], item[0] != VEHICLE)))


def _named(read: Sequence[_Read], value: Callable[[Claim], str]) -> dict[str, Any]:
    """How often a pair's phrase says what its label knows."""
    labels = said = right = 0
    for one in read:
        events, phrases = one.keyed_by(_WHOLE)
        for i, j in match(events, phrases, REAL_WINDOW):
            phrase = one.phrases[j]
            if one.clip.events[i].t_s >= one.clip.duration_s - REAL_WINDOW.latest_s:
                continue
            assert phrase is not None  # what cannot be read has no pair
            true, named = value(one.events[i]), value(phrase)
            labels += bool(true)
            said += bool(true and named)
            right += bool(true and named == true)
    return {
        "labels": labels,
        "said": said,
        "right": right,
        "accuracy": right / labels if labels else None,
        "precision": right / said if said else None,
    }


def _lines(one: _Read) -> list[dict[str, Any]]:
    """A clip's labels and phrases in the order of time: `label`, `label_s`, `said`, `said_s`, None where not there."""
    pairs = match(*one.keyed_by(_WHOLE), REAL_WINDOW)
    named, naming = {i for i, _ in pairs}, {j for _, j in pairs}
    missed = [(i, None) for i in range(len(one.events)) if i not in named]
    wrong = [(None, j) for j in range(len(one.phrases)) if j not in naming]
    lines = []
    for i, j in (*pairs, *missed, *wrong):
        event = None if i is None else one.clip.events[i]
        phrase = None if j is None else one.clip.said[j]
        lines.append(
            {
                "label": None if event is None else _text_of(event),
                "label_s": None if event is None else event.t_s,
                "said": None if phrase is None else phrase.text,
                "said_s": None if phrase is None else phrase.start_s,
            }
        )
    return sorted(lines, key=lambda line: line["said_s"] if line["label_s"] is None else line["label_s"])


def _text_of(event: Event) -> str:
    kind, subject, detail = cast(tuple[str, str, str], event.attributes)
    return " ".join(filter(None, (subject, kind, detail)))


def _intervals(read: Sequence[_Read], seed: int, resamples: int) -> dict[str, Any]:
    """Bootstrap intervals over clips, since what happens within a clip hangs together."""
    by_key = {name: [one.score(key) for one in read] for name, key in (("f1", _WHOLE), ("f1_kind", _KIND))}
    counts = {
        name: np.array([[s.events, s.found, s.phrases, s.right] for s in scores]) for name, scores in by_key.items()
    }
    quiet = np.array([[one.quiet.quiet_s, one.quiet.false_alarms] for one in read])
    late_s = [np.array(score.lateness_s) for score in by_key["f1"]]
    draws = np.random.default_rng(seed).integers(len(read), size=(resamples, len(read)))
    figures: dict[str, list[float]] = collections.defaultdict(list)
    for draw in draws:
        for name, of_clips in counts.items():
            figures[name].append(f1_of(*(int(n) for n in of_clips[draw].sum(axis=0)))["f1"])
        quiet_s, alarms = quiet[draw].sum(axis=0)
        if quiet_s > 0:
            figures["false_alarms_per_quiet_minute"].append(60.0 * alarms / quiet_s)
        drawn_s = np.concatenate([late_s[i] for i in draw])
        if len(drawn_s):
            figures["latency_p50_s"].append(float(np.median(drawn_s)))
    ends = [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2]
    intervals: dict[str, Any] = {"level": _LEVEL, "resamples": resamples}
    for name in ("f1", "f1_kind", "false_alarms_per_quiet_minute", "latency_p50_s"):
        quantiles = np.quantile(figures[name], ends) if figures[name] else None
        intervals[name] = None if quantiles is None else {"low": float(quantiles[0]), "high": float(quantiles[1])}
    return intervals


_COLUMNS = (
    ("f1", "F1", ".3f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("f1_kind", "kind", ".3f"),
    ("f1_class", "class", ".3f"),
    ("false_alarms_per_quiet_minute", "false/quiet min", ".2f"),
    ("latency_p50_s", "p50 s", ".2f"),
    ("latency_p90_s", "p90 s", ".2f"),
    ("events", "events", "d"),
    ("phrases", "phrases", "d"),
)
_ROW_COLUMNS = tuple(column for column in _COLUMNS if column[0] not in ("f1_kind", "f1_class")
                     and not column[0].startswith("false"))  # fmt: skip


def format_real_events(report: Mapping[str, Any], name: str = "model") -> str:
    """The report of `score_real_events` as aligned text; `controls`, if it has any, are further rows."""
    rows = [(name, report), *report.get("controls", {}).items()]
    intervals = report["intervals"]
    within = ", ".join(
        f"{label} {_span(intervals[key], spec)}"
        for key, label, spec in (
            ("f1", "F1", ".3f"),
            ("f1_kind", "kind alone", ".3f"),
            ("false_alarms_per_quiet_minute", "false alarms", ".2f"),
            ("latency_p50_s", "p50", ".2f"),
        )
    )
    parts = [
        _table("", _COLUMNS, rows),
        f"{report['clips']} clips of {report['cameras']} cameras, {report['events']} events, "
        f"{report['quiet_minutes']:.1f} quiet minutes\n"
        f"{intervals['level']:.0%} of resampled sets of clips: {within}\n"
        f"comings and goings alone, whatever the class: F1 {report['f1_comings_and_goings']:.3f}\n"
        + "\n".join(_named_line(what, report[what]) for what in ("colour", "side")),
        _table("class", _ROW_COLUMNS, report["classes"].items()),
        _table("kind, whatever the class", _ROW_COLUMNS, report["kinds"].items()),
        _table("view", _COLUMNS, report["views"].items()),
    ]
    if report["too_short"]:
        parts.append(f"too short to be scored: {', '.join(report['too_short'])}")
    return "\n\n".join(parts)


def _table(title: str, columns: Sequence[tuple[str, str, str]], rows: Any) -> str:
    lines = [[title, *(label for _, label, _ in columns)]]
    lines += [[name or "-", *(cell(values[key], spec) for key, _, spec in columns)] for name, values in rows]
    return aligned(lines)


def _span(interval: Mapping[str, float] | None, spec: str) -> str:
    return "-" if interval is None else f"{interval['low']:{spec}} to {interval['high']:{spec}}"


def _named_line(what: str, named: Mapping[str, Any]) -> str:
    return (
        f"{what}: of {named['labels']} named events that know one, {named['right']} were given it "
        f"({cell(named['accuracy'], '.3f')}); it was said of {named['said']} (right: {cell(named['precision'], '.3f')})"
    )
