"""A seat in a pool, as its owner sees it: frames are offered to it, and what was said is taken from it."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from mmduplex_jax.streaming.place import Place, StreamOutput, WaitingFrame
from mmduplex_jax.streaming.rows import check_frame

# Outputs that wait for somebody who does not take them; beyond it the oldest are merged.
_OUTPUTS_MAX = 256


class SeatEnded(RuntimeError):
    """The seat was left, its listener failed, or its pool has stopped."""


class Outputs:
    """The outputs of a seat, for a thread that takes them when it likes; iterates to the end of the seat.

    Nobody is waited for: beyond a bound the two oldest are merged. Words are kept, all of them; of the tokens, which
    are shown and forgotten, the later ones.
    """

    def __init__(self, waiting_max: int = _OUTPUTS_MAX):
        self._waiting: deque[StreamOutput] = deque()
        self._waiting_max = waiting_max
        self._changed = threading.Condition()
        self._ended = False

    def put(self, output: StreamOutput) -> None:
        """Adds an output."""
        with self._changed:
            self._waiting.append(output)
            if len(self._waiting) > self._waiting_max:
                oldest, next_one = self._waiting.popleft(), self._waiting.popleft()
                self._waiting.appendleft(next_one._replace(words=oldest.words + next_one.words))
            self._changed.notify()

    def end(self) -> None:
        """Says that nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def get(self, timeout_s: float | None = None) -> StreamOutput | None:
        """The oldest output, waiting for one; None at the end of the seat.

        Raises:
          TimeoutError: none came in `timeout_s`.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._waiting) or self._ended, timeout_s):
                raise TimeoutError(f"no output in {timeout_s} s")
            return self._waiting.popleft() if self._waiting else None

    def __iter__(self) -> Iterator[StreamOutput]:
        while (output := self.get()) is not None:
            yield output

    def __len__(self) -> int:
        return len(self._waiting)


class Seat:
    """One stream in a pool. Everything may be called from any thread, and nothing waits for the model.

    Attributes:
      outputs: what it says, where no `on_output` was given to `StreamPool.join`.
    """

    def __init__(
        self,
        place: Place,
        outputs: Outputs,
        frame_px: int,
        changed: threading.Condition,
        now: Callable[[], float],
    ):
        self.outputs = outputs
        self._place, self._frame_px, self._changed, self._now = place, frame_px, changed, now

    def offer(self, t_s: float, frame: np.ndarray) -> None:
        """A tick's frame. Never blocks; the frame is not copied and must not be written to afterwards.

        A paused seat ignores it. On a live seat the oldest waiting frame is dropped where more wait than the policy's
        lag allows.

        Args:
          t_s: the tick's time in the stream; later than the last one's.
          frame: uint8 `[frame_px, frame_px, 3]`.

        Raises:
          ValueError: for another shape, or a time that is not later than the last one's.
          SeatEnded: it was left, or the pool has stopped.
          BufferError: as many frames wait as may, and the seat is not live (see `room`).
        """
        check_frame(frame, self._frame_px)
        with self._changed:
            place = self._here()
            if place.paused:
                return
            if not (math.isfinite(t_s) and t_s > place.last_t_s):
                raise ValueError(f"times must be finite and rise: {t_s} s came after {place.last_t_s} s")
            if not place.live and len(place.waiting) >= place.waiting_max:
                raise BufferError(f"{len(place.waiting)} frames wait: offer more when there is `room`")
            place.add(WaitingFrame(t_s, frame, self._now()))
            self._changed.notify()

    @property
    def room(self) -> int:
        """How many frames may be offered before one is dropped or, on a seat that is not live, refused."""
        with self._changed:
            return self._place.waiting_max - len(self._place.waiting)

    def pause(self) -> None:
        """From now on frames are ignored and the stream stands still; those that wait are still looked at."""
        with self._changed:
            self._here().paused = True
            self._changed.notify()

    def resume(self) -> None:
        """Ends a pause; the stream goes on where it stood."""
        with self._changed:
            self._here().paused = False
            self._changed.notify()

    def reset(self) -> None:
        """Begins another stream: frames that wait are let go, the open word is said, nothing else stays."""
        with self._changed:
            place = self._here()
            place.waiting.clear()
            place.last_t_s, place.reset_wanted = -math.inf, True
            self._changed.notify()

    def configure(self, *, delay_steps: int | None = None, pad_bias: float | None = None) -> None:
        """Sets the delay or the bias from the next tick on; ValueError for what cannot be."""
        check_settings(delay_steps, pad_bias)
        with self._changed:
            place = self._here()
            place.delay_steps = place.delay_steps if delay_steps is None else delay_steps
            place.pad_bias = place.pad_bias if pad_bias is None else pad_bias

    def leave(self, *, drain: bool = False) -> None:
        """Gives the place back; the open word is said as the last output. A second call does nothing.

        Args:
          drain: look first at the frames that wait.
        """
        with self._changed:
            self._place.leaving = True
            if not drain:
                self._place.waiting.clear()
            self._changed.notify()

    @property
    def ended(self) -> bool:
        """Whether the last output was given."""
        return self._place.ended.is_set()

    def wait_ended(self, timeout_s: float | None = None) -> bool:
        """Waits for the last output; False where it did not come in time."""
        return self._place.ended.wait(timeout_s)

    @property
    def dropped_frames(self) -> int:
        return self._place.dropped

    @property
    def error(self) -> Exception | None:
        """What the listener raised, if that ended the seat."""
        return self._place.error

    def _here(self) -> Place:
        if self._place.leaving or self.ended:
            raise SeatEnded("this seat was left, or its pool has stopped: join again") from self._place.error
        return self._place


def check_settings(delay_steps: int | None, pad_bias: float | None) -> None:
    """Raises ValueError for a delay or a bias that cannot be."""
    if delay_steps is not None and delay_steps < 0:
        raise ValueError(f"delay_steps must not be negative, got {delay_steps}")
    if pad_bias is not None and not math.isfinite(pad_bias):
        raise ValueError(f"pad_bias must be finite, got {pad_bias}")
