"""A pool that says what a test tells it to, in a thread of its own as the real one, without a model."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np

from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Delays
from mmduplex_jax.streaming.pool import PoolFull
from mmduplex_jax.streaming.slot import NO_TOKENS, SpentTokens, StreamEnded, StreamOutput
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.word_decoder import TimedWord

FACTS = SimpleNamespace(
    name="a scripted model",
    fingerprint="5" * 64,
    clock=Clock(),
    frame_px=(32, 32),
    fit="crop",
    tokens_per_s_max=64,
    sample_rate_hz=None,
    delays=Delays(least=0, most=4, usual=3),
)
VOICED = SimpleNamespace(**vars(FACTS) | {"sample_rate_hz": 16_000})
TOKENS = SpentTokens(
    2, False, np.array([[3, 4], [20, 21]], np.int32), np.array([16, 16], np.int32), np.zeros(2, np.int32)
)

Says = Callable[[int, np.ndarray], list[str]]


def a_word_a_tick(tick: int, frame: np.ndarray) -> list[str]:
    """The number of the tick."""
    return [f"w{tick}"]


def tone(step: int) -> np.ndarray:
    """The sound of a step: 500 Hz, in phase with the step before, a little over a quarter of full scale."""
    times_s = np.arange(1280) / VOICED.sample_rate_hz
    return (0.3 * np.sin(2 * np.pi * 500 * times_s)).astype(np.float32)


class ScriptedSeat:
    """Answers each frame with two steps; the words come with the second. One that is heard says a tone all the time."""

    def __init__(
        self, pool: "ScriptedPool", on_output, on_end, live: bool, delay_steps: int, pad_bias: float, speaking: bool
    ):
        self._pool, self._on_output, self._on_end = pool, on_output, on_end
        self.speaking = speaking
        self.live, self.delay_steps, self.pad_bias = live, delay_steps, pad_bias
        self.frames: list[tuple[float, np.ndarray]] = []
        self.calls: list[str] = []
        self._step = self._seq = 0
        self._waiting = 0
        self._scene_s: float | None = None
        self.most_waiting = 0
        self.left = self.paused = False

    def offer(self, t_s: float, frame: np.ndarray) -> None:
        if self.left:
            raise StreamEnded("this seat was left")
        assert frame.shape == (*self._pool.frame_px, 3)
        assert frame.dtype == np.uint8
        if self.paused:
            return
        if not self.live and self._waiting >= self._pool.waiting_max:
            raise BufferError(f"{self._waiting} frames wait")
        assert not self.frames or "reset" in self.calls or t_s > self.frames[-1][0]
        self.frames.append((t_s, frame))
        self._waiting += 1
        self.most_waiting = max(self.most_waiting, self._waiting)
        self._pool.thread.submit(self._answer, t_s, frame)

    def _answer(self, t_s: float, frame: np.ndarray) -> None:
        self._pool.may_go.wait()
        tick = self._seq // 2
        step_s = Clock().step_s
        self._waiting -= 1
        if tick in self._pool.cuts:
            self._scene_s, self._step = t_s, 0
        self._output(t_s, [], TOKENS)
        said = [TimedWord(text, t_s, t_s + step_s, *self._of_word()) for text in self._pool.says(tick, frame)]
        self._output(t_s + step_s, said, NO_TOKENS)

    def _output(self, t_s: float, words: list[TimedWord], tokens: SpentTokens) -> None:
        sound = ()
        if self.speaking:
            made = self._pool.sounds
            sound = (SoundPiece(t_s + Clock().step_s, self._step, tone(self._step) * made, left_out=not made),)
        lag_s, dropped = self._pool.lag_s, self._pool.dropped
        output = StreamOutput(self._seq, t_s, words, tokens, self._step, lag_s, dropped, sound, False, self._scene_s)
        self._on_output(output)
        self._seq += 1
        self._step += 1

    def _of_word(self) -> tuple[bool | None, float | None]:
        return self._pool.ends_sentence, self._scene_s

    def pause(self) -> None:
        self.paused = True
        self.calls.append("pause")

    def resume(self) -> None:
        self.paused = False
        self.calls.append("resume")

    def reset(self, on_begun: Callable[[], None]) -> None:
        self.calls.append("reset")
        self._pool.thread.submit(self._begin_anew, on_begun)

    def _begin_anew(self, on_begun: Callable[[], None]) -> None:
        self._scene_s = None
        on_begun()

    def configure(
        self, *, delay_steps: int | None = None, pad_bias: float | None = None, speaking: bool | None = None
    ) -> None:
        if speaking is not None:
            self.speaking = speaking
            self.calls.append(f"speak {speaking}")
            return
        self.calls.append(f"configure {delay_steps} {pad_bias}")

    def leave(self, *, drain: bool = False) -> None:
        if not self.left:
            self.left = True
            self.calls.append(f"leave {drain}")
            self._pool.thread.submit(self._end)

    def _end(self) -> None:
        if self._pool.last_word:
            word = TimedWord(self._pool.last_word, 1.0, 2.0, *self._of_word())
            self._on_output(StreamOutput(self._seq, 2.0, [word], NO_TOKENS, self._step, 0.0, 0, is_end=True))
        self._pool.seats.remove(self)
        self._on_end()


class ScriptedPool:
    """Attributes: `seats` that are taken, `all_seats` that ever were, `may_go` (cleared, the model is stuck), `sounds`
    (False, sound gives way), `cuts` (ticks, of all that a seat answers, with which a scene begins, and steps anew),
    `ends_sentence` (what all words say of it).
    """

    def __init__(self, slots: int = 8, says: Says = a_word_a_tick, last_word: str = ""):
        self.slots, self.says, self.last_word = slots, says, last_word
        self.seats: list[ScriptedSeat] = []
        self.all_seats: list[ScriptedSeat] = []
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="steps")
        self.may_go = threading.Event()
        self.may_go.set()
        self.running = self.sounds = True
        self.full_reason = "full"
        self.lag_s, self.dropped, self.turn_s = 0.01, 0, 0.0
        self.cuts: set[int] = set()
        self.ends_sentence: bool | None = None
        self.waiting_max = 100
        self.frame_px = FACTS.frame_px

    def join(self, *, delay_steps, pad_bias, live, on_output, on_end, speaking) -> ScriptedSeat:
        if len(self.seats) >= self.slots:
            raise PoolFull(self.full_reason, f"all {self.slots} seats are taken: try again later")
        seat = ScriptedSeat(self, on_output, on_end, live, delay_steps, pad_bias, speaking)
        self.seats.append(seat)
        self.all_seats.append(seat)
        return seat

    def statistics(self):
        return SimpleNamespace(
            sessions=len(self.seats), slots=self.slots, running=self.running, rung=0, load=0.25, lag_s=0.5,
            tokens_per_s=12.0, dropped_frames=3, cuts=2, recompilations=0, step_s_sum=0.125,
            step_s_buckets=[("0.01", 4.0), ("+Inf", 5.0)], speaking=sum(seat.speaking for seat in self.seats),
            unheard=0, turn_s=self.turn_s, admits=True,
        )  # fmt: skip

    def close(self) -> None:
        self.may_go.set()
        self.thread.shutdown()
