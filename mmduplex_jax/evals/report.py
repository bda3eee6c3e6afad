"""All scores of a run, as JSON values and as a table that a person reads.

Where a clip lists its events, phrases are scored against these. Where it has words, as every captioned clip, the words
that are said are scored against them in the same way: each word, and each phrase (words without a pause between them),
is an event that whoever says the same in time has named.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import Word
from data_pipelines.words import utterances
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals.events import (
    CONTROLS,
    PHRASE_S,
    TWO_SECONDS,
    ClipScore,
    Event,
    Expected,
    Phrase,
    QuietScore,
    Window,
    control_phrases,
    f1_by_kind,
    f1_interval,
    f1_of_clips,
    false_alarms_per_quiet_minute,
    latency_s,
    score_clip,
    score_quiet,
)
from mmduplex_jax.evals.timing.scores import timing_scores
from mmduplex_jax.evals.timing.speakers import LATE_S, always_talking
from mmduplex_jax.evals.timing.utterances import PAUSE_S, WORD_S, Commentary, cut_words, moved

# When a word counts for the same word of a caption. Whoever wrote the caption was late, too: by how much is not known,
# so that a model may be a second earlier.
WORDS_WINDOW = Window(-1.0, 2.0)
_WORD = re.compile(r"[\w'’]+")


@dataclasses.dataclass(frozen=True)
class ClipResult:
    """One clip: what happened, what was said, what it cost. What a metric of stage `duplex` is given, one a clip.

    Attributes:
      duration_s: the clip's length.
      events: what happened, where the data list it.
      said: the model's phrases, read by the grammar of the world.
      oracle: the data's own phrases at the same delay.
      video_tokens: int32 `[T]`, tokens spent a tick.
      motion: float32 `[T]`, see `motion_by_tick`.
      key: of the record.
      words: the data's words, when they begin.
      spoken: the model's words, when they were said.
      oracle_words: the data's words, as they would be said at the same delay.
    """

    duration_s: float
    events: Sequence[Event]
    said: Sequence[Phrase]
    oracle: Sequence[Phrase]
    video_tokens: np.ndarray
    motion: np.ndarray
    key: str = ""
    words: Sequence[Word] = ()
    spoken: Sequence[Word] = ()
    oracle_words: Sequence[Word] = ()


def build_report(
    results: Sequence[ClipResult], clock: Clock, *, word_nll: float | None, seed: int, window: Window = TWO_SECONDS
) -> dict[str, Any]:
    """Every score as JSON values; what cannot be had (a latency without a match, event scores without events) is None.

    Args:
      results: one a clip; at least one.
      clock: of the clips.
      word_nll: teacher-forced, which needs the model.
      seed: of the control that talks at random.
      window: when a phrase counts for an event.

    Raises:
      ValueError: there are no clips, all are shorter than the window, or nothing is known to happen or be said in them.
    """
    if not results:
        raise ValueError("there are no clips to score")
    scored = [result for result in results if result.duration_s > max(window.latest_s, WORDS_WINDOW.latest_s)]
    if not scored:
        raise ValueError(
            f"no clip is longer than the {window.latest_s:g} s within which something counts as said in time: prepare "
            "longer clips"
        )
    if not any(result.events or result.words for result in scored):
        raise ValueError("these clips have neither words nor events, so nothing can be scored: prepare them with words")
    durations_s = [result.duration_s for result in scored]
    events = [result.events for result in scored]
    said, oracle = [result.said for result in scored], [result.oracle for result in scored]
    known = any(events)
    scores, summary = _score(events, durations_s, said, window)
    others = control_phrases(events, durations_s, said, oracle, seed)
    tokens = [result.video_tokens for result in results]
    quiet = _quiet(events, durations_s, said, window, PHRASE_S)
    return {
        **(summary if known else dict.fromkeys(summary)),
        "word_nll": word_nll,
        "tokens_per_s": tokens_per_s(tokens, clock),
        "tokens_per_s_by_motion_quartile": tokens_per_s_by_motion_quartile(
            tokens, [result.motion for result in results], clock
        ),
        "f1_by_kind": f1_by_kind(scores) if known else {},
        "spread": f1_interval(scores) if known else None,
        "controls": {name: _score(events, durations_s, others[name], window)[1] for name in CONTROLS if known},
        "words": _score_words(scored, seed) if any(result.words for result in scored) else None,
        "timing": _score_timing(scored, seed) if any(result.words for result in scored) else None,
        "clips": len(results),
        "clips_with_events": sum(bool(result.events) for result in results),
        "clips_too_short": len(results) - len(scored),
        "events": sum(score.events for score in scores),
        "phrases": sum(score.phrases for score in scores),
        "quiet_minutes": sum(score.quiet_s for score in quiet) / 60 if known else None,
        "window_s": [window.earliest_s, window.latest_s],
    }


def _score(
    events: Sequence[Sequence[Event]],
    durations_s: Sequence[float],
    said: Sequence[Sequence[Phrase]],
    window: Window,
    phrase_s: float = PHRASE_S,
) -> tuple[list[ClipScore], dict[str, Any]]:
    """Scores of each clip, and the columns of the table: what both the model and each control get."""
    scores = [score_clip(*clip, window) for clip in zip(events, said, durations_s, strict=True)]
    quiet = _quiet(events, durations_s, said, window, phrase_s)
    return scores, {
        **f1_of_clips(scores),
        **latency_s(scores),
        "false_alarms_per_quiet_minute": false_alarms_per_quiet_minute(quiet),
    }


def _quiet(
    events: Sequence[Sequence[Event]],
    durations_s: Sequence[float],
    said: Sequence[Sequence[Phrase]],
    window: Window,
    phrase_s: float,
) -> list[QuietScore]:
    return [score_quiet(*clip, window, phrase_s) for clip in zip(events, said, durations_s, strict=True)]


def _score_words(results: Sequence[ClipResult], seed: int) -> dict[str, Any]:
    """Scores against the clips' own words: of single words, and of phrases, each beside the controls."""
    found: dict[str, Any] = {"window_s": [WORDS_WINDOW.earliest_s, WORDS_WINDOW.latest_s]}
    durations_s = [result.duration_s for result in results]
    for unit, units, unit_s in (("word", _single_words, WORD_S), ("phrase", _phrases, PHRASE_S)):
        events = [[Expected(*one) for one in units(result.words)] for result in results]
        said, oracle = (
            [[Phrase(*one) for one in units(getattr(result, name))] for result in results]
            for name in ("spoken", "oracle_words")
        )
        others = control_phrases(events, durations_s, said, oracle, seed, unit_s)
        scores, summary = _score(events, durations_s, said, WORDS_WINDOW, unit_s)
        found[unit] = summary | {
            "expected": sum(score.events for score in scores),
            "said": sum(score.phrases for score in scores),
            "spread": f1_interval(scores),
            "controls": {name: _score(events, durations_s, others[name], WORDS_WINDOW, unit_s)[1] for name in CONTROLS},
        }
    return found


def _score_timing(results: Sequence[ClipResult], seed: int) -> dict[str, Any]:
    """Every timing metric (`docs/benchmarks.md`) of what is said against the clips' own words, beside the controls.

    Words are cut into utterances by the same rule on both sides: where sentences end, if the model's vocabulary can
    say so, and at pauses.
    """
    marked = any(word.ends_sentence for result in results for word in result.oracle_words)

    def cut(words: Sequence[Word]) -> Commentary:
        return cut_words(words if marked else [dataclasses.replace(word, ends_sentence=False) for word in words])

    reference, said, oracle = (
        [cut(getattr(result, name)) for result in results] for name in ("words", "spoken", "oracle_words")
    )
    durations_s = [result.duration_s for result in results]
    others: dict[str, Sequence[Commentary]] = {
        "oracle": oracle,
        "oracle_late_3s": [moved(clip, LATE_S) for clip in oracle],
        "other_clip": [*said[1:], said[0]] if len(said) > 1 else [()],
        "always_talking": always_talking(reference, durations_s, seed),
        "always_silent": [()] * len(results),
    }
    return {
        **timing_scores(said, reference, durations_s),
        "controls": {name: timing_scores(others[name], reference, durations_s) for name in CONTROLS},
    }


def _single_words(words: Sequence[Word]) -> list[tuple[str, float]]:
    return [(plain_word(word.text), word.start_s) for word in words]


def _phrases(words: Sequence[Word]) -> list[tuple[str, float]]:
    """Words that are said without a pause, with the time of the first."""
    return [
        (" ".join(plain_word(words[number].text) for number in phrase), words[phrase.start].start_s)
        for phrase in utterances(words, PAUSE_S)
    ]


def plain_word(text: str) -> str:
    """A word as it is compared: lower case, without punctuation; as it stands where it is nothing else."""
    return "".join(_WORD.findall(text.lower())) or text


_COLUMNS = (
    ("f1", "F1", ".3f"),
    ("precision", "precision", ".3f"),
    ("recall", "recall", ".3f"),
    ("latency_p50_s", "p50 s", ".2f"),
    ("latency_p95_s", "p95 s", ".2f"),
    ("false_alarms_per_quiet_minute", "false/quiet min", ".1f"),
)


def format_table(report: dict[str, Any], name: str = "model") -> str:
    """The report as aligned text; "-" where there is nothing to say."""
    quartiles = "  ".join(f"{tokens:.1f}" for tokens in report["tokens_per_s_by_motion_quartile"])
    tail = [
        f"word NLL {cell(report['word_nll'], '.3f')} nats a token (teacher-forced)",
        f"video tokens {report['tokens_per_s']:.1f} a second; in seconds from still to moving: {quartiles}",
    ]
    if report["timing"] is not None:
        tail.append(_timing_line(report["timing"]))
    if report["clips_too_short"]:
        tail.append(f"{report['clips_too_short']} clips are too short to be scored")
    words = report["words"]
    if not report["controls"]:
        lines = ["no clip lists its events: scored against the clips' own words"]
        for unit in ("word", "phrase"):
            lines += ["", aligned(_score_rows(words[unit], f"{name}, every {unit}")), "", _spread_line(words[unit])]
        return "\n".join([*lines, "", f"{report['clips']} clips", *tail])
    lines = [aligned(_score_rows(report, name)), ""]
    lines.append(
        f"{report['clips']} clips, {report['events']} events, {report['phrases']} phrases, "
        f"{report['quiet_minutes']:.1f} quiet minutes"
    )
    lines.append(_spread_line(report))
    if words is not None:
        lines.append(
            "against the clips' own words: "
            + ", ".join(
                f"{unit} F1 {words[unit]['f1']:.3f} (oracle {words[unit]['controls']['oracle']['f1']:.3f})"
                for unit in ("word", "phrase")
            )
        )
    kinds = [["event", "F1", "precision", "recall", "how many"]]
    for kind, scores in sorted(report["f1_by_kind"].items(), key=lambda item: -item[1]["f1"]):
        kinds.append(
            [kind, *(cell(scores[key], ".3f") for key in ("f1", "precision", "recall")), str(scores["events"])]
        )
    return "\n".join([*lines, *tail, "", aligned(kinds)])


def _score_rows(scores: dict[str, Any], name: str) -> list[list[str]]:
    rows = [["", *(title for _, title, _ in _COLUMNS)]]
    for label, values in [(name, scores), *scores["controls"].items()]:
        rows.append([label, *(cell(values[key], spec) for key, _, spec in _COLUMNS)])
    return rows


_TIMING_FIGURES = (
    ("TRACE", "trace", "score", ".3f"),
    ("PAUC", "pauc", "omega_0.5", ".3f"),
    ("StreamLAAL s", "stream_laal", "lag_s", ".2f"),
    ("TimeDiff s", "trigger", "time_diff_s", ".2f"),
    ("trigger kappa", "trigger", "kappa", ".2f"),
    ("silence", "pace", "silence", ".2f"),
)


def _timing_line(timing: Mapping[str, Any]) -> str:
    oracle = timing["controls"]["oracle"]
    figures = (
        f"{title} {cell(timing[metric][name], spec)} ({cell(oracle[metric][name], spec)})"
        for title, metric, name, spec in _TIMING_FIGURES
    )
    return f"in time (oracle): {', '.join(figures)}"


def _spread_line(scores: dict[str, Any]) -> str:
    spread = scores["spread"]
    return (
        f"F1 {scores['f1']:.3f}, {spread['level']:.0%} of resampled sets of clips within {spread['low']:.3f} to "
        f"{spread['high']:.3f}"
    )


def cell(value: float | None, spec: str, missing: str = "-") -> str:
    """A figure in a table; `missing` where there is none."""
    return missing if value is None else format(value, spec)


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right; a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


# Where the video tokens went: tokens a second, and whether seconds with more motion got more of them.


def motion_by_tick(frames: np.ndarray) -> np.ndarray:
    """Mean absolute change of luma since the tick before, in grey levels: float32 `[T]` of uint8 `[T, H, W, 3]`."""
    luma = frames.astype(np.float32).mean(axis=-1)
    change = np.abs(np.diff(luma, axis=0)).mean(axis=(1, 2))
    return np.concatenate([[0.0], change]).astype(np.float32)


def tokens_per_s(tokens: Sequence[np.ndarray], clock: Clock) -> float:
    """Video tokens a second over all clips, each int `[T]` a tick."""
    ticks = sum(len(clip) for clip in tokens)
    return sum(int(clip.sum()) for clip in tokens) / (ticks * clock.tick_s) if ticks else 0.0


def tokens_per_s_by_motion_quartile(
    tokens: Sequence[np.ndarray], motion: Sequence[np.ndarray], clock: Clock
) -> list[float]:
    """Mean tokens a second in the quarter of seconds with least motion, the next, and so on; four numbers.

    Args:
      tokens: of each clip, int `[T]` a tick.
      motion: of each clip, `motion_by_tick`.
      clock: which second a tick is in. The first second is left out: everything in it is new, moving or not.
    """
    spent, moved = [], []
    for clip_tokens, clip_motion in zip(tokens, motion, strict=True):
        second = np.array([int(clock.tick_time_s(tick)) for tick in range(len(clip_tokens))])
        for s in range(1, int(len(clip_tokens) * clock.tick_s)):
            inside = second == s
            # A second holds one tick more or less than the next where the rates do not divide: count by its ticks.
            spent.append(clip_tokens[inside].mean() / clock.tick_s)
            moved.append(clip_motion[inside].mean())
    order = np.argsort(moved, kind="stable")
    return [float(np.mean(part)) if len(part) else 0.0 for part in np.array_split(np.array(spent)[order], 4)]
