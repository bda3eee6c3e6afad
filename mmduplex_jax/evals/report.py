"""All scores of a run, as JSON values and as a table that a person reads."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.schema import Event
from mmduplex_jax.clock import Clock
from mmduplex_jax.evals import controls, spending
from mmduplex_jax.evals.events import (
    TWO_SECONDS,
    ClipScore,
    Phrase,
    Window,
    f1_by_kind,
    f1_interval,
    f1_of_clips,
    score_clip,
)
from mmduplex_jax.evals.timing import QuietScore, false_alarms_per_quiet_minute, latency_s, score_quiet


@dataclasses.dataclass(frozen=True)
class ClipResult:
    """One clip: what happened, what was said, what it cost.

    Attributes:
      duration_s: the clip's length.
      events: what happened.
      said: the model's phrases.
      oracle: the commentator's own phrases at the same delay.
      video_tokens: int32 `[T]`, tokens spent a tick.
      motion: float32 `[T]`, see `spending.motion_by_tick`.
    """

    duration_s: float
    events: Sequence[Event]
    said: Sequence[Phrase]
    oracle: Sequence[Phrase]
    video_tokens: np.ndarray
    motion: np.ndarray


def build_report(
    results: Sequence[ClipResult], clock: Clock, *, word_nll: float | None, seed: int, window: Window = TWO_SECONDS
) -> dict[str, Any]:
    """Every score as JSON values; what cannot be had (a latency without a match) is None.

    Args:
      results: one a clip; at least one.
      clock: of the clips.
      word_nll: from `teacher_forced`, which needs the model.
      seed: of the control that talks at random.
      window: when a phrase counts for an event.

    Raises:
      ValueError: there are no clips, or nothing ever happens in them.
    """
    if not results:
        raise ValueError("there are no clips to score")
    if not any(result.events for result in results):
        raise ValueError(
            "no event is known in any of these clips, so nothing can be found: event scores need data that lists its "
            "events, as the built-in world's does (--data=world)"
        )
    said = [result.said for result in results]
    events = [result.events for result in results]
    scores, summary = _scored(results, said, window)
    others = controls.control_phrases(
        events, [result.duration_s for result in results], said, [result.oracle for result in results], seed
    )
    tokens = [result.video_tokens for result in results]
    return {
        **summary,
        "word_nll": word_nll,
        "tokens_per_s": spending.tokens_per_s(tokens, clock),
        "tokens_per_s_by_motion_quartile": spending.tokens_per_s_by_motion_quartile(
            tokens, [result.motion for result in results], clock
        ),
        "f1_by_kind": f1_by_kind(scores),
        "spread": f1_interval(scores),
        "controls": {name: _scored(results, others[name], window)[1] for name in controls.NAMES},
        "clips": len(results),
        "events": sum(score.events for score in scores),
        "phrases": sum(score.phrases for score in scores),
        "quiet_minutes": sum(quiet.quiet_s for quiet in _quiet(results, said, window)) / 60,
        "window_s": [window.earliest_s, window.latest_s],
    }


def _scored(
    results: Sequence[ClipResult], said: Sequence[Sequence[Phrase]], window: Window
) -> tuple[list[ClipScore], dict[str, Any]]:
    """Scores of each clip, and the columns of the table: what both the model and each control get."""
    scores = [score_clip(result.events, phrases, result.duration_s, window) for result, phrases in zip(results, said)]
    return scores, {
        **f1_of_clips(scores),
        **latency_s(scores),
        "false_alarms_per_quiet_minute": false_alarms_per_quiet_minute(_quiet(results, said, window)),
    }


def _quiet(results: Sequence[ClipResult], said: Sequence[Sequence[Phrase]], window: Window) -> list[QuietScore]:
    return [score_quiet(result.events, phrases, result.duration_s, window) for result, phrases in zip(results, said)]


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
    rows = [["", *(title for _, title, _ in _COLUMNS)]]
    for label, scores in [(name, report), *report["controls"].items()]:
        rows.append([label, *(_cell(scores[key], spec) for key, _, spec in _COLUMNS)])
    kinds = [["event", "F1", "precision", "recall", "how many"]]
    for kind, scores in sorted(report["f1_by_kind"].items(), key=lambda item: -item[1]["f1"]):
        kinds.append(
            [kind, *(_cell(scores[key], ".3f") for key in ("f1", "precision", "recall")), str(scores["events"])]
        )
    spread = report["spread"]
    quartiles = "  ".join(f"{tokens:.1f}" for tokens in report["tokens_per_s_by_motion_quartile"])
    return "\n".join(
        [
            _aligned(rows),
            "",
            f"{report['clips']} clips, {report['events']} events, {report['phrases']} phrases, "
            f"{report['quiet_minutes']:.1f} quiet minutes",
            f"F1 {report['f1']:.3f}, {spread['level']:.0%} of resampled sets of clips within "
            f"{spread['low']:.3f} to {spread['high']:.3f}",
            f"word NLL {_cell(report['word_nll'], '.3f')} nats a token (teacher-forced)",
            f"video tokens {report['tokens_per_s']:.1f} a second; in seconds from still to moving: {quartiles}",
            "",
            _aligned(kinds),
        ]
    )


def _cell(value: float | None, spec: str) -> str:
    return "-" if value is None else format(value, spec)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """First column to the left, the others to the right; a rule under the first row."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
