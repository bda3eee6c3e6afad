"""Windows: the stretches of a long video that become clips, and which of them a word belongs to.

Times are kept on a grid of whole microseconds. There sums are exact, so that the stretches of speech of neighbouring
windows meet without a gap and without a word that falls into both.
"""

import dataclasses
import math
from collections.abc import Sequence

from data_pipelines.schema import Word

_GRID_HZ = 1_000_000


@dataclasses.dataclass(frozen=True)
class Window:
    """A stretch of a file.

    Attributes:
      number: counts the windows of a file from 0.
      start_s, end_s: in the file's time; its end is not in it.
      words_from_s: from the window's start on; speech before it belongs to an earlier window that overlaps this one.
    """

    number: int
    start_s: float
    end_s: float
    words_from_s: float = 0.0

    def __post_init__(self):
        if not 0 <= self.words_from_s <= self.duration_s:
            raise ValueError(f"words_from_s must lie in the window, got {self}")

    @property
    def duration_s(self) -> float:
        return _seconds(_on_grid(self.end_s) - _on_grid(self.start_s))

    @property
    def words_begin_s(self) -> float:
        """From when on, in the file's time, speech belongs to this window."""
        return _seconds(_on_grid(self.start_s) + _on_grid(self.words_from_s))


def cut_windows(begin_s: float, end_s: float, window_s: float, overlap_s: float, shortest_s: float) -> list[Window]:
    """Cuts `[begin_s, end_s)` into windows that cover all of it.

    Each is `window_s` long and begins `overlap_s` before the end of the one before. The last is as long as what is
    left, but at least `shortest_s`, for which it may begin earlier. Each moment is in the speech of exactly one window.

    Returns:
      The windows in order; none where there is less than `shortest_s`.

    Raises:
      ValueError: the lengths contradict each other.
    """
    if not (0 < shortest_s <= window_s and 0 <= overlap_s < window_s):
        raise ValueError(
            f"windows need 0 < shortest_s <= window_s and 0 <= overlap_s < window_s, got window_s={window_s}, "
            f"overlap_s={overlap_s}, shortest_s={shortest_s}"
        )
    begin, end, shortest = _on_grid(begin_s), _on_grid(end_s), _on_grid(shortest_s)
    length, overlap = _on_grid(window_s), _on_grid(overlap_s)
    if shortest < 1 or length <= overlap:
        raise ValueError("windows and what is new in each must be at least a microsecond long")
    windows: list[Window] = []
    covered = begin
    while covered < end and end - begin >= shortest:
        start = begin if not windows else covered - overlap
        stop = min(start + length, end)
        start = min(start, stop - shortest)
        windows.append(Window(len(windows), _seconds(start), _seconds(stop), _seconds(covered - start)))
        covered = stop
    return windows


def words_of(words: Sequence[Word], window: Window) -> tuple[Word, ...]:
    """The words whose start is in the window's stretch of speech, with times from the window's start on."""
    start, end = _on_grid(window.start_s), _on_grid(window.end_s)
    words_begin = start + _on_grid(window.words_from_s)
    return tuple(
        dataclasses.replace(
            word,
            start_s=_seconds(_on_grid(word.start_s) - start),
            end_s=None if word.end_s is None else _seconds(_on_grid(word.end_s) - start),
        )
        for word in words
        if words_begin <= _on_grid(word.start_s) < end
    )


def words_outside(words: Sequence[Word], windows: Sequence[Window]) -> tuple[Word, ...]:
    """The words whose start is in no window's stretch of speech, with their times in the file."""
    spans = [(_on_grid(window.words_begin_s), _on_grid(window.end_s)) for window in windows]
    return tuple(word for word in words if not any(begin <= _on_grid(word.start_s) < end for begin, end in spans))


def _on_grid(time_s: float) -> int:
    if not math.isfinite(time_s):
        raise ValueError(f"a time must be finite, got {time_s}")
    return round(time_s * _GRID_HZ)


def _seconds(count: int) -> float:
    return count / _GRID_HZ
