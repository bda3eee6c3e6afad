"""A stream on a server that is used as a session on this machine is, by programs that block."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import numpy as np

from mmduplex_jax.client import Heard, Status, Stream, StreamLost, Word, connect, info
from mmduplex_jax.clock import Clock
from mmduplex_jax.commentator import Delays
from mmduplex_jax.frame_size import FrameSize, fit_of, frame_size
from mmduplex_jax.streaming.slot import NO_TOKENS, SpentTokens, TickResult
from mmduplex_jax.streaming.sound import SoundPiece
from mmduplex_jax.word_decoder import TimedWord

Result = TypeVar("Result")
# A server that sends nothing for so long is stuck.
_ANSWER_S = 60.0
_HELLO_S = 30.0
# Times this close are one.
_SAME_S = 1e-6


@dataclasses.dataclass(frozen=True)
class RemoteCommentator:
    """The model of a server, as `mmduplex_jax.commentator.Commentator` is one of this machine.

    Attributes:
      token: that it asks for.
      realtime: whether its streams are.
    """

    url: str
    token: str | None
    realtime: bool
    name: str
    fingerprint: str
    clock: Clock
    frame_px: FrameSize
    fit: str
    tokens_per_s_max: int
    delays: Delays
    sample_rate_hz: int | None

    def session(
        self, delay_steps: int | None = None, pad_bias: float = 0.0, *, speaking: bool = False
    ) -> "RemoteSession":
        """A stream on the server; ConnectionError where it refuses one."""
        return RemoteSession(self, self.delays.chosen(delay_steps), pad_bias, speaking=speaking)


def remote_commentator(url: str, token: str | None, *, realtime: bool) -> RemoteCommentator:
    """Asks a server for its model.

    Raises:
      ConnectionError: there is no server, or it refuses.
      ValueError: no http address.
    """
    facts = asyncio.run(info(url, token))
    delay = facts["delay_steps"]
    return RemoteCommentator(
        url,
        token,
        realtime,
        name=f"{facts['model']} at {url}",
        # (Servers of before did not say.)
        fingerprint=facts.get("fingerprint", ""),
        clock=Clock(facts["clock"]["step_hz"], facts["clock"]["video_stride"]),
        frame_px=frame_size(facts["frame_px"]),
        fit=fit_of(facts),
        tokens_per_s_max=facts["tokens_per_s_max"],
        delays=Delays(delay["min"], delay["max"], delay["default"]),
        sample_rate_hz=facts.get("sample_rate_hz"),
    )


class RemoteSession:
    """`streaming.pool.Session`'s methods, carried out by a server.

    In real time a tick is sent and whatever has come is taken; else each tick waits for its answer. Pictures go without
    loss, so that the words are those that a session here would say.

    Attributes:
      clock: of the server's model.
      compile_s: 0: the server has compiled.
      error: what kept `finish` from the stream's end; None where it came.
    """

    def __init__(self, model: RemoteCommentator, delay_steps: int, pad_bias: float, *, speaking: bool = False):
        """Connects; ConnectionError where the server refuses the stream."""
        self.clock, self.compile_s = model.clock, 0.0
        self._realtime = model.realtime
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="client", daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        connecting = connect(
            model.url,
            token=model.token,
            mode="live" if model.realtime else "file",
            delay_steps=delay_steps,
            pad_bias=pad_bias,
            sound="pcm16" if speaking else None,
            client="launch.commentate",
        )
        self._words: list[TimedWord] = []
        self._sound: list[SoundPiece] = []
        self._status: Status | None = None
        # Of the last word, or of a tick after it; and the word's number.
        self._scene_s: float | None = None
        self._seq = 0
        self._finished = False
        self.error: ConnectionError | None = None
        try:
            self._stream: Stream = self._run(self._stack.enter_async_context(connecting)).result(_HELLO_S)
        except BaseException:
            self._stop()
            raise

    def tick(self, t_s: float, frame: np.ndarray) -> TickResult:
        """Shows a tick's frame, uint8 [H, W, 3] of the model; ConnectionError where the server ended the stream."""
        started_s = time.perf_counter()
        self._run(self._stream.send(t_s, frame)).result(_ANSWER_S)
        wait_s = 0.0 if self._realtime else _ANSWER_S
        status = self._run(self._until(t_s, wait_s)).result()
        if status is None and not self._realtime:
            raise StreamLost(f"no answer to the tick at {t_s:.2f} s came in {_ANSWER_S:g} s")
        step_ms = (time.perf_counter() - started_s) * 1e3 / self.clock.video_stride
        # (In real time a status may be of an earlier tick; each counts once.)
        self._status = None
        words, sound, self._sound = self._take_words(), tuple(self._sound), []
        return TickResult(words, _tokens(status), [step_ms] * self.clock.video_stride, sound, self._scene_s)

    def finish(self) -> list[TimedWord]:
        """The words that were still to come, or those until it broke (see `error`); ends stream and connection."""
        if self._finished:
            return []
        self._finished = True
        try:
            self._run(self._to_the_end()).result(_ANSWER_S)
        except ConnectionError as error:
            self.error = error
        except TimeoutError:
            self.error = StreamLost(f"the stream's end did not come in {_ANSWER_S:g} s")
        finally:
            self._stop()
        return self._take_words()

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> "Future[Result]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    async def _until(self, t_s: float, wait_s: float) -> Status | None:
        """Takes events up to the status of a tick, or, in real time, what is there."""
        try:
            async with asyncio.timeout(wait_s):
                while self._status is None or self._status.t_video_s < t_s - _SAME_S:
                    self._take(await anext(self._stream))
        except TimeoutError:
            return self._status if self._realtime else None
        return self._status

    async def _to_the_end(self) -> None:
        await self._stream.end()
        async for event in self._stream:
            self._take(event)

    def _take(self, event: Any) -> None:
        if isinstance(event, Word):
            self._words.append(TimedWord(*event[1:]))
            self._scene_s, self._seq = event.scene_s, event.seq
        elif isinstance(event, Heard):
            self._sound.append(SoundPiece(event.t_s, event.step, event.samples))
        elif isinstance(event, Status):
            self._status = event
            # (The status of a tick may come after a word of the next one, which may be of another scene. Servers of
            # before did not say which words are of before it.)
            if event.seq is None:
                is_later = self._scene_s is None or event.t_video_s >= self._scene_s
            else:
                is_later = event.seq >= self._seq
            if is_later:
                self._scene_s = event.scene_s

    def _take_words(self) -> list[TimedWord]:
        words, self._words = self._words, []
        return words

    def _stop(self) -> None:
        self._run(self._stack.aclose()).result(_HELLO_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _tokens(status: Status | None) -> SpentTokens:
    if status is None or not status.tokens:
        return NO_TOKENS
    places = np.asarray(status.places, np.int32).reshape(-1, 4)
    return SpentTokens(status.tokens, status.anchor, places[:, :2], places[:, 2], places[:, 3])
