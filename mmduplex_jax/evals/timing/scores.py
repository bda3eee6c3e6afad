"""All timing metrics of many videos at once, as JSON values and as a table."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmduplex_jax.evals.timing.pace import pace_counts, pace_figures
from mmduplex_jax.evals.timing.pauc import pauc_scores, reply_areas
from mmduplex_jax.evals.timing.repetition import repetition_counts, repetition_figures
from mmduplex_jax.evals.timing.similarity import Similarity, lexical_similarity
from mmduplex_jax.evals.timing.stream_laal import commentary_lags_s, lag_scores
from mmduplex_jax.evals.timing.trace import trace_scores, trace_sums
from mmduplex_jax.evals.timing.trigger import trigger_counts, trigger_scores
from mmduplex_jax.evals.timing.utterances import Commentary

# Rows of the table: which metric, which of its figures, what it is called, how it is written, and whether more of it
# is better (+1), less (-1), or neither (0: to be held against the reference's own).
ROWS: tuple[tuple[str, str, str, str, int], ...] = (
    ("trace", "score", "TRACE", ".3f", 1),
    ("trace", "accuracy", "TRACE accuracy", ".3f", 1),
    ("trace", "timing", "TRACE timing", ".3f", 1),
    ("trace", "f1", "TRACE matching F1", ".3f", 1),
    ("pauc", "omega_0", "PAUC, ω 0", ".3f", 1),
    ("pauc", "omega_0.5", "PAUC, ω 0.5", ".3f", 1),
    ("pauc", "omega_1", "PAUC, ω 1", ".3f", 1),
    ("stream_laal", "lag_s", "StreamLAAL, s", ".2f", -1),
    ("stream_laal", "skipped", "sentences skipped", ".3f", -1),
    ("trigger", "time_diff_s", "TimeDiff, s", ".2f", -1),
    ("trigger", "f1", "trigger F1", ".3f", 1),
    ("trigger", "kappa", "trigger kappa", ".3f", 1),
    ("pace", "words_per_s", "words a second", ".2f", 0),
    ("pace", "silence", "silence", ".3f", 0),
    ("pace", "self_overlap", "self-overlap", ".3f", 0),
    ("repetition", "utterances", "repeated utterances", ".3f", 0),
    ("repetition", "four_words", "repeated four words", ".3f", 0),
)

# Figures this close are the same: times of words are rounded to a millionth of a second.
_SAME = 1e-5


def timing_scores(
    said: Sequence[Commentary],
    reference: Sequence[Commentary],
    durations_s: Sequence[float],
    similarity: Similarity = lexical_similarity,
) -> dict[str, dict[str, float | None]]:
    """Every metric over all videos together, by metric and figure; what cannot be had is None.

    Args:
      said: of each video, in the order of time.
      reference: what should have been said of each.
      durations_s: of each video.
      similarity: of texts, for TRACE.
    """
    videos = list(zip(said, reference, durations_s, strict=True))
    return {
        "trace": trace_scores([trace_sums(mine, theirs, similarity) for mine, theirs, _ in videos]),
        "pauc": pauc_scores([area for video in videos for area in reply_areas(*video)]),
        "stream_laal": lag_scores([lag_s for mine, theirs, _ in videos for lag_s in commentary_lags_s(mine, theirs)]),
        "trigger": trigger_scores([trigger_counts(*video) for video in videos]),
        "pace": pace_figures([pace_counts(mine, duration_s) for mine, _, duration_s in videos]),
        "repetition": repetition_figures([repetition_counts(mine) for mine, _, _ in videos]),
    }


def timing_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A table: a row a figure, a column for each of the speakers in `scores`; "-" where there is none."""
    rows = [["", *scores]]
    for metric, figure, title, spec, _ in ROWS:
        values = [one[metric][figure] for one in scores.values()]
        rows.append([title, *("-" if value is None else format(value, f"z{spec}") for value in values)])
    return rows


def won_by(
    scores: Mapping[str, Mapping[str, Any]], champion: str = "oracle", rivals: Sequence[str] | None = None
) -> dict[str, list[str]]:
    """For each figure that is a score, by its title: the speakers that are as good as another one, or better.

    Args:
      scores: `timing_scores` of each speaker.
      champion: the speaker that they are held against.
      rivals: who is; all others where they are not given.
    """
    found: dict[str, list[str]] = {}
    for metric, figure, title, _, sign in ROWS:
        best = scores[champion][metric][figure]
        if not sign:
            continue
        found[title] = []
        for name in scores if rivals is None else rivals:
            value = scores[name][metric][figure]
            if name != champion and value is not None and (best is None or sign * value >= sign * best - _SAME):
                found[title].append(name)
    return found
