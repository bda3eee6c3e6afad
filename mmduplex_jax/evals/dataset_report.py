"""What is in a dataset, in numbers: lengths, words, motion, tokens that would be spent, and where it all comes from."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from data_pipelines.schema import Record
from mmduplex_jax.clock import Clock
from mmduplex_jax.tokenizer.config import TokenizerConfig
from mmduplex_jax.tokenizer.token_plan import plan_clip

# Clips are filled up to whole multiples of this, so that few lengths are compiled.
_ROUND_TICKS = 25
_PERCENTILES = (5, 25, 50, 75, 95)
# Shifts of this many plane pixels a tick, and more, are counted together.
_FASTEST = 5


@dataclasses.dataclass(frozen=True)
class ClipFacts:
    """What is measured of one clip.

    Attributes:
      key: names it.
      duration_s: of its video.
      words: how many.
      words_per_s: over the time in which it would have words (see `Record.words_from_s`); 0 where there is none.
      timing, language, license: as the record has them.
      source: of its provenance, "" where it does not say.
      has_caption, has_audio, has_motion: whether the record has one.
      tokens: int `[T, 2]`, an anchor's tokens and flow tokens that each tick would spend; None where it is not asked.
      shifts: int `[_FASTEST + 1]`, cells by how far they move apart from the camera, in plane pixels a tick.
      camera_moves: share of ticks in which the picture shifts as a whole.
      residual: mean of what is left after the best match, in grey levels a pixel.
    """

    key: str
    duration_s: float
    words: int
    words_per_s: float
    timing: str
    language: str
    license: str
    source: str
    has_caption: bool
    has_audio: bool
    has_motion: bool
    tokens: np.ndarray | None
    shifts: np.ndarray
    camera_moves: float
    residual: float


def clip_facts(record: Record, motion: np.ndarray, tokens: np.ndarray | None) -> ClipFacts:
    """Measures a clip.

    Args:
      record: the clip.
      motion: its field, int8 `[T, Y, X, 4]` as `mmduplex_jax.tokenizer.motion_field.MotionField` gives it.
      tokens: see `ClipFacts.tokens`.
    """
    duration_s = record.clock.tick_time_s(record.num_ticks)
    speech_s = max(duration_s - record.words_from_s, 0.0)
    shifts, camera_moves = _shifts(motion)
    return ClipFacts(
        key=record.key,
        duration_s=duration_s,
        words=len(record.words),
        words_per_s=len(record.words) / speech_s if speech_s else 0.0,
        timing=record.timing,
        language=record.language,
        license=record.license,
        source=str(record.provenance.get("source", "")),
        has_caption=bool(record.caption),
        has_audio=record.audio is not None,
        has_motion=record.motion is not None,
        tokens=tokens,
        shifts=shifts,
        camera_moves=camera_moves,
        residual=float(motion[1:, ..., 2].mean()) if len(motion) > 1 else 0.0,
    )


def _shifts(motion: np.ndarray) -> tuple[np.ndarray, float]:
    """Cells by their shift apart from the camera's, and the share of ticks in which the camera moves."""
    if len(motion) < 2:
        return np.zeros(_FASTEST + 1, np.int64), 0.0  # the first tick has nothing to be compared with
    vectors = motion[1:, ..., :2].astype(np.int64).reshape(len(motion) - 1, -1, 2)
    camera = np.partition(vectors, vectors.shape[1] // 2, axis=1)[:, vectors.shape[1] // 2]  # the upper median
    own = np.abs(vectors - camera[:, None]).max(axis=-1)
    return np.bincount(np.minimum(own, _FASTEST).ravel(), minlength=_FASTEST + 1), float(camera.any(axis=1).mean())


def token_counter(config: TokenizerConfig) -> Callable[[np.ndarray], np.ndarray]:
    """A function from frames uint8 `[T, H, W, 3]` to tokens int `[T, 2]` (an anchor's, flow) that would be spent.

    Where tokens are spent is decided without parameters, so an untrained tokenizer spends as a trained one does.
    """

    @jax.jit
    def count(frames):
        plan = plan_clip(frames, config)
        return plan.anchor * config.anchor_tokens, plan.flow.sum(axis=-1)

    def tokens(frames: np.ndarray) -> np.ndarray:
        ticks = -(-len(frames) // _ROUND_TICKS) * _ROUND_TICKS
        # What comes after a tick does not change it.
        filled = np.concatenate([frames, np.repeat(frames[-1:], ticks - len(frames), axis=0)])
        return np.stack(count(filled), axis=-1)[: len(frames)]

    return tokens


def most_in_a_second(tokens: np.ndarray, clock: Clock) -> int:
    """The most tokens in any half-open second, of int `[T]` a tick."""
    window = min(clock.ticks_in_a_second, len(tokens))
    return int(np.convolve(tokens, np.ones(window, np.int64)).max())


def distribution(values: Sequence[float], bins: int = 12) -> dict[str, Any]:
    """Mean, range, percentiles and a histogram of numbers, as JSON values; at least one number."""
    array = np.asarray(values, np.float64)
    counts, edges = np.histogram(array, bins=bins)
    return {
        "mean": float(array.mean()),
        "min": float(array.min()),
        "max": float(array.max()),
        **{f"p{p}": float(value) for p, value in zip(_PERCENTILES, np.percentile(array, _PERCENTILES))},
        "histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
    }


def measured(facts: Sequence[ClipFacts], clock: Clock, plane_px: int, cap: int | None) -> dict[str, Any]:
    """The numbers of the clips that were looked at, as JSON values.

    Args:
      facts: of each; at least one.
      clock: of the dataset.
      plane_px: side of the plane in which motion was matched.
      cap: tokens that the tokenizer may spend in a second; None where they were not counted.

    Raises:
      ValueError: there are no clips.
    """
    if not facts:
        raise ValueError("there are no clips to measure")
    duration_s = sum(clip.duration_s for clip in facts)
    shifts = np.sum([clip.shifts for clip in facts], axis=0)
    return {
        "clips": len(facts),
        "hours": duration_s / 3600,
        "length_s": distribution([clip.duration_s for clip in facts]),
        "words_per_s": distribution([clip.words_per_s for clip in facts]),
        "without_words": sum(clip.words == 0 for clip in facts),
        "timing": _counted(clip.timing for clip in facts),
        "language": _counted(clip.language or "not said" for clip in facts),
        "with_caption": sum(clip.has_caption for clip in facts),
        "with_audio": sum(clip.has_audio for clip in facts),
        "with_motion": sum(clip.has_motion for clip in facts),
        "origin": [
            {"source": source or "not said", "license": license_ or "not said", "clips": count}
            for (source, license_), count in Counter((clip.source, clip.license) for clip in facts).most_common()
        ],
        "motion": {
            "plane_px": plane_px,
            "cells_by_shift": (shifts / max(int(shifts.sum()), 1)).tolist(),
            "camera_moves": float(np.average([c.camera_moves for c in facts], weights=[c.duration_s for c in facts])),
            "residual": distribution([clip.residual for clip in facts]),
        },
        "tokens": _spending(facts, clock, cap),
    }


def _spending(facts: Sequence[ClipFacts], clock: Clock, cap: int | None) -> dict[str, Any] | None:
    spent = [clip.tokens for clip in facts if clip.tokens is not None]
    if not spent:
        return None
    duration_s = sum(len(tokens) for tokens in spent) * clock.tick_s
    anchors, flow = sum(tokens.sum(axis=0) for tokens in spent).tolist()
    return {
        "per_s": (anchors + flow) / duration_s,
        "anchor_per_s": anchors / duration_s,
        "flow_per_s": flow / duration_s,
        "most_in_a_second": max(most_in_a_second(tokens.sum(axis=1), clock) for tokens in spent),
        "cap": cap,
        "clips_per_s": distribution([float(tokens.sum()) / (len(tokens) * clock.tick_s) for tokens in spent]),
    }


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
