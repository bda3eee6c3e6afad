"""A metric of somebody's own, as CONTRIBUTING.md has it."""

from collections.abc import Sequence

from mmduplex_jax.evals.report import ClipResult


def longest_silence(clips: Sequence[ClipResult]) -> dict[str, float | None]:
    """The longest time in which nothing is said, in seconds."""
    gaps_s = []
    for clip in clips:
        times_s = [0.0, *(word.start_s for word in clip.spoken), clip.duration_s]
        gaps_s += [after - before for before, after in zip(times_s, times_s[1:])]
    return {"max_s": max(gaps_s) if gaps_s else None, "clips": float(len(clips))}
